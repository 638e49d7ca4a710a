package rbac

import (
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
	"sigs.k8s.io/yaml"
)

func TestValidation(t *testing.T) {
	role := func() store.Object { return &rbacv1.Role{} }
	clusterRole := func() store.Object { return &rbacv1.ClusterRole{} }
	binding := func() store.Object { return &rbacv1.RoleBinding{} }
	clusterBinding := func() store.Object { return &rbacv1.ClusterRoleBinding{} }
	for _, test := range []struct {
		name     string
		row      registry.Resource
		make     func() store.Object
		manifest string
		want     string // "" is accepted
	}{
		{"role", Role(), role, `{metadata: {name: "a:b", namespace: n}, rules: [{verbs: [get], apiGroups: [""], resources: [pods]}]}`, ""},
		{"role_name", Role(), role, `{metadata: {name: "a/b", namespace: n}}`, `metadata.name: Invalid value: "a/b": may not contain '/'`},
		{"no_verbs", Role(), role, `{metadata: {name: a, namespace: n}, rules: [{apiGroups: [""], resources: [pods]}]}`, "rules[0].verbs: Required value: verbs must contain at least one value"},
		{"no_groups", Role(), role, `{metadata: {name: a, namespace: n}, rules: [{verbs: [get], resources: [pods]}]}`, "rules[0].apiGroups: Required value: resource rules must supply at least one api group"},
		{"no_resources", Role(), role, `{metadata: {name: a, namespace: n}, rules: [{verbs: [get], apiGroups: [""]}]}`, "rules[0].resources: Required value: resource rules must supply at least one resource"},
		{"urls_in_namespace", Role(), role, `{metadata: {name: a, namespace: n}, rules: [{verbs: [get], nonResourceURLs: [/x]}]}`, "namespaced rules cannot apply to non-resource URLs"},
		{"clusterrole", ClusterRole(), clusterRole, `{metadata: {name: "system:a"}, rules: [{verbs: [get], nonResourceURLs: [/x]}]}`, ""},
		{"urls_and_resources", ClusterRole(), clusterRole, `{metadata: {name: a}, rules: [{verbs: [get], nonResourceURLs: [/x], resources: [pods]}]}`, "rules cannot apply to both regular resources and non-resource URLs"},
		{"aggregation", ClusterRole(), clusterRole, `{metadata: {name: a}, aggregationRule: {}}`, "at least one clusterRoleSelector required if aggregationRule is non-nil"},
		{"binding", RoleBinding(), binding, `{metadata: {name: a, namespace: n}, roleRef: {kind: Role, name: r}, subjects: [{kind: User, name: u}, {kind: ServiceAccount, name: s, namespace: n}]}`, ""},
		{"ref_kind", RoleBinding(), binding, `{metadata: {name: a, namespace: n}, roleRef: {kind: Pod, name: r}}`, `roleRef.kind: Unsupported value: "Pod": supported values: "Role", "ClusterRole"`},
		{"ref_name", RoleBinding(), binding, `{metadata: {name: a, namespace: n}, roleRef: {kind: Role}}`, "roleRef.name: Required value"},
		{"subject_kind", RoleBinding(), binding, `{metadata: {name: a, namespace: n}, roleRef: {kind: Role, name: r}, subjects: [{kind: Robot, name: u}]}`, `subjects[0].kind: Unsupported value: "Robot"`},
		{"subject_name", RoleBinding(), binding, `{metadata: {name: a, namespace: n}, roleRef: {kind: Role, name: r}, subjects: [{kind: User}]}`, "subjects[0].name: Required value"},
		{"role_in_cluster", ClusterRoleBinding(), clusterBinding, `{metadata: {name: a}, roleRef: {kind: Role, name: r}}`, `roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"`},
		{"account_namespace", ClusterRoleBinding(), clusterBinding, `{metadata: {name: a}, roleRef: {kind: ClusterRole, name: r}, subjects: [{kind: ServiceAccount, name: s}]}`, "subjects[0].namespace: Required value"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := test.make()
			if err := yaml.UnmarshalStrict([]byte(test.manifest), o); err != nil {
				t.Fatal(err)
			}
			if test.row.Default != nil {
				test.row.Default(o)
			}
			errs := test.row.Strategy.Validate(t.Context(), o)
			if test.want == "" && len(errs) > 0 {
				t.Errorf("refused: %v", errs)
			}
			if test.want != "" && (len(errs) == 0 || !strings.Contains(errs.ToAggregate().Error(), test.want)) {
				t.Errorf("want %s\ngot  %v", test.want, errs)
			}
		})
	}
}

func TestRoleRefIsForLife(t *testing.T) {
	old := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "n", ResourceVersion: "1"}, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "r", APIGroup: rbacv1.GroupName}}
	b := old.DeepCopy()
	b.RoleRef.Name = "other"
	errs := RoleBinding().Strategy.ValidateUpdate(t.Context(), b, old)
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), "cannot change roleRef") {
		t.Errorf("%v", errs)
	}
}

func TestCells(t *testing.T) {
	b := &rbacv1.ClusterRoleBinding{RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "admin"}, Subjects: []rbacv1.Subject{
		{Kind: "User", Name: "u"}, {Kind: "User", Name: "v"}, {Kind: "Group", Name: "g"}, {Kind: "ServiceAccount", Namespace: "n", Name: "s"},
	}}
	cells := ClusterRoleBinding().Table.Cells(b)
	if cells[1] != "ClusterRole/admin" || cells[3] != "u, v" || cells[4] != "g" || cells[5] != "n/s" {
		t.Errorf("%v", cells)
	}
	r := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(time.Unix(0, 0))}}
	if cells := Role().Table.Cells(r); cells[1] != "1970-01-01T00:00:00Z" {
		t.Errorf("%v", cells)
	}
}
