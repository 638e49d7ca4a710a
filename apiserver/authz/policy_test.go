package authz

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/component-helpers/auth/rbac/validation"
)

func TestDefaultPolicyIsWhole(t *testing.T) {
	p := DefaultPolicy()
	roles := map[string]*rbacv1.ClusterRole{}
	for _, r := range p.ClusterRoles {
		if roles[r.Name] != nil {
			t.Errorf("ClusterRole %s twice", r.Name)
		}
		roles[r.Name] = r
		if len(r.Rules) == 0 {
			t.Errorf("ClusterRole %s has no rules", r.Name)
		}
		for _, rule := range r.Rules {
			if len(rule.Verbs) == 0 || (len(rule.NonResourceURLs) == 0) == (len(rule.Resources) == 0) {
				t.Errorf("ClusterRole %s: odd rule %v", r.Name, rule)
			}
		}
	}
	for _, b := range p.ClusterRoleBindings {
		if roles[b.RoleRef.Name] == nil {
			t.Errorf("ClusterRoleBinding %s: no ClusterRole %s", b.Name, b.RoleRef.Name)
		}
	}
	for _, b := range p.RoleBindings {
		if !slices.ContainsFunc(p.Roles, func(r *rbacv1.Role) bool { return r.Namespace == b.Namespace && r.Name == b.RoleRef.Name }) {
			t.Errorf("RoleBinding %s/%s: no Role %s", b.Namespace, b.Name, b.RoleRef.Name)
		}
	}
	for big, small := range map[string]string{"admin": "edit", "edit": "view", "cluster-admin": "admin"} {
		if ok, missing := validation.Covers(roles[big].Rules, roles[small].Rules); !ok {
			t.Errorf("%s lacks %v of %s", big, missing, small)
		}
	}
	if ok, _ := validation.Covers(roles["view"].Rules, []rbacv1.PolicyRule{rule("get", "", "secrets")}); ok {
		t.Error("view reads secrets")
	}
}

