package admissionregistration

import (
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	webhookvalidation "k8s.io/apiserver/pkg/util/webhook"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

const (
	defaultTimeout = 10
	maxTimeout     = 30
	servicePort    = 443
)

var (
	reviewVersions = []string{"v1", "v1beta1"}
	noSideEffects  = []admissionv1.SideEffectClass{admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun}
	sideEffects    = []admissionv1.SideEffectClass{
		admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun, admissionv1.SideEffectClassSome, admissionv1.SideEffectClassUnknown,
	}
)

// MutatingWebhookConfiguration is the row of mutatingwebhookconfigurations.
func MutatingWebhookConfiguration() registry.Resource {
	row := webhooks(func(c *admissionv1.MutatingWebhookConfiguration) []webhook {
		out := make([]webhook, len(c.Webhooks))
		for i := range c.Webhooks {
			w := &c.Webhooks[i]
			out[i] = webhook{
				&w.Name, &w.ClientConfig, w.Rules, &w.FailurePolicy, &w.MatchPolicy, &w.NamespaceSelector, &w.ObjectSelector,
				&w.SideEffects, &w.TimeoutSeconds, w.AdmissionReviewVersions, &w.ReinvocationPolicy, w.MatchConditions,
			}
		}
		return out
	}, func(c *admissionv1.MutatingWebhookConfiguration) any { return c.Webhooks })
	row.GVK = admissionv1.SchemeGroupVersion.WithKind("MutatingWebhookConfiguration")
	row.Name, row.Singular = "mutatingwebhookconfigurations", "mutatingwebhookconfiguration"
	return row
}

// ValidatingWebhookConfiguration is the row of validatingwebhookconfigurations.
func ValidatingWebhookConfiguration() registry.Resource {
	row := webhooks(func(c *admissionv1.ValidatingWebhookConfiguration) []webhook {
		out := make([]webhook, len(c.Webhooks))
		for i := range c.Webhooks {
			w := &c.Webhooks[i]
			out[i] = webhook{
				&w.Name, &w.ClientConfig, w.Rules, &w.FailurePolicy, &w.MatchPolicy, &w.NamespaceSelector, &w.ObjectSelector,
				&w.SideEffects, &w.TimeoutSeconds, w.AdmissionReviewVersions, nil, w.MatchConditions,
			}
		}
		return out
	}, func(c *admissionv1.ValidatingWebhookConfiguration) any { return c.Webhooks })
	row.GVK = admissionv1.SchemeGroupVersion.WithKind("ValidatingWebhookConfiguration")
	row.Name, row.Singular = "validatingwebhookconfigurations", "validatingwebhookconfiguration"
	return row
}

// webhook is a view of one of either kind.
type webhook struct {
	name              *string
	client            *admissionv1.WebhookClientConfig
	rules             []admissionv1.RuleWithOperations
	failure           **admissionv1.FailurePolicyType
	match             **admissionv1.MatchPolicyType
	namespaces, other **metav1.LabelSelector
	effects           **admissionv1.SideEffectClass
	timeout           **int32
	reviews           []string
	reinvocation      **admissionv1.ReinvocationPolicyType // nil where there is none
	conditions        []admissionv1.MatchCondition
}

// webhooks is the row of a kind of configuration; a change of content is a new generation.
func webhooks[T store.Object](of func(T) []webhook, content func(T) any) registry.Resource {
	return registry.Resource{
		Categories: categories,
		Default: registry.Defaulter(func(c T) {
			for _, w := range of(c) {
				w.setDefaults()
			}
		}),
		Strategy: registry.Counted(registry.Strategy{
			Validate: registry.Validate(func(c T) field.ErrorList {
				return append(registry.ValidateMeta(c, false, apivalidation.NameIsDNSSubdomain), webhookCheck{stored: sets.New[string]()}.validate(of(c))...)
			}),
			ValidateUpdate: registry.ValidateUpdate(func(c, old T) field.ErrorList {
				return append(registry.ValidateMeta(c, false, apivalidation.NameIsDNSSubdomain), newWebhookCheck(of(c), of(old)).validate(of(c))...)
			}),
		}, content),
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{registry.NameColumn(), registry.Number("Webhooks", "How many webhooks it has"), registry.AgeColumn()},
			Cells: registry.Cells(func(c T) []any {
				return []any{c.GetName(), int64(len(of(c))), registry.Age(c.GetCreationTimestamp())}
			}),
		},
	}
}

func (w webhook) setDefaults() {
	defaultTo(w.failure, admissionv1.Fail)
	defaultTo(w.match, admissionv1.Equivalent)
	defaultTo(w.namespaces, metav1.LabelSelector{})
	defaultTo(w.other, metav1.LabelSelector{})
	defaultTo(w.timeout, defaultTimeout)
	if w.reinvocation != nil {
		defaultTo(w.reinvocation, admissionv1.NeverReinvocationPolicy)
	}
	if w.client.Service != nil {
		defaultTo(&w.client.Service.Port, servicePort)
	}
	defaultRules(w.rules)
}

