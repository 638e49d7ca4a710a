package authz

import (
	"context"
	"errors"
	"fmt"
	"strings"

	authv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/mini-k8s/mini/apiserver/request"
)

// Reviews answers the kinds of authorization.k8s.io. Each method takes the object as posted and returns it with its status
// filled; the object given is changed. Errors are API statuses. The asking user is in the context (package request).
type Reviews struct {
	auth     authorizer.UnconditionalAuthorizer
	resolver authorizer.RuleResolver
}

// NewReviews asks auth, and resolver for rules reviews.
func NewReviews(auth authorizer.UnconditionalAuthorizer, resolver authorizer.RuleResolver) *Reviews {
	return &Reviews{auth: auth, resolver: resolver}
}

// SubjectAccess answers what the user of the spec may do.
func (r *Reviews) SubjectAccess(ctx context.Context, review *authv1.SubjectAccessReview) (*authv1.SubjectAccessReview, error) {
	if errs := validateSubject(&review.Spec); len(errs) > 0 {
		return nil, invalid("SubjectAccessReview", errs)
	}
	review.Status = r.ask(ctx, specUser(&review.Spec), review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
	return review, nil
}

// LocalSubjectAccess is SubjectAccess within one namespace.
func (r *Reviews) LocalSubjectAccess(ctx context.Context, namespace string, review *authv1.LocalSubjectAccessReview) (*authv1.LocalSubjectAccessReview, error) {
	errs := validateSubject(&review.Spec)
	if review.Spec.NonResourceAttributes != nil {
		errs = append(errs, field.Invalid(field.NewPath("spec.nonResourceAttributes"), review.Spec.NonResourceAttributes, "disallowed on this kind of request"))
	}
	if attributes := review.Spec.ResourceAttributes; attributes != nil && attributes.Namespace != namespace {
		errs = append(errs, field.Invalid(field.NewPath("spec.resourceAttributes.namespace"), attributes.Namespace, "must match metadata.namespace"))
	}
	if len(errs) > 0 {
		return nil, invalid("LocalSubjectAccessReview", errs)
	}
	review.Namespace = namespace
	review.Status = r.ask(ctx, specUser(&review.Spec), review.Spec.ResourceAttributes, nil)
	return review, nil
}

// SelfSubjectAccess answers what the asking user may do.
func (r *Reviews) SelfSubjectAccess(ctx context.Context, review *authv1.SelfSubjectAccessReview) (*authv1.SelfSubjectAccessReview, error) {
	u, err := asking(ctx)
	if err != nil {
		return nil, err
	}
	if errs := validateAttributes(review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes); len(errs) > 0 {
		return nil, invalid("SelfSubjectAccessReview", errs)
	}
	review.Status = r.ask(ctx, u, review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
	return review, nil
}

// SelfSubjectRules lists what the asking user may do in a namespace, as far as RBAC tells: kubectl auth can-i --list.
func (r *Reviews) SelfSubjectRules(ctx context.Context, review *authv1.SelfSubjectRulesReview) (*authv1.SelfSubjectRulesReview, error) {
	u, err := asking(ctx)
	if err != nil {
		return nil, err
	}
	if review.Spec.Namespace == "" {
		return nil, apierrors.NewBadRequest("no namespace on request")
	}
	resource, other, incomplete, err := r.resolver.RulesFor(ctx, u, review.Spec.Namespace)
	review.Status = authv1.SubjectRulesReviewStatus{
		ResourceRules: []authv1.ResourceRule{}, NonResourceRules: []authv1.NonResourceRule{}, Incomplete: incomplete,
	}
	for _, rule := range resource {
		review.Status.ResourceRules = append(review.Status.ResourceRules, authv1.ResourceRule{
			Verbs: rule.GetVerbs(), APIGroups: rule.GetAPIGroups(), Resources: rule.GetResources(), ResourceNames: rule.GetResourceNames(),
		})
	}
	for _, rule := range other {
		review.Status.NonResourceRules = append(review.Status.NonResourceRules, authv1.NonResourceRule{
			Verbs: rule.GetVerbs(), NonResourceURLs: rule.GetNonResourceURLs(),
		})
	}
	if err != nil {
		review.Status.EvaluationError = err.Error()
	}
	return review, nil
}

func (r *Reviews) ask(ctx context.Context, u user.Info, resource *authv1.ResourceAttributes, other *authv1.NonResourceAttributes) authv1.SubjectAccessReviewStatus {
	record := authorizer.AttributesRecord{User: u}
	var selectorErr error
	if resource != nil {
		record.ResourceRequest = true
		record.Verb, record.Namespace = resource.Verb, resource.Namespace
		record.APIGroup, record.APIVersion = resource.Group, resource.Version
		record.Resource, record.Subresource, record.Name = resource.Resource, resource.Subresource, resource.Name
		if record.APIVersion == "" {
			record.APIVersion = "*"
		}
		selectorErr = setSelectors(&record, resource)
	} else {
		record.Verb, record.Path = other.Verb, other.Path
	}
	decision, reason, err := r.auth.Authorize(ctx, record)
	status := authv1.SubjectAccessReviewStatus{
		Allowed: decision == authorizer.DecisionAllow,
		Denied:  decision == authorizer.DecisionDeny,
		Reason:  reason,
	}
	if err = errors.Join(selectorErr, err); err != nil {
		status.EvaluationError = err.Error()
	}
	return status
}

// setSelectors hands over the requirements that can be expressed; those that cannot are told and left out, which asks for
// more than was meant, never for less.
func setSelectors(record *authorizer.AttributesRecord, resource *authv1.ResourceAttributes) error {
	var errs []error
	if s := resource.FieldSelector; s != nil {
		if s.RawSelector != "" {
			selector, err := fields.ParseSelector(s.RawSelector)
			if err != nil {
				record.FieldSelectorParsingErr = err
				errs = append(errs, err)
			} else {
				record.FieldSelectorRequirements = selector.Requirements()
			}
		}
		for _, r := range s.Requirements {
			if len(r.Values) != 1 || r.Operator != metav1.FieldSelectorOpIn && r.Operator != metav1.FieldSelectorOpNotIn {
				errs = append(errs, fmt.Errorf("fieldSelector requirement on %q: operator %q with %d values cannot be evaluated", r.Key, r.Operator, len(r.Values)))
				continue
			}
			operator := selection.Equals
			if r.Operator == metav1.FieldSelectorOpNotIn {
				operator = selection.NotEquals
			}
			record.FieldSelectorRequirements = append(record.FieldSelectorRequirements, fields.Requirement{Field: r.Key, Operator: operator, Value: r.Values[0]})
		}
	}
	if s := resource.LabelSelector; s != nil {
		if s.RawSelector != "" {
			requirements, err := labels.ParseToRequirements(s.RawSelector)
			if err != nil {
				record.LabelSelectorParsingErr = err
				errs = append(errs, err)
			}
			record.LabelSelectorRequirements = requirements
		}
		operators := map[metav1.LabelSelectorOperator]selection.Operator{
			metav1.LabelSelectorOpIn: selection.In, metav1.LabelSelectorOpNotIn: selection.NotIn,
			metav1.LabelSelectorOpExists: selection.Exists, metav1.LabelSelectorOpDoesNotExist: selection.DoesNotExist,
		}
		for _, r := range s.Requirements {
			requirement, err := labels.NewRequirement(r.Key, operators[r.Operator], r.Values)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			record.LabelSelectorRequirements = append(record.LabelSelectorRequirements, *requirement)
		}
	}
	return errors.Join(errs...)
}

func asking(ctx context.Context) (user.Info, error) {
	if u := request.UserFrom(ctx); u != nil {
		return u, nil
	}
	return nil, apierrors.NewBadRequest("no user present on request")
}

func specUser(spec *authv1.SubjectAccessReviewSpec) user.Info {
	extra := make(map[string][]string, len(spec.Extra))
	for k, v := range spec.Extra {
		extra[strings.ToLower(k)] = v
	}
	return &user.DefaultInfo{Name: spec.User, Groups: spec.Groups, UID: spec.UID, Extra: extra}
}

func validateSubject(spec *authv1.SubjectAccessReviewSpec) field.ErrorList {
	errs := validateAttributes(spec.ResourceAttributes, spec.NonResourceAttributes)
	if spec.User == "" && len(spec.Groups) == 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec.user"), spec.User, "at least one of user or group must be specified"))
	}
	return errs
}

func validateAttributes(resource *authv1.ResourceAttributes, other *authv1.NonResourceAttributes) field.ErrorList {
	path := field.NewPath("spec.resourceAttributes")
	switch {
	case resource != nil && other != nil:
		return field.ErrorList{field.Invalid(field.NewPath("spec.nonResourceAttributes"), other, "cannot be specified in combination with resourceAttributes")}
	case resource == nil && other == nil:
		return field.ErrorList{field.Invalid(path, resource, "exactly one of nonResourceAttributes or resourceAttributes must be specified")}
	case resource == nil:
		return nil
	}
	var errs field.ErrorList
	if s := resource.FieldSelector; s != nil {
		if s.RawSelector != "" && len(s.Requirements) > 0 {
			errs = append(errs, field.Invalid(path.Child("fieldSelector", "rawSelector"), s.RawSelector, "may not specified at the same time as requirements"))
		} else if s.RawSelector == "" && len(s.Requirements) == 0 {
			errs = append(errs, field.Required(path.Child("fieldSelector", "requirements"), "when spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required"))
		}
	}
	if s := resource.LabelSelector; s != nil {
		if s.RawSelector != "" && len(s.Requirements) > 0 {
			errs = append(errs, field.Invalid(path.Child("labelSelector", "rawSelector"), s.RawSelector, "may not specified at the same time as requirements"))
		} else if s.RawSelector == "" && len(s.Requirements) == 0 {
			errs = append(errs, field.Required(path.Child("labelSelector", "requirements"), "when spec.resourceAttributes.labelSelector is specified, requirements or rawSelector is required"))
		}
	}
	return errs
}

func invalid(kind string, errs field.ErrorList) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: authv1.GroupName, Kind: kind}, "", errs)
}
