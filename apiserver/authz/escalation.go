package authz

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// Escalation holds the rule that nobody grants what he does not have: rules may be written into a role only by someone who
// holds them all in that namespace or may "escalate" the role, and a role may be bound only by someone who holds all its
// rules or may "bind" it.
type Escalation struct {
	rbac *RBAC
	auth authorizer.UnconditionalAuthorizer
}

// NewEscalation asks auth for the verbs escalate and bind, and rbac for what users hold.
func NewEscalation(rbac *RBAC, auth authorizer.UnconditionalAuthorizer) *Escalation {
	return &Escalation{rbac: rbac, auth: auth}
}

// Role checks that the user may write rules into a Role (namespace) or ClusterRole (no namespace). The error is Forbidden.
func (e *Escalation) Role(ctx context.Context, u user.Info, namespace, name string, rules []rbacv1.PolicyRule, aggregation *rbacv1.AggregationRule) error {
	resource := "roles"
	if namespace == "" {
		resource = "clusterroles"
	}
	gr := schema.GroupResource{Group: rbacv1.GroupName, Resource: resource}
	if e.may(ctx, u, "escalate", resource, namespace, name) {
		return nil
	}
	if aggregation != nil { // it will hold whatever others label for it
		all := []rbacv1.PolicyRule{
			{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
			{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
		}
		if err := e.covers(u, "", all); err != nil {
			return apierrors.NewForbidden(gr, name, fmt.Errorf("must have cluster-admin privileges to use an aggregationRule: %w", err))
		}
	}
	if err := e.covers(u, namespace, rules); err != nil {
		return apierrors.NewForbidden(gr, name, err)
	}
	return nil
}

// Binding checks that the user may bind the role in a namespace, or cluster-wide. The error is Forbidden, or tells that
// the role does not exist.
func (e *Escalation) Binding(ctx context.Context, u user.Info, namespace, name string, role rbacv1.RoleRef) error {
	resource := "rolebindings"
	if namespace == "" {
		resource = "clusterrolebindings"
	}
	roleResource := "roles"
	if role.Kind == "ClusterRole" {
		roleResource = "clusterroles"
	}
	if e.may(ctx, u, "bind", roleResource, namespace, role.Name) {
		return nil
	}
	rules, err := e.rbac.rules(role, namespace)
	if err != nil {
		return err
	}
	if err := e.covers(u, namespace, rules); err != nil {
		return apierrors.NewForbidden(schema.GroupResource{Group: rbacv1.GroupName, Resource: resource}, name, err)
	}
	return nil
}

func (e *Escalation) may(ctx context.Context, u user.Info, verb, resource, namespace, name string) bool {
	decision, _, err := e.auth.Authorize(ctx, authorizer.AttributesRecord{
		User: u, Verb: verb, APIGroup: rbacv1.GroupName, APIVersion: "*", Resource: resource,
		Namespace: namespace, Name: name, ResourceRequest: true,
	})
	return err == nil && decision == authorizer.DecisionAllow
}

// covers fails if the user lacks one of the rules.
func (e *Escalation) covers(u user.Info, namespace string, rules []rbacv1.PolicyRule) error {
	if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		return nil
	}
	held, err := e.rbac.Rules(u, namespace)
	ok, missing := validation.Covers(held, rules)
	if ok {
		return nil
	}
	text := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s", u.GetName(), u.GetGroups(), strings.Join(compactRules(missing), "\n"))
	if err != nil {
		text += fmt.Sprintf("; resolution errors: %v", err)
	}
	return fmt.Errorf("%s", text)
}

// compactRules joins the verbs of rules that differ in nothing else, and writes them as upstream does.
func compactRules(rules []rbacv1.PolicyRule) []string {
	verbs := map[string][]string{}
	for _, r := range rules {
		key := ""
		if len(r.NonResourceURLs) > 0 {
			key += fmt.Sprintf("NonResourceURLs:%q, ", r.NonResourceURLs)
		}
		if len(r.Resources) > 0 {
			key += fmt.Sprintf("APIGroups:%q, Resources:%q, ", r.APIGroups, r.Resources)
		}
		if len(r.ResourceNames) > 0 {
			key += fmt.Sprintf("ResourceNames:%q, ", r.ResourceNames)
		}
		verbs[key] = append(verbs[key], r.Verbs...)
	}
	out := make([]string, 0, len(verbs))
	for key, v := range verbs {
		slices.Sort(v)
		out = append(out, fmt.Sprintf("{%sVerbs:%q}", key, slices.Compact(v)))
	}
	slices.Sort(out)
	for i := range out {
		out[i] = strings.ReplaceAll(out[i], `" "`, `", "`) // %q writes slices without commas
	}
	return out
}
