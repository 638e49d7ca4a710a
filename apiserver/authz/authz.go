package authz

import (
	"context"
	"errors"
	"slices"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
)

// Chain asks authorizers in order: the first to allow or deny decides; the reasons of those without an opinion are kept.
type Chain []authorizer.UnconditionalAuthorizer

var _ authorizer.Authorizer = Chain(nil)

// New makes the server's authorizer, and the RBAC in it for rules reviews and escalation checks.
func New(factory informers.SharedInformerFactory, client kubernetes.Interface) (authorizer.Authorizer, *RBAC, error) {
	rbac, err := NewRBAC(factory)
	if err != nil {
		return nil, nil, err
	}
	node, err := NewNode(factory, client)
	if err != nil {
		return nil, nil, err
	}
	return Chain{Masters{}, node, rbac}, rbac, nil
}

// Authorize implements authorizer.Authorizer.
func (c Chain) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	var reason string
	var errs []error
	for _, one := range c {
		decision, why, err := one.Authorize(ctx, a)
		if decision != authorizer.DecisionNoOpinion {
			return decision, why, err
		}
		if err != nil {
			errs = append(errs, err)
		}
		if why != "" {
			if reason != "" {
				reason += "\n"
			}
			reason += why
		}
	}
	return authorizer.DecisionNoOpinion, reason, errors.Join(errs...)
}

// ConditionsAwareAuthorize implements authorizer.Authorizer: no decision here is conditional.
func (c Chain) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(c.Authorize(ctx, a))
}

// EvaluateConditions implements authorizer.Authorizer.
func (c Chain) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// Masters allows everything to the group system:masters.
type Masters struct{}

// Authorize implements authorizer.UnconditionalAuthorizer.
func (Masters) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if u := a.GetUser(); u != nil && slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}
