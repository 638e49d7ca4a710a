package admissionregistration

import (
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	pathvalidation "k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/mini-k8s/mini/apiserver/registry"
)

var (
	failurePolicies      = []admissionv1.FailurePolicyType{admissionv1.Fail, admissionv1.Ignore}
	matchPolicies        = []admissionv1.MatchPolicyType{admissionv1.Equivalent, admissionv1.Exact}
	reinvocationPolicies = []admissionv1.ReinvocationPolicyType{admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy}
	scopes               = []admissionv1.ScopeType{admissionv1.AllScopes, admissionv1.ClusterScope, admissionv1.NamespacedScope}
	operations           = []admissionv1.OperationType{admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Delete, admissionv1.Update}
	// mutatingOperations are those whose objects a policy can change.
	mutatingOperations = []admissionv1.OperationType{admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Update}
)

// oneOf wants value to be among the supported ones.
func oneOf[T ~string](value T, supported []T, path *field.Path) field.ErrorList {
	if slices.Contains(supported, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, value, supported)}
}

// required is oneOf for a field that must be set, optional for one that need not.
func required[T ~string](value *T, supported []T, path *field.Path) field.ErrorList {
	if value == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	return oneOf(*value, supported, path)
}

func optional[T ~string](value *T, supported []T, path *field.Path) field.ErrorList {
	if value == nil {
		return nil
	}
	return oneOf(*value, supported, path)
}

func defaultTo[T any](at **T, value T) {
	if *at == nil {
		*at = &value
	}
}

func defaultRules(rules []admissionv1.RuleWithOperations) {
	for i := range rules {
		defaultTo(&rules[i].Scope, admissionv1.AllScopes)
	}
}

func defaultMatch(m *admissionv1.MatchResources) {
	if m == nil {
		return
	}
	defaultTo(&m.MatchPolicy, admissionv1.Equivalent)
	defaultTo(&m.NamespaceSelector, metav1.LabelSelector{})
	defaultTo(&m.ObjectSelector, metav1.LabelSelector{})
	for _, rules := range [][]admissionv1.NamedRuleWithOperations{m.ResourceRules, m.ExcludeResourceRules} {
		for i := range rules {
			defaultTo(&rules[i].Scope, admissionv1.AllScopes)
		}
	}
}

func validateMatch(m *admissionv1.MatchResources, path *field.Path) field.ErrorList {
	if m == nil {
		return nil
	}
	errs := required(m.MatchPolicy, matchPolicies, path.Child("matchPolicy"))
	for _, s := range []struct {
		name     string
		selector *metav1.LabelSelector
	}{{"namespaceSelector", m.NamespaceSelector}, {"objectSelector", m.ObjectSelector}} {
		if s.selector == nil {
			errs = append(errs, field.Required(path.Child(s.name), ""))
		}
		errs = append(errs, metav1validation.ValidateLabelSelector(s.selector, metav1validation.LabelSelectorValidationOptions{}, path.Child(s.name))...)
	}
	for i := range m.ResourceRules {
		errs = append(errs, validateNamedRule(&m.ResourceRules[i], path.Child("resourceRules").Index(i))...)
	}
	for i := range m.ExcludeResourceRules {
		errs = append(errs, validateNamedRule(&m.ExcludeResourceRules[i], path.Child("excludeResourceRules").Index(i))...)
	}
	return errs
}

// onlyMutating refuses operations whose objects cannot be changed.
func onlyMutating(m *admissionv1.MatchResources, path *field.Path) field.ErrorList {
	if m == nil {
		return nil
	}
	var errs field.ErrorList
	for _, r := range m.ResourceRules {
		for _, op := range r.Operations {
			errs = append(errs, oneOf(op, mutatingOperations, path.Child("resourceRules", "operations"))...)
		}
	}
	return errs
}

func validateNamedRule(r *admissionv1.NamedRuleWithOperations, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, name := range r.ResourceNames {
		at := path.Child("resourceNames").Index(i)
		errs = append(errs, registry.Invalid(at, name, pathvalidation.IsValidPathSegmentName(name))...)
		if seen.Has(name) {
			errs = append(errs, field.Duplicate(at, name))
		}
		seen.Insert(name)
	}
	return append(errs, validateRule(&r.RuleWithOperations, path)...)
}

// alone refuses other values beside "*".
func alone[T ~string](values []T, what string, path *field.Path) field.ErrorList {
	if len(values) > 1 && slices.Contains(values, "*") {
		return field.ErrorList{field.Invalid(path, values, "if '*' is present, must not specify other "+what)}
	}
	return nil
}

