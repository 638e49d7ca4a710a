package admissionregistration

import (
	"context"
	"fmt"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/util/jsonpath"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

const (
	maxAnnotations     = 20
	maxAnnotationBytes = 5 << 10
)

// storedMutating is the version in which 1.36 stores what mutates: it is the first release that serves it as v1.
const storedMutating = "v1beta1"

var reasons = []metav1.StatusReason{metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge}

// categories are those of the kinds that extend the API.
var categories = []string{"api-extensions"}

// ValidatingAdmissionPolicy is the row of validatingadmissionpolicies.
func ValidatingAdmissionPolicy(deps registry.Deps) registry.Resource {
	type policy = admissionv1.ValidatingAdmissionPolicy
	kind := admissionv1.SchemeGroupVersion.WithKind("ValidatingAdmissionPolicy")
	return registry.Resource{
		GVK: kind, Name: "validatingadmissionpolicies", Singular: "validatingadmissionpolicy", Categories: categories,
		Default: registry.Defaulter(func(p *policy) {
			defaultTo(&p.Spec.FailurePolicy, admissionv1.Fail)
			defaultMatch(p.Spec.MatchConstraints)
		}),
		Strategy: registry.OwnStatus(registry.Counted(registry.Strategy{
			Validate: func(ctx context.Context, o store.Object) field.ErrorList {
				return readable(validateValidating(o.(*policy), nil), func() *field.Error { return mayReadKind(ctx, deps, o.(*policy).Spec.ParamKind, nil) })
			},
			ValidateUpdate: func(ctx context.Context, o, old store.Object) field.ErrorList {
				return readable(validateValidating(o.(*policy), old.(*policy)), func() *field.Error {
					return mayReadKind(ctx, deps, o.(*policy).Spec.ParamKind, old.(*policy).Spec.ParamKind)
				})
			},
		}, func(p *policy) any { return p.Spec }), func(p *policy) *admissionv1.ValidatingAdmissionPolicyStatus { return &p.Status }),
		Status: registry.KeepMeta(registry.StatusView(func(p *policy) *admissionv1.ValidatingAdmissionPolicySpec { return &p.Spec },
			func(p, _ *policy) field.ErrorList { return validateStatus(&p.Status, field.NewPath("status")) })),
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(), registry.Number("Validations", "How many rules it has"), registry.Column("ParamKind", "The kind of its parameters"), registry.AgeColumn(),
			},
			Cells: registry.Cells(func(p *policy) []any {
				return []any{p.Name, int64(len(p.Spec.Validations)), kindCell(p.Spec.ParamKind), registry.Age(p.CreationTimestamp)}
			}),
		},
	}
}

// MutatingAdmissionPolicy is the row of mutatingadmissionpolicies.
func MutatingAdmissionPolicy(deps registry.Deps) registry.Resource {
	type policy = admissionv1.MutatingAdmissionPolicy
	return registry.Resource{
		GVK: admissionv1.SchemeGroupVersion.WithKind("MutatingAdmissionPolicy"), Name: "mutatingadmissionpolicies", Singular: "mutatingadmissionpolicy", Categories: categories,
		StoredVersion: storedMutating,
		Default: registry.Defaulter(func(p *policy) {
			defaultTo(&p.Spec.FailurePolicy, admissionv1.Fail)
			defaultMatch(p.Spec.MatchConstraints)
		}),
		Strategy: registry.Counted(registry.Strategy{
			Validate: func(ctx context.Context, o store.Object) field.ErrorList {
				return readable(validateMutating(o.(*policy), nil), func() *field.Error { return mayReadKind(ctx, deps, o.(*policy).Spec.ParamKind, nil) })
			},
			ValidateUpdate: func(ctx context.Context, o, old store.Object) field.ErrorList {
				return readable(validateMutating(o.(*policy), old.(*policy)), func() *field.Error {
					return mayReadKind(ctx, deps, o.(*policy).Spec.ParamKind, old.(*policy).Spec.ParamKind)
				})
			},
		}, func(p *policy) any { return p.Spec }),
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(), registry.Number("Mutations", "How many changes it makes"), registry.Column("ParamKind", "The kind of its parameters"), registry.AgeColumn(),
			},
			Cells: registry.Cells(func(p *policy) []any {
				return []any{p.Name, int64(len(p.Spec.Mutations)), kindCell(p.Spec.ParamKind), registry.Age(p.CreationTimestamp)}
			}),
		},
	}
}

