package core

import (
	"context"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
)

// ServiceAccount is the row of serviceaccounts, with the token subresource where deps can issue tokens.
func ServiceAccount(deps registry.Deps) registry.Resource {
	row := registry.Resource{
		GVK: corev1.SchemeGroupVersion.WithKind("ServiceAccount"), Name: "serviceaccounts", Singular: "serviceaccount", ShortNames: []string{"sa"}, Namespaced: true,
		Strategy: registry.Strategy{
			PrepareForCreate: registry.Prepare(keepSecretNames),
			PrepareForUpdate: registry.PrepareUpdate(func(sa, _ *corev1.ServiceAccount) { keepSecretNames(sa) }),
			Validate: registry.Validate(func(sa *corev1.ServiceAccount) field.ErrorList {
				return apivalidation.ValidateObjectMeta(&sa.ObjectMeta, true, apivalidation.ValidateServiceAccountName, field.NewPath("metadata"))
			}),
			ValidateUpdate: registry.ValidateUpdate(func(sa, old *corev1.ServiceAccount) field.ErrorList {
				return apivalidation.ValidateObjectMetaUpdate(&sa.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
			}),
			ReturnDeleted:       true,
			UnconditionalUpdate: true,
		},
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(), registry.Column("Secrets", "Number of secrets the account refers to"), registry.AgeColumn(),
			},
			Cells: registry.Cells(func(sa *corev1.ServiceAccount) []any {
				return []any{sa.Name, int64(len(sa.Secrets)), registry.Age(sa.CreationTimestamp)}
			}),
		},
	}
	if deps.CreateToken != nil {
		row.Subresources = []registry.Subresource{{
			Name: "token", Kind: authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"), Verbs: []string{"create"},
			Create: func(ctx context.Context, namespace, name string, body runtime.Object, _ bool) (runtime.Object, error) {
				return deps.CreateToken(ctx, namespace, name, body.(*authenticationv1.TokenRequest))
			},
		}}
	}
	return row
}

// keepSecretNames reduces the references to secrets to their names: nothing else of them has a meaning.
func keepSecretNames(sa *corev1.ServiceAccount) {
	for i := range sa.Secrets {
		sa.Secrets[i] = corev1.ObjectReference{Name: sa.Secrets[i].Name}
	}
}
