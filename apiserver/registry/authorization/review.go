package authorization

import (
	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/mini-k8s/mini/apiserver/registry"
)

// Reviews are the rows of the reviews that deps can answer.
func Reviews(deps registry.Deps) []registry.Resource {
	v1 := authorizationv1.SchemeGroupVersion
	var rows []registry.Resource
	for _, row := range []registry.Resource{
		{GVK: v1.WithKind("LocalSubjectAccessReview"), Name: "localsubjectaccessreviews", Singular: "localsubjectaccessreview", Namespaced: true},
		{GVK: v1.WithKind("SelfSubjectAccessReview"), Name: "selfsubjectaccessreviews", Singular: "selfsubjectaccessreview"},
		{GVK: v1.WithKind("SelfSubjectRulesReview"), Name: "selfsubjectrulesreviews", Singular: "selfsubjectrulesreview"},
		{GVK: v1.WithKind("SubjectAccessReview"), Name: "subjectaccessreviews", Singular: "subjectaccessreview"},
	} {
		if row.Create = registry.Answer(deps.Review[row.GVK.Kind]); row.Create != nil {
			row.Verbs = []string{"create"}
			rows = append(rows, row)
		}
	}
	return rows
}