// readable adds to the errors of a policy or binding, if there are none, that its author may not read its parameters.
func readable(errs field.ErrorList, may func() *field.Error) field.ErrorList {
	if len(errs) == 0 {
		if err := may(); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// validateHead judges what both kinds of policy begin with.
func validateHead(failure *admissionv1.FailurePolicyType, kind *admissionv1.ParamKind, match *admissionv1.MatchResources, path *field.Path) field.ErrorList {
	errs := required(failure, failurePolicies, path.Child("failurePolicy"))
	if kind != nil {
		errs = append(errs, validateParamKind(kind, path.Child("paramKind"))...)
	}
	if match == nil {
		return append(errs, field.Required(path.Child("matchConstraints"), ""))
	}
	errs = append(errs, validateMatch(match, path.Child("matchConstraints"))...)
	if len(match.ResourceRules) == 0 {
		errs = append(errs, field.Required(path.Child("matchConstraints", "resourceRules"), ""))
	}
	return errs
}

func validateParamKind(k *admissionv1.ParamKind, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("apiVersion")
	gv, err := schema.ParseGroupVersion(k.APIVersion)
	switch {
	case k.APIVersion == "":
		errs = append(errs, field.Required(at, ""))
	case err != nil:
		errs = append(errs, field.Invalid(at, k.APIVersion, err.Error()))
	default:
		if gv.Group != "" {
			if msgs := validation.IsDNS1123Subdomain(gv.Group); len(msgs) > 0 {
				errs = append(errs, field.Invalid(at, gv.Group, strings.Join(msgs, ",")))
			}
		}
		if gv.Version == "" {
			errs = append(errs, field.Invalid(at, k.APIVersion, "version must be specified"))
		} else if msgs := validation.IsDNS1035Label(gv.Version); len(msgs) > 0 {
			errs = append(errs, field.Invalid(at, gv.Version, strings.Join(msgs, ",")))
		}
	}
	if k.Kind == "" {
		errs = append(errs, field.Required(path.Child("kind"), ""))
	} else if msgs := validation.IsDNS1035Label(strings.ToLower(k.Kind)); len(msgs) > 0 {
		errs = append(errs, field.Invalid(path.Child("kind"), k.Kind, "may have mixed case, but should otherwise match: "+strings.Join(msgs, ",")))
	}
	return errs
}

func validateValidating(p, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	errs := registry.ValidateMeta(p, false, apivalidation.NameIsDNSSubdomain)
	path, spec := field.NewPath("spec"), &p.Spec
	errs = append(errs, validateHead(spec.FailurePolicy, spec.ParamKind, spec.MatchConstraints, path)...)
	stored := sets.New[string]()
	if old != nil {
		for _, m := range old.Spec.MatchConditions {
			stored.Insert(m.Expression)
		}
		for _, v := range old.Spec.Validations {
			stored.Insert(v.Expression, v.MessageExpression)
		}
		for _, a := range old.Spec.AuditAnnotations {
			stored.Insert(a.ValueExpression)
		}
	}
	c, err := newCheck(spec.ParamKind != nil, len(spec.Variables) > 0, stored)
	if err != nil {
		return append(errs, field.InternalError(path, err))
	}
	if old == nil || !apiequality.Semantic.DeepEqual(spec.ParamKind, old.Spec.ParamKind) || !apiequality.Semantic.DeepEqual(spec.MatchConditions, old.Spec.MatchConditions) {
		errs = append(errs, c.matchConditions(spec.MatchConditions, path.Child("matchConditions"))...)
	}
	for i := range spec.Variables {
		errs = append(errs, c.variable(&spec.Variables[i], path.Child("variables").Index(i))...)
	}
	if len(spec.Validations) == 0 && len(spec.AuditAnnotations) == 0 {
		const one = "validations or auditAnnotations must contain at least one item"
		return append(errs, field.Required(path.Child("validations"), one), field.Required(path.Child("auditAnnotations"), one))
	}
	for i := range spec.Validations {
		errs = append(errs, c.validation(&spec.Validations[i], path.Child("validations").Index(i))...)
	}
	at := path.Child("auditAnnotations")
	if len(spec.AuditAnnotations) > maxAnnotations {
		errs = append(errs, field.Invalid(at, spec.AuditAnnotations, fmt.Sprintf("must not have more than %d auditAnnotations", maxAnnotations)))
	}
	keys := sets.New[string]()
	for i := range spec.AuditAnnotations {
		a := &spec.AuditAnnotations[i]
		errs = append(errs, c.auditAnnotation(p.Name, a, at.Index(i))...)
		if keys.Has(a.Key) {
			errs = append(errs, field.Duplicate(at.Index(i).Child("key"), a.Key))
		}
		keys.Insert(a.Key)
	}
	return errs
}

func validateMutating(p, old *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
	errs := registry.ValidateMeta(p, false, apivalidation.NameIsDNSSubdomain)
	path, spec := field.NewPath("spec"), &p.Spec
	errs = append(errs, validateHead(spec.FailurePolicy, spec.ParamKind, spec.MatchConstraints, path)...)
	errs = append(errs, onlyMutating(spec.MatchConstraints, path.Child("matchConstraints"))...)
	stored := sets.New[string]()
	if old != nil {
		for _, m := range old.Spec.MatchConditions {
			stored.Insert(m.Expression)
		}
		for _, m := range old.Spec.Mutations {
			if m.ApplyConfiguration != nil {
				stored.Insert(strings.TrimSpace(m.ApplyConfiguration.Expression))
			}
			if m.JSONPatch != nil {
				stored.Insert(strings.TrimSpace(m.JSONPatch.Expression))
			}
		}
	}
	c, err := newCheck(spec.ParamKind != nil, true, stored)
	if err != nil {
		return append(errs, field.InternalError(path, err))
	}
	if old == nil || !apiequality.Semantic.DeepEqual(spec.ParamKind, old.Spec.ParamKind) || !apiequality.Semantic.DeepEqual(spec.MatchConditions, old.Spec.MatchConditions) {
		errs = append(errs, c.matchConditions(spec.MatchConditions, path.Child("matchConditions"))...)
	}
	for i := range spec.Variables {
		errs = append(errs, c.variable(&spec.Variables[i], path.Child("variables").Index(i))...)
	}
	if len(spec.Mutations) == 0 {
		errs = append(errs, field.Required(path.Child("mutations"), "mutations must contain at least one item"))
	}
	for i := range spec.Mutations {
		errs = append(errs, c.mutation(&spec.Mutations[i], path.Child("mutations").Index(i))...)
	}
	if spec.ReinvocationPolicy == "" {
		return append(errs, field.Required(path.Child("reinvocationPolicy"), ""))
	}
	return append(errs, oneOf(spec.ReinvocationPolicy, reinvocationPolicies, path.Child("reinvocationPolicy"))...)
}

func validateStatus(s *admissionv1.ValidatingAdmissionPolicyStatus, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.TypeChecking != nil {
		for i, w := range s.TypeChecking.ExpressionWarnings {
			at := path.Child("typeChecking", "expressionWarnings").Index(i)
			if w.Warning == "" {
				errs = append(errs, field.Required(at.Child("warning"), ""))
			}
			ref := strings.TrimSpace(w.FieldRef)
			if ref == "" {
				errs = append(errs, field.Required(at.Child("fieldRef"), ""))
			} else if err := jsonpath.New("spec").Parse("{" + ref + "}"); err != nil {
				errs = append(errs, field.Invalid(at.Child("fieldRef"), ref, fmt.Sprintf("invalid JSONPath: %v", err)))
			}
		}
	}
	return append(errs, metav1validation.ValidateConditions(s.Conditions, path.Child("conditions"))...)
}