// webhookCheck judges webhooks; what the old ones of an update have wrong all along may stay.
type webhookCheck struct {
	sameConditions, anyEffects, anyReviews, sameNames bool
	selectors                                         metav1validation.LabelSelectorValidationOptions
	stored                                            sets.Set[string]
}

func newWebhookCheck(list, old []webhook) webhookCheck {
	c := webhookCheck{stored: sets.New[string](), sameConditions: len(list) == len(old)}
	names := sets.New[string]()
	for i, w := range old {
		if c.sameConditions && !apiequality.Semantic.DeepEqual(list[i].conditions, w.conditions) {
			c.sameConditions = false
		}
		for _, m := range w.conditions {
			c.stored.Insert(m.Expression)
		}
		c.anyEffects = c.anyEffects || *w.effects == nil || !slices.Contains(noSideEffects, **w.effects)
		c.anyReviews = c.anyReviews || len(w.reviews) > 0 && !slices.ContainsFunc(w.reviews, recognized)
		c.sameNames = c.sameNames || names.Has(*w.name)
		names.Insert(*w.name)
		for _, s := range []*metav1.LabelSelector{*w.namespaces, *w.other} {
			if len(metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, nil)) > 0 {
				c.selectors.AllowInvalidLabelValueInSelector = true
			}
		}
	}
	return c
}

func recognized(version string) bool { return slices.Contains(reviewVersions, version) }

func (c webhookCheck) validate(list []webhook) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, w := range list {
		path := field.NewPath("webhooks").Index(i)
		errs = append(errs, c.webhook(w, path)...)
		errs = append(errs, c.reviews(w.reviews, path.Child("admissionReviewVersions"))...)
		if !c.sameNames && *w.name != "" && names.Has(*w.name) {
			errs = append(errs, field.Duplicate(path.Child("name"), *w.name))
		}
		names.Insert(*w.name)
	}
	return errs
}

func (c webhookCheck) webhook(w webhook, path *field.Path) field.ErrorList {
	errs := validation.IsFullyQualifiedName(path.Child("name"), *w.name)
	for i := range w.rules {
		errs = append(errs, validateRule(&w.rules[i], path.Child("rules").Index(i))...)
	}
	errs = append(errs, optional(*w.failure, failurePolicies, path.Child("failurePolicy"))...)
	errs = append(errs, optional(*w.match, matchPolicies, path.Child("matchPolicy"))...)
	allowed := noSideEffects
	if c.anyEffects {
		allowed = sideEffects
	}
	if *w.effects == nil {
		names := make([]string, len(allowed))
		for i, a := range allowed {
			names[i] = string(a)
		}
		errs = append(errs, field.Required(path.Child("sideEffects"), "must specify one of "+strings.Join(names, ", ")))
	}
	errs = append(errs, optional(*w.effects, allowed, path.Child("sideEffects"))...)
	if t := *w.timeout; t != nil && (*t < 1 || *t > maxTimeout) {
		errs = append(errs, field.Invalid(path.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds"))
	}
	errs = append(errs, metav1validation.ValidateLabelSelector(*w.namespaces, c.selectors, path.Child("namespaceSelector"))...)
	errs = append(errs, metav1validation.ValidateLabelSelector(*w.other, c.selectors, path.Child("objectSelector"))...)
	if w.reinvocation != nil {
		errs = append(errs, optional(*w.reinvocation, reinvocationPolicies, path.Child("reinvocationPolicy"))...)
	}
	at := path.Child("clientConfig")
	switch s := w.client.Service; {
	case (w.client.URL == nil) == (s == nil):
		errs = append(errs, field.Required(at, "exactly one of url or service is required"))
	case s == nil:
		errs = append(errs, webhookvalidation.ValidateWebhookURL(at.Child("url"), *w.client.URL, true)...)
	default:
		port := int32(servicePort)
		if s.Port != nil {
			port = *s.Port
		}
		errs = append(errs, webhookvalidation.ValidateWebhookService(at.Child("service"), s.Name, s.Namespace, s.Path, port)...)
	}
	if c.sameConditions || len(w.conditions) == 0 {
		return errs
	}
	conditions, err := newCheck(false, false, c.stored)
	if err != nil {
		return append(errs, field.InternalError(path, err))
	}
	return append(errs, conditions.matchConditions(w.conditions, path.Child("matchConditions"))...)
}

func (c webhookCheck) reviews(versions []string, path *field.Path) field.ErrorList {
	if len(versions) == 0 {
		return field.ErrorList{field.Required(path, "must specify one of "+strings.Join(reviewVersions, ", "))}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, v := range versions {
		if seen.Has(v) {
			errs = append(errs, field.Invalid(path.Index(i), v, "duplicate version"))
			continue
		}
		seen.Insert(v)
		errs = append(errs, registry.Invalid(path.Index(i), v, validation.IsDNS1035Label(v))...)
	}
	if !c.anyReviews && !slices.ContainsFunc(versions, recognized) {
		errs = append(errs, field.Invalid(path, versions, "must include at least one of "+strings.Join(reviewVersions, ", ")))
	}
	return errs
}
