package authentication

import (
	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/mini-k8s/mini/apiserver/registry"
)

// Reviews are the rows of the reviews that deps can answer.
func Reviews(deps registry.Deps) []registry.Resource {
	var rows []registry.Resource
	for _, row := range []registry.Resource{
		{GVK: authenticationv1.SchemeGroupVersion.WithKind("SelfSubjectReview"), Name: "selfsubjectreviews", Singular: "selfsubjectreview"},
		{GVK: authenticationv1.SchemeGroupVersion.WithKind("TokenReview"), Name: "tokenreviews", Singular: "tokenreview"},
	} {
		if row.Create = registry.Answer(deps.Review[row.GVK.Kind]); row.Create != nil {
			row.Verbs = []string{"create"}
			rows = append(rows, row)
		}
	}
	return rows
}