func validateRule(r *admissionv1.RuleWithOperations, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	empty := func(name string, n int) {
		if n == 0 {
			errs = append(errs, field.Required(path.Child(name), ""))
		}
	}
	empty("operations", len(r.Operations))
	errs = append(errs, alone(r.Operations, "operations", path.Child("operations"))...)
	for i, op := range r.Operations {
		errs = append(errs, oneOf(op, operations, path.Child("operations").Index(i))...)
	}
	empty("apiGroups", len(r.APIGroups))
	errs = append(errs, alone(r.APIGroups, "API groups", path.Child("apiGroups"))...)
	empty("apiVersions", len(r.APIVersions))
	errs = append(errs, alone(r.APIVersions, "API versions", path.Child("apiVersions"))...)
	for i, v := range r.APIVersions {
		if v == "" {
			errs = append(errs, field.Required(path.Child("apiVersions").Index(i), ""))
		}
	}
	empty("resources", len(r.Resources))
	errs = append(errs, validateResources(r.Resources, path.Child("resources"))...)
	return append(errs, optional(r.Scope, scopes, path.Child("scope"))...)
}

// validateResources refuses resources that another entry with a star covers already.
func validateResources(resources []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	allOf, ofAll := sets.New[string](), sets.New[string]() // "pods/*" has all of pods, "*/status" is of all
	star, plain := false, false
	for i, r := range resources {
		at := path.Index(i)
		name, sub, isSub := strings.Cut(r, "/")
		switch {
		case r == "":
			errs = append(errs, field.Required(at, ""))
			continue
		case !isSub:
			star, plain = star || r == "*", plain || r != "*"
			continue
		}
		if allOf.Has(name) {
			errs = append(errs, field.Invalid(at, r, fmt.Sprintf("if '%s/*' is present, must not specify %s", name, r)))
		}
		if ofAll.Has(sub) {
			errs = append(errs, field.Invalid(at, r, fmt.Sprintf("if '*/%s' is present, must not specify %s", sub, r)))
		}
		if sub == "*" {
			allOf.Insert(name)
		}
		if name == "*" {
			ofAll.Insert(sub)
		}
	}
	if len(resources) > 1 && slices.Contains(resources, "*/*") {
		errs = append(errs, field.Invalid(path, resources, "if '*/*' is present, must not specify other resources"))
	}
	if star && plain {
		errs = append(errs, field.Invalid(path, resources, "if '*' is present, must not specify other resources without subresources"))
	}
	return errs
}

// paramCell shows which parameters a binding takes.
func paramCell(ref *admissionv1.ParamRef) string {
	switch {
	case ref == nil:
		return unset
	case ref.Name != "" && ref.Namespace != "":
		return ref.Namespace + "/" + ref.Name
	case ref.Name != "":
		return "*/" + ref.Name
	case ref.Selector != nil:
		return ref.Selector.String()
	}
	return unset
}

// kindCell shows the kind of a policy's parameters.
func kindCell(kind *admissionv1.ParamKind) string {
	if kind == nil {
		return unset
	}
	return kind.APIVersion + "/" + kind.Kind
}

// unset is what a cell shows for an optional value that is not there.
const unset = "<unset>"

func validateParamRef(ref *admissionv1.ParamRef, path *field.Path) field.ErrorList {
	if ref == nil {
		return nil
	}
	const exclusive = "name and selector are mutually exclusive"
	var errs field.ErrorList
	if ref.Name != "" {
		errs = append(errs, registry.Invalid(path.Child("name"), ref.Name, pathvalidation.IsValidPathSegmentName(ref.Name))...)
		if ref.Selector != nil {
			errs = append(errs, field.Forbidden(path.Child("name"), exclusive))
		}
	}
	if ref.Selector != nil {
		errs = append(errs, metav1validation.ValidateLabelSelector(ref.Selector, metav1validation.LabelSelectorValidationOptions{}, path.Child("selector"))...)
		if ref.Name != "" {
			errs = append(errs, field.Forbidden(path.Child("selector"), exclusive))
		}
	}
	if ref.Name == "" && ref.Selector == nil {
		errs = append(errs, field.Required(path, "one of name or selector must be specified"))
	}
	at := path.Child("parameterNotFoundAction")
	if ptr.Deref(ref.ParameterNotFoundAction, "") == "" {
		return append(errs, field.Required(at, ""))
	}
	return append(errs, oneOf(*ref.ParameterNotFoundAction, []admissionv1.ParameterNotFoundActionType{admissionv1.DenyAction, admissionv1.AllowAction}, at)...)
}
