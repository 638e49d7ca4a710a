package coordination

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
)

// Lease is the row of leases.
func Lease() registry.Resource {
	return registry.Resource{
		GVK: coordinationv1.SchemeGroupVersion.WithKind("Lease"), Name: "leases", Singular: "lease", Namespaced: true,
		Strategy: registry.Strategy{
			Validate: registry.Validate(validateLease),
			ValidateUpdate: registry.ValidateUpdate(func(l, old *coordinationv1.Lease) field.ErrorList {
				errs := apivalidation.ValidateObjectMetaUpdate(&l.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
				return append(errs, validateLeaseSpec(&l.Spec, field.NewPath("spec"))...)
			}),
			CreateOnUpdate: true,
		},
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(), registry.Column("Holder", "Who holds the lease"), registry.AgeColumn(),
			},
			Cells: registry.Cells(func(l *coordinationv1.Lease) []any {
				holder := ""
				if l.Spec.HolderIdentity != nil {
					holder = *l.Spec.HolderIdentity
				}
				return []any{l.Name, holder, registry.Age(l.CreationTimestamp)}
			}),
		},
	}
}

func validateLease(l *coordinationv1.Lease) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&l.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	return append(errs, validateLeaseSpec(&l.Spec, field.NewPath("spec"))...)
}

func validateLeaseSpec(spec *coordinationv1.LeaseSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if spec.LeaseDurationSeconds != nil && *spec.LeaseDurationSeconds <= 0 {
		errs = append(errs, field.Invalid(path.Child("leaseDurationSeconds"), *spec.LeaseDurationSeconds, "must be greater than 0"))
	}
	if spec.LeaseTransitions != nil && *spec.LeaseTransitions < 0 {
		errs = append(errs, field.Invalid(path.Child("leaseTransitions"), *spec.LeaseTransitions, "must be greater than or equal to 0"))
	}
	if spec.PreferredHolder != nil && *spec.PreferredHolder != "" && (spec.Strategy == nil || *spec.Strategy == "") {
		errs = append(errs, field.Forbidden(path.Child("preferredHolder"), "may only be specified when `strategy` is defined"))
	}
	return errs
}
