package flowcontrol

import (
	"fmt"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"github.com/mini-k8s/mini/apiserver/registry"
)

const defaultPrecedence = 1000

var (
	verbs    = sets.New("create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch")
	methods  = []flowcontrolv1.FlowDistinguisherMethodType{flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType}
	subjects = []flowcontrolv1.SubjectKind{flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser}
)

// FlowSchema is the row of flowschemas.
func FlowSchema() registry.Resource {
	return registry.Resource{
		GVK: flowcontrolv1.SchemeGroupVersion.WithKind("FlowSchema"), Name: "flowschemas", Singular: "flowschema",
		Default: registry.Defaulter(func(s *flowcontrolv1.FlowSchema) {
			if s.Spec.MatchingPrecedence == 0 {
				s.Spec.MatchingPrecedence = defaultPrecedence
			}
		}),
		Strategy: registry.OwnStatus(registry.Counted(registry.Strategy{
			Validate:            registry.Validate(validateSchema),
			ValidateUpdate:      registry.ValidateUpdate(func(s, _ *flowcontrolv1.FlowSchema) field.ErrorList { return validateSchema(s) }),
			UnconditionalUpdate: true,
		}, func(s *flowcontrolv1.FlowSchema) any { return s.Spec }), func(s *flowcontrolv1.FlowSchema) *flowcontrolv1.FlowSchemaStatus { return &s.Status }),
		Status: registry.KeepMeta(registry.StatusView(func(s *flowcontrolv1.FlowSchema) *flowcontrolv1.FlowSchemaSpec { return &s.Spec },
			func(s, _ *flowcontrolv1.FlowSchema) field.ErrorList { return validateConditions(conditionTypes(s)) })),
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Column("PriorityLevel", "The priority level of the requests that match"),
				registry.Column("MatchingPrecedence", "Of several that match the lowest counts"),
				registry.Column("DistinguisherMethod", "What makes requests belong to one flow"),
				registry.AgeColumn(),
				registry.Column("MissingPL", "Whether the priority level is not there"),
			},
			Cells: registry.Cells(func(s *flowcontrolv1.FlowSchema) []any {
				method, missing := registry.None, "?"
				if m := s.Spec.DistinguisherMethod; m != nil {
					method = string(m.Type)
				}
				for _, c := range s.Status.Conditions {
					if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
						missing = string(c.Status)
						break
					}
				}
				return []any{s.Name, s.Spec.PriorityLevelConfiguration.Name, int64(s.Spec.MatchingPrecedence), method, registry.Age(s.CreationTimestamp), missing}
			}),
		},
	}
}

func conditionTypes(s *flowcontrolv1.FlowSchema) []string {
	types := make([]string, len(s.Status.Conditions))
	for i, c := range s.Status.Conditions {
		types[i] = string(c.Type)
	}
	return types
}

// validateConditions wants each type of condition once.
func validateConditions(types []string) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, t := range types {
		path := field.NewPath("status", "conditions").Index(i).Child("type")
		if seen.Has(t) {
			errs = append(errs, field.Duplicate(path, t))
		}
		seen.Insert(t)
		if t == "" {
			errs = append(errs, field.Required(path, ""))
		}
	}
	return errs
}

func validateSchema(s *flowcontrolv1.FlowSchema) field.ErrorList {
	errs := registry.ValidateMeta(s, false, apivalidation.NameIsDNSSubdomain)
	path := field.NewPath("spec")
	errs = append(errs, validateSchemaSpec(s, path)...)
	for _, fixed := range bootstrap.MandatoryFlowSchemas {
		if fixed.Name == s.Name && !apiequality.Semantic.DeepEqual(s.Spec, fixed.Spec) {
			errs = append(errs, field.Invalid(path, s.Spec, fmt.Sprintf("spec of '%s' must equal the fixed value", s.Name)))
		}
	}
	return append(errs, validateConditions(conditionTypes(s))...)
}

func validateSchemaSpec(s *flowcontrolv1.FlowSchema, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	at, p := path.Child("matchingPrecedence"), s.Spec.MatchingPrecedence
	if p <= 0 {
		errs = append(errs, field.Invalid(at, p, "must be a positive value"))
	}
	if p > flowcontrolv1.FlowSchemaMaxMatchingPrecedence {
		errs = append(errs, field.Invalid(at, p, fmt.Sprintf("must not be greater than %v", flowcontrolv1.FlowSchemaMaxMatchingPrecedence)))
	}
	if p == 1 && s.Name != bootstrap.MandatoryFlowSchemaExempt.Name {
		errs = append(errs, field.Invalid(at, p, "only the schema named 'exempt' may have matchingPrecedence 1"))
	}
	if m := s.Spec.DistinguisherMethod; m != nil && !slices.Contains(methods, m.Type) {
		errs = append(errs, field.NotSupported(path.Child("distinguisherMethod", "type"), m, methods))
	}
	level := s.Spec.PriorityLevelConfiguration.Name
	at = path.Child("priorityLevelConfiguration", "name")
	if level == "" {
		errs = append(errs, field.Required(at, "must reference a priority level"))
	} else {
		errs = append(errs, registry.Invalid(at, level, apivalidation.NameIsDNSSubdomain(level, false))...)
	}
	for i := range s.Spec.Rules {
		errs = append(errs, validateRule(&s.Spec.Rules[i], path.Child("rules").Index(i))...)
	}
	return errs
}

