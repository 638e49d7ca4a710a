package authz

import (
	"context"
	"errors"
	"fmt"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
	"k8s.io/client-go/tools/cache"
)

// RBAC decides by Roles, ClusterRoles and their bindings. It is safe for concurrent use.
type RBAC struct {
	roles           rbaclisters.RoleLister
	clusterRoles    rbaclisters.ClusterRoleLister
	bindings        cache.Indexer
	clusterBindings cache.Indexer
}

var (
	_ authorizer.UnconditionalAuthorizer = (*RBAC)(nil)
	_ authorizer.RuleResolver            = (*RBAC)(nil)
)

// bySubject is the index of bindings by subjectKey, for RoleBindings with the namespace in front.
const bySubject = "authz.subject"

// NewRBAC reads through the factory's informers, which must not have been started for other than reading ahead: it adds
// indexes to those of bindings.
func NewRBAC(factory informers.SharedInformerFactory) (*RBAC, error) {
	api := factory.Rbac().V1()
	r := &RBAC{
		roles:           api.Roles().Lister(),
		clusterRoles:    api.ClusterRoles().Lister(),
		bindings:        api.RoleBindings().Informer().GetIndexer(),
		clusterBindings: api.ClusterRoleBindings().Informer().GetIndexer(),
	}
	err := errors.Join(
		addIndex(api.RoleBindings().Informer(), bySubject, func(obj any) ([]string, error) {
			b, ok := obj.(*rbacv1.RoleBinding)
			if !ok {
				return nil, nil
			}
			return subjectKeys(b.Namespace+"/", b.Namespace, b.Subjects), nil
		}),
		addIndex(api.ClusterRoleBindings().Informer(), bySubject, func(obj any) ([]string, error) {
			b, ok := obj.(*rbacv1.ClusterRoleBinding)
			if !ok {
				return nil, nil
			}
			return subjectKeys("", "", b.Subjects), nil
		}),
	)
	return r, err
}

// addIndex adds an index unless it is there: several authorizers may share one factory.
func addIndex(informer cache.SharedIndexInformer, name string, index cache.IndexFunc) error {
	if _, ok := informer.GetIndexer().GetIndexers()[name]; ok {
		return nil
	}
	return informer.AddIndexers(cache.Indexers{name: index})
}

func subjectKeys(prefix, namespace string, subjects []rbacv1.Subject) []string {
	keys := make([]string, 0, len(subjects))
	for i := range subjects {
		s := &subjects[i]
		switch s.Kind {
		case rbacv1.UserKind:
			keys = append(keys, prefix+"u:"+s.Name)
		case rbacv1.GroupKind:
			keys = append(keys, prefix+"g:"+s.Name)
		case rbacv1.ServiceAccountKind:
			ns := s.Namespace
			if ns == "" {
				ns = namespace
			}
			if ns != "" {
				keys = append(keys, prefix+"u:"+serviceaccount.MakeUsername(ns, s.Name))
			}
		}
	}
	return keys
}

// granted is a role as one binding of it reaches a user.
type granted struct {
	rules   []rbacv1.PolicyRule
	binding string // for the reason: ClusterRoleBinding "x"
	role    rbacv1.RoleRef
	subject string // `Group "system:masters"`
}

// Authorize allows what a rule allows, and has no opinion otherwise. Bindings to roles that do not exist are told in the
// reason.
func (r *RBAC) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	var reason string
	allowed := false
	missing := r.visit(a.GetUser(), a.GetNamespace(), func(g granted) bool {
		for i := range g.rules {
			if allows(&g.rules[i], a) {
				allowed = true
				reason = fmt.Sprintf("RBAC: allowed by %s of %s %q to %s", g.binding, g.role.Kind, g.role.Name, g.subject)
				return false
			}
		}
		return true
	})
	if allowed {
		return authorizer.DecisionAllow, reason, nil
	}
	if len(missing) > 0 {
		reason = "RBAC: " + joinErrors(missing)
	}
	return authorizer.DecisionNoOpinion, reason, nil
}

// visit calls see for every role that reaches the user, until it returns false: through ClusterRoleBindings, and in a
// namespace also through its RoleBindings. It returns the errors of bindings whose role cannot be read.
func (r *RBAC) visit(u user.Info, namespace string, see func(granted) bool) (missing []error) {
	groups := u.GetGroups()
	for i := -1; i < len(groups); i++ {
		key, subject := "u:"+u.GetName(), ""
		if i >= 0 {
			key = "g:" + groups[i]
		}
		bindings, _ := r.clusterBindings.ByIndex(bySubject, key)
		for _, obj := range bindings {
			b := obj.(*rbacv1.ClusterRoleBinding)
			role, err := r.clusterRoles.Get(b.RoleRef.Name)
			if err != nil {
				missing = append(missing, err)
				continue
			}
			if subject == "" {
				subject = describe(u, groups, i)
			}
			if !see(granted{rules: role.Rules, binding: `ClusterRoleBinding "` + b.Name + `"`, role: b.RoleRef, subject: subject}) {
				return missing
			}
		}
		if namespace == "" {
			continue
		}
		bindings, _ = r.bindings.ByIndex(bySubject, namespace+"/"+key)
		for _, obj := range bindings {
			b := obj.(*rbacv1.RoleBinding)
			rules, err := r.rules(b.RoleRef, namespace)
			if err != nil {
				missing = append(missing, err)
				continue
			}
			if subject == "" {
				subject = describe(u, groups, i)
			}
			if !see(granted{rules: rules, binding: `RoleBinding "` + b.Name + "/" + namespace + `"`, role: b.RoleRef, subject: subject}) {
				return missing
			}
		}
	}
	return missing
}

// rules are those of a role; a Role is looked up in the namespace.
func (r *RBAC) rules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	switch ref.Kind {
	case "ClusterRole":
		role, err := r.clusterRoles.Get(ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	case "Role":
		role, err := r.roles.Roles(namespace).Get(ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	}
	return nil, fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
}

func describe(u user.Info, groups []string, i int) string {
	if i >= 0 {
		return fmt.Sprintf("Group %q", groups[i])
	}
	if ns, name, err := serviceaccount.SplitUsername(u.GetName()); err == nil {
		return fmt.Sprintf("ServiceAccount %q", name+"/"+ns)
	}
	return fmt.Sprintf("User %q", u.GetName())
}

// Rules are all rules that reach the user in the namespace ("": only cluster-wide ones). The error tells of bindings whose
// role cannot be read; the rules of all others are returned with it.
func (r *RBAC) Rules(u user.Info, namespace string) ([]rbacv1.PolicyRule, error) {
	var rules []rbacv1.PolicyRule
	missing := r.visit(u, namespace, func(g granted) bool {
		rules = append(rules, g.rules...)
		return true
	})
	return rules, errors.Join(missing...)
}

// RulesFor is Rules in the shape of a rules review.
func (r *RBAC) RulesFor(_ context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	rules, err := r.Rules(u, namespace)
	var resource []authorizer.ResourceRuleInfo
	var other []authorizer.NonResourceRuleInfo
	for _, rule := range rules {
		if len(rule.Resources) > 0 {
			resource = append(resource, &authorizer.DefaultResourceRuleInfo{
				Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames,
			})
		}
		if len(rule.NonResourceURLs) > 0 {
			other = append(other, &authorizer.DefaultNonResourceRuleInfo{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
		}
	}
	return resource, other, false, err
}

func joinErrors(errs []error) string {
	if len(errs) == 1 {
		return errs[0].Error()
	}
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = err.Error()
	}
	return "[" + strings.Join(texts, ", ") + "]"
}
