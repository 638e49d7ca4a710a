package admissionregistration

import (
	"context"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

var actions = []admissionv1.ValidationAction{admissionv1.Audit, admissionv1.Deny, admissionv1.Warn}

// ValidatingAdmissionPolicyBinding is the row of validatingadmissionpolicybindings.
func ValidatingAdmissionPolicyBinding(deps registry.Deps) registry.Resource {
	type binding = admissionv1.ValidatingAdmissionPolicyBinding
	validate := func(b *binding) field.ErrorList {
		path := field.NewPath("spec")
		errs := validateBinding(b, b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
		return append(errs, validateActions(b.Spec.ValidationActions, path.Child("validationActions"))...)
	}
	may := func(ctx context.Context, b *binding, old *bound) *field.Error {
		return mayReadParams(ctx, deps, "validatingadmissionpolicies", bound{b.Spec.PolicyName, b.Spec.ParamRef}, old)
	}
	return registry.Resource{
		GVK:  admissionv1.SchemeGroupVersion.WithKind("ValidatingAdmissionPolicyBinding"),
		Name: "validatingadmissionpolicybindings", Singular: "validatingadmissionpolicybinding", Categories: categories,
		Default: registry.Defaulter(func(b *binding) { defaultMatch(b.Spec.MatchResources) }),
		Strategy: registry.Counted(registry.Strategy{
			Validate: func(ctx context.Context, o store.Object) field.ErrorList {
				return readable(validate(o.(*binding)), func() *field.Error { return may(ctx, o.(*binding), nil) })
			},
			ValidateUpdate: func(ctx context.Context, o, old store.Object) field.ErrorList {
				return readable(validate(o.(*binding)), func() *field.Error {
					return may(ctx, o.(*binding), &bound{old.(*binding).Spec.PolicyName, old.(*binding).Spec.ParamRef})
				})
			},
		}, func(b *binding) any { return b.Spec }),
		Table: bindingTable(func(b *binding) bound { return bound{b.Spec.PolicyName, b.Spec.ParamRef} }),
	}
}

// MutatingAdmissionPolicyBinding is the row of mutatingadmissionpolicybindings.
func MutatingAdmissionPolicyBinding(deps registry.Deps) registry.Resource {
	type binding = admissionv1.MutatingAdmissionPolicyBinding
	validate := func(b *binding) field.ErrorList {
		errs := validateBinding(b, b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
		return append(errs, onlyMutating(b.Spec.MatchResources, field.NewPath("spec", "matchResources"))...)
	}
	may := func(ctx context.Context, b *binding, old *bound) *field.Error {
		return mayReadParams(ctx, deps, "mutatingadmissionpolicies", bound{b.Spec.PolicyName, b.Spec.ParamRef}, old)
	}
	return registry.Resource{
		GVK:  admissionv1.SchemeGroupVersion.WithKind("MutatingAdmissionPolicyBinding"),
		Name: "mutatingadmissionpolicybindings", Singular: "mutatingadmissionpolicybinding", Categories: categories,
		StoredVersion: storedMutating,
		Default:       registry.Defaulter(func(b *binding) { defaultMatch(b.Spec.MatchResources) }),
		Strategy: registry.Counted(registry.Strategy{
			Validate: func(ctx context.Context, o store.Object) field.ErrorList {
				return readable(validate(o.(*binding)), func() *field.Error { return may(ctx, o.(*binding), nil) })
			},
			ValidateUpdate: func(ctx context.Context, o, old store.Object) field.ErrorList {
				return readable(validate(o.(*binding)), func() *field.Error {
					return may(ctx, o.(*binding), &bound{old.(*binding).Spec.PolicyName, old.(*binding).Spec.ParamRef})
				})
			},
		}, func(b *binding) any { return b.Spec }),
		Table: bindingTable(func(b *binding) bound { return bound{b.Spec.PolicyName, b.Spec.ParamRef} }),
	}
}

// bound is what a binding binds.
type bound struct {
	policy string
	params *admissionv1.ParamRef
}

func bindingTable[T store.Object](of func(T) bound) registry.Table {
	return registry.Table{
		Columns: []metav1.TableColumnDefinition{
			registry.NameColumn(), registry.Column("PolicyName", "The policy"), registry.Column("ParamRef", "Its parameters"), registry.AgeColumn(),
		},
		Cells: registry.Cells(func(b T) []any {
			return []any{b.GetName(), of(b).policy, paramCell(of(b).params), registry.Age(b.GetCreationTimestamp())}
		}),
	}
}

func validateBinding(b metav1.Object, policy string, params *admissionv1.ParamRef, match *admissionv1.MatchResources) field.ErrorList {
	errs := registry.ValidateMeta(b, false, apivalidation.NameIsDNSSubdomain)
	path := field.NewPath("spec")
	if policy == "" {
		errs = append(errs, field.Required(path.Child("policyName"), ""))
	} else {
		errs = append(errs, registry.Invalid(path.Child("policyName"), policy, apivalidation.NameIsDNSSubdomain(policy, false))...)
	}
	errs = append(errs, validateParamRef(params, path.Child("paramRef"))...)
	return append(errs, validateMatch(match, path.Child("matchResources"))...)
}

func validateActions(list []admissionv1.ValidationAction, path *field.Path) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(path, "at least one validation action is required")}
	}
	var errs field.ErrorList
	seen := sets.New[admissionv1.ValidationAction]()
	for i, a := range list {
		errs = append(errs, oneOf(a, actions, path.Index(i))...)
		if seen.Has(a) {
			errs = append(errs, field.Duplicate(path.Index(i), a))
		}
		seen.Insert(a)
	}
	if slices.Contains(list, admissionv1.Deny) && slices.Contains(list, admissionv1.Warn) {
		errs = append(errs, field.Invalid(path, list,
			"must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	return errs
}