func validateRule(r *flowcontrolv1.PolicyRulesWithSubjects, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Subjects) == 0 {
		errs = append(errs, field.Required(path.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range r.Subjects {
		errs = append(errs, validateSubject(&r.Subjects[i], path.Child("subjects").Index(i))...)
	}
	if len(r.ResourceRules) == 0 && len(r.NonResourceRules) == 0 {
		errs = append(errs, field.Required(path, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	for i := range r.ResourceRules {
		errs = append(errs, validateResourceRule(&r.ResourceRules[i], path.Child("resourceRules").Index(i))...)
	}
	for i := range r.NonResourceRules {
		errs = append(errs, validateURLRule(&r.NonResourceRules[i], path.Child("nonResourceRules").Index(i))...)
	}
	return errs
}

func validateSubject(s *flowcontrolv1.Subject, path *field.Path) field.ErrorList {
	if !slices.Contains(subjects, s.Kind) {
		return field.ErrorList{field.NotSupported(path.Child("kind"), s.Kind, subjects)}
	}
	var errs field.ErrorList
	check := func(kind flowcontrolv1.SubjectKind, name string, set bool, validate func(*field.Path) field.ErrorList) {
		at := path.Child(name)
		switch {
		case s.Kind == kind && !set:
			errs = append(errs, field.Required(at, fmt.Sprintf("%s is required when subject kind is '%s'", name, kind)))
		case s.Kind == kind:
			errs = append(errs, validate(at)...)
		case set:
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("%s is forbidden when subject kind is not '%s'", name, kind)))
		}
	}
	check(flowcontrolv1.SubjectKindServiceAccount, "serviceAccount", s.ServiceAccount != nil, func(at *field.Path) field.ErrorList {
		return validateAccount(s.ServiceAccount, at)
	})
	check(flowcontrolv1.SubjectKindUser, "user", s.User != nil, func(at *field.Path) field.ErrorList { return named(s.User.Name, at) })
	check(flowcontrolv1.SubjectKindGroup, "group", s.Group != nil, func(at *field.Path) field.ErrorList { return named(s.Group.Name, at) })
	return errs
}

func named(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path.Child("name"), "")}
	}
	return nil
}

func validateAccount(s *flowcontrolv1.ServiceAccountSubject, path *field.Path) field.ErrorList {
	errs := named(s.Name, path)
	if s.Name != "" && s.Name != flowcontrolv1.NameAll {
		errs = append(errs, registry.Invalid(path.Child("name"), s.Name, apivalidation.ValidateServiceAccountName(s.Name, false))...)
	}
	if s.Namespace == "" {
		return append(errs, field.Required(path.Child("namespace"), "must specify namespace for service account"))
	}
	return append(errs, registry.Invalid(path.Child("namespace"), s.Namespace, apivalidation.ValidateNamespaceName(s.Namespace, false))...)
}

// alone refuses other values beside the one that means all of them.
func alone(values []string, what string, path *field.Path) field.ErrorList {
	if len(values) > 1 && slices.Contains(values, "*") {
		return field.ErrorList{field.Invalid(path, values, "if '*' is present, must not specify other "+what)}
	}
	return nil
}

func validateVerbs(values []string, path *field.Path) field.ErrorList {
	switch {
	case len(values) == 0:
		return field.ErrorList{field.Required(path, "verbs must contain at least one value")}
	case slices.Contains(values, "*"):
		return alone(values, "verbs", path)
	case !verbs.HasAll(values...):
		return field.ErrorList{field.NotSupported(path, values, sets.List(verbs))}
	}
	return nil
}

func validateResourceRule(r *flowcontrolv1.ResourcePolicyRule, path *field.Path) field.ErrorList {
	errs := validateVerbs(r.Verbs, path.Child("verbs"))
	if len(r.APIGroups) == 0 {
		errs = append(errs, field.Required(path.Child("apiGroups"), "resource rules must supply at least one api group"))
	}
	errs = append(errs, alone(r.APIGroups, "api groups", path.Child("apiGroups"))...)
	if len(r.Resources) == 0 {
		errs = append(errs, field.Required(path.Child("resources"), "resource rules must supply at least one resource"))
	}
	errs = append(errs, alone(r.Resources, "resources", path.Child("resources"))...)
	at := path.Child("namespaces")
	if len(r.Namespaces) == 0 && !r.ClusterScope {
		return append(errs, field.Required(at, "resource rules that are not cluster scoped must supply at least one namespace"))
	}
	if slices.Contains(r.Namespaces, "*") {
		return append(errs, alone(r.Namespaces, "namespaces", at)...)
	}
	for i, ns := range r.Namespaces {
		for _, msg := range apivalidation.ValidateNamespaceName(ns, false) {
			errs = append(errs, field.Invalid(at.Index(i), ns, "each member of this list must be '*' or a DNS-1123 label; "+msg))
		}
	}
	return errs
}

func validateURLRule(r *flowcontrolv1.NonResourcePolicyRule, path *field.Path) field.ErrorList {
	errs := validateVerbs(r.Verbs, path.Child("verbs"))
	at := path.Child("nonResourceURLs")
	if len(r.NonResourceURLs) == 0 {
		return append(errs, field.Required(at, "nonResourceURLs must contain at least one value"))
	}
	if slices.Contains(r.NonResourceURLs, "*") {
		return append(errs, alone(r.NonResourceURLs, "non-resource URLs", at)...)
	}
	for i, url := range r.NonResourceURLs {
		if problem := wrongURL(url); problem != "" {
			errs = append(errs, field.Invalid(at.Index(i), url, problem))
		}
	}
	return errs
}

func wrongURL(url string) string {
	stars := strings.Count(url, "*")
	switch {
	case url == "":
		return "must not be empty"
	case url == "/":
		return ""
	case url[0] != '/':
		return "must start with slash"
	case strings.Contains(url, " "):
		return "must not contain white-space"
	case strings.Contains(url, "//"):
		return "must not contain double slash"
	case stars > 1 || stars == 1 && !strings.HasSuffix(url, "/*"):
		return "wildcard can only do suffix matching"
	}
	return ""
}
