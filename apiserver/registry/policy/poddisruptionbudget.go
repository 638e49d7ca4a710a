package policy

import (
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
)

// PodDisruptionBudget is the row of poddisruptionbudgets.
func PodDisruptionBudget() registry.Resource {
	main, status := registry.SpecStatus(func(b *policyv1.PodDisruptionBudget) (*policyv1.PodDisruptionBudgetSpec, *policyv1.PodDisruptionBudgetStatus) {
		return &b.Spec, &b.Status
	})
	main.UnconditionalUpdate = false
	main.Validate = registry.Validate(func(b *policyv1.PodDisruptionBudget) field.ErrorList {
		errs := apivalidation.ValidateObjectMeta(&b.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
		return append(errs, validateSpec(&b.Spec, field.NewPath("spec"))...)
	})
	main.ValidateUpdate = registry.ValidateUpdate(func(b, old *policyv1.PodDisruptionBudget) field.ErrorList {
		errs := apivalidation.ValidateObjectMetaUpdate(&b.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
		if apiequality.Semantic.DeepEqual(b.Spec, old.Spec) {
			return errs
		}
		return append(errs, validateSpec(&b.Spec, field.NewPath("spec"))...)
	})
	status.ValidateUpdate = registry.ValidateUpdate(validateStatusUpdate)
	return registry.Resource{
		GVK: policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"), Name: "poddisruptionbudgets", Singular: "poddisruptionbudget",
		ShortNames: []string{"pdb"}, Namespaced: true,
		Strategy: main,
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Column("Min Available", "How many pods must stay available"),
				registry.Column("Max Unavailable", "How many pods may be unavailable"),
				registry.Number("Allowed Disruptions", "How many pods may be evicted now"),
				registry.AgeColumn(),
			},
			Cells: registry.Cells(func(b *policyv1.PodDisruptionBudget) []any {
				return []any{b.Name, cell(b.Spec.MinAvailable), cell(b.Spec.MaxUnavailable), int64(b.Status.DisruptionsAllowed), registry.Age(b.CreationTimestamp)}
			}),
		},
		Status: &status,
	}
}

func cell(v *intstr.IntOrString) string {
	if v == nil {
		return "N/A"
	}
	return v.String()
}

func validateSpec(spec *policyv1.PodDisruptionBudgetSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if spec.MinAvailable != nil && spec.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(path, *spec, "minAvailable and maxUnavailable cannot be both set"))
	}
	if v := spec.MinAvailable; v != nil {
		errs = append(errs, validateAmount(*v, path.Child("minAvailable"))...)
	}
	if v := spec.MaxUnavailable; v != nil {
		errs = append(errs, validateAmount(*v, path.Child("maxUnavailable"))...)
	}
	errs = append(errs, metav1validation.ValidateLabelSelector(spec.Selector, metav1validation.LabelSelectorValidationOptions{}, path.Child("selector"))...)
	if p := spec.UnhealthyPodEvictionPolicy; p != nil && *p != policyv1.IfHealthyBudget && *p != policyv1.AlwaysAllow {
		errs = append(errs, field.NotSupported(path.Child("unhealthyPodEvictionPolicy"), *p,
			[]policyv1.UnhealthyPodEvictionPolicyType{policyv1.AlwaysAllow, policyv1.IfHealthyBudget}))
	}
	return errs
}

// validateAmount takes a number or a percentage up to 100 %.
func validateAmount(v intstr.IntOrString, path *field.Path) field.ErrorList {
	switch v.Type {
	case intstr.Int:
		return apivalidation.ValidateNonnegativeField(int64(v.IntVal), path)
	case intstr.String:
		var errs field.ErrorList
		for _, msg := range validation.IsValidPercent(v.StrVal) {
			errs = append(errs, field.Invalid(path, v, msg))
		}
		if n, err := intstr.GetScaledValueFromIntOrPercent(&v, 100, true); err == nil && n > 100 {
			errs = append(errs, field.Invalid(path, v, "must not be greater than 100%"))
		}
		return errs
	}
	return field.ErrorList{field.Invalid(path, v, "must be an integer or percentage (e.g '5%%')")}
}

func validateStatusUpdate(b, old *policyv1.PodDisruptionBudget) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&b.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	s, path := &b.Status, field.NewPath("status")
	errs = append(errs, metav1validation.ValidateConditions(s.Conditions, path.Child("conditions"))...)
	for _, part := range []struct {
		name string
		n    int32
	}{
		{"disruptionsAllowed", s.DisruptionsAllowed}, {"currentHealthy", s.CurrentHealthy},
		{"desiredHealthy", s.DesiredHealthy}, {"expectedPods", s.ExpectedPods},
	} {
		errs = append(errs, apivalidation.ValidateNonnegativeField(int64(part.n), path.Child(part.name))...)
	}
	return errs
}