func TestEnsurePolicy(t *testing.T) {
	ctx := t.Context()
	policy := DefaultPolicy()
	client := fake.NewClientset()
	if err := EnsurePolicy(ctx, client, policy); err != nil {
		t.Fatal(err)
	}
	roles, _ := client.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{})
	bindings, _ := client.RbacV1().ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if len(roles.Items) != len(policy.ClusterRoles) || len(bindings.Items) != len(policy.ClusterRoleBindings) {
		t.Fatalf("%d roles and %d bindings", len(roles.Items), len(bindings.Items))
	}

	// Again: nothing is written.
	client.ClearActions()
	if err := EnsurePolicy(ctx, client, DefaultPolicy()); err != nil {
		t.Fatal(err)
	}
	for _, a := range client.Actions() {
		if a.GetVerb() != "list" {
			t.Errorf("second run: %s %s", a.GetVerb(), a.GetResource().Resource)
		}
	}

	// People's changes: taken rules come back, added ones stay; the protected role stays as it is; the wrong roleRef is mended.
	get := func(name string) *rbacv1.ClusterRole {
		r, err := client.RbacV1().ClusterRoles().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	basic := get("system:basic-user")
	basic.Rules = []rbacv1.PolicyRule{rule("get", "", "nodes")}
	basic.Labels = nil
	protected := get("system:discovery")
	protected.Annotations[rbacv1.AutoUpdateAnnotationKey] = "false"
	protected.Rules = nil
	for _, r := range []*rbacv1.ClusterRole{basic, protected} {
		if _, err := client.RbacV1().ClusterRoles().Update(ctx, r, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	b, _ := client.RbacV1().ClusterRoleBindings().Get(ctx, "cluster-admin", metav1.GetOptions{})
	b.RoleRef.Name = "view"
	if _, err := client.RbacV1().ClusterRoleBindings().Update(ctx, b, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := EnsurePolicy(ctx, client, DefaultPolicy()); err != nil {
		t.Fatal(err)
	}
	basic = get("system:basic-user")
	if ok, missing := validation.Covers(basic.Rules, []rbacv1.PolicyRule{
		rule("get", "", "nodes"), rule("create", "authorization.k8s.io", "selfsubjectaccessreviews"),
	}); !ok || basic.Labels["kubernetes.io/bootstrapping"] != "rbac-defaults" {
		t.Errorf("missing %v, labels %v", missing, basic.Labels)
	}
	if len(get("system:discovery").Rules) != 0 {
		t.Error("the protected role was changed")
	}
	if b, _ = client.RbacV1().ClusterRoleBindings().Get(ctx, "cluster-admin", metav1.GetOptions{}); b.RoleRef.Name != "cluster-admin" {
		t.Error("roleRef was not mended")
	}
}

func TestEscalation(t *testing.T) {
	objects := append(policyObjects(),
		roleBinding("team", "admins", "ClusterRole", "admin", subject("ada")),
		roleBinding("team", "rbac", "Role", "rbac", subject("rob")),
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "rbac"}, Rules: []rbacv1.PolicyRule{
			rule("*", rbacv1.GroupName, "roles rolebindings"), named("bind", rbacv1.GroupName, "clusterroles", "view"),
		}},
	)
	auth, rbac, _ := authorizerFor(t, objects...)
	e := NewEscalation(rbac, auth)
	clusterRole := func(name string) rbacv1.RoleRef {
		return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name}
	}
	cases := map[string]struct {
		err  error
		want string // "" is no error
	}{
		"master grants all":                 {e.Role(t.Context(), person("root", user.SystemPrivilegedGroup), "", "x", []rbacv1.PolicyRule{rule("*", "*", "*")}, &rbacv1.AggregationRule{}), ""},
		"admin grants what he has":          {e.Role(t.Context(), person("ada"), "team", "x", []rbacv1.PolicyRule{rule("get list", "", "pods")}, nil), ""},
		"admin grants what he has not":      {e.Role(t.Context(), person("ada"), "team", "x", []rbacv1.PolicyRule{rule("get list", "", "nodes")}, nil), `roles.rbac.authorization.k8s.io "x" is forbidden: user "ada" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently held:` + "\n" + `{APIGroups:[""], Resources:["nodes"], Verbs:["get", "list"]}`},
		"admin grants elsewhere":            {e.Role(t.Context(), person("ada"), "other", "x", []rbacv1.PolicyRule{rule("get", "", "pods")}, nil), "not currently held"},
		"escalate":                          {e.Role(t.Context(), person("rob"), "team", "x", []rbacv1.PolicyRule{rule("*", "*", "*")}, nil), ""},
		"admin binds a smaller role":        {e.Binding(t.Context(), person("ada"), "team", "x", clusterRole("edit")), ""},
		"admin binds a bigger role":         {e.Binding(t.Context(), person("ada"), "team", "x", clusterRole("cluster-admin")), `rolebindings.rbac.authorization.k8s.io "x" is forbidden: user "ada"`},
		"admin binds cluster-wide":          {e.Binding(t.Context(), person("ada"), "", "x", clusterRole("view")), `clusterrolebindings.rbac.authorization.k8s.io "x" is forbidden`},
		"bind":                              {e.Binding(t.Context(), person("rob"), "team", "x", clusterRole("view")), ""},
		"bind another":                      {e.Binding(t.Context(), person("rob"), "team", "x", clusterRole("edit")), "not currently held"},
		"role does not exist":               {e.Binding(t.Context(), person("ada"), "team", "x", clusterRole("none")), `clusterrole.rbac.authorization.k8s.io "none" not found`},
		"aggregation by a namespaced admin": {e.Role(t.Context(), person("ada"), "", "x", nil, &rbacv1.AggregationRule{}), "must have cluster-admin privileges to use an aggregationRule"},
	}
	for name, c := range cases {
		if c.want == "" && c.err != nil || c.want != "" && (c.err == nil || !strings.Contains(c.err.Error(), c.want)) {
			t.Errorf("%s: %v", name, c.err)
		}
		if c.err != nil && !apierrors.IsForbidden(c.err) && !apierrors.IsNotFound(c.err) {
			t.Errorf("%s: %T is no Forbidden", name, c.err)
		}
	}
}

func TestAggregation(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	client := fake.NewClientset(policyObjects()...)
	factory := informers.NewSharedInformerFactory(client, 0)
	g := NewAggregation(client, factory, slog.New(slog.NewTextHandler(io.Discard, nil)))
	factory.Start(ctx.Done())
	done := make(chan error)
	go func() { done <- g.Run(ctx) }()
	defer factory.Shutdown()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	watch, err := client.RbacV1().ClusterRoles().Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	crontabs := rule("get", "example.org", "crontabs")
	await := func(name string, want bool) {
		t.Helper()
		for event := range watch.ResultChan() {
			r := event.Object.(*rbacv1.ClusterRole)
			if got, _ := validation.Covers(r.Rules, []rbacv1.PolicyRule{crontabs}); r.Name == name && got == want {
				return
			}
		}
	}
	extra := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "crontabs", Labels: labels.Set{aggregateLabel + "view": "true"}}, Rules: []rbacv1.PolicyRule{crontabs}}
	if _, err := client.RbacV1().ClusterRoles().Create(ctx, extra, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	await("admin", true) // through view and edit
	if err := client.RbacV1().ClusterRoles().Delete(ctx, "crontabs", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await("admin", false)
}
