package fairness

import (
	"testing"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/authentication/user"
	"sigs.k8s.io/yaml"

	"github.com/mini-k8s/mini/apiserver/request"
)

// usual is a dispatcher with the objects that every cluster has, and with those given.
func usual(t testing.TB, config Config, schemas []*flowcontrolv1.FlowSchema, levels []*flowcontrolv1.PriorityLevelConfiguration) *Dispatcher {
	t.Helper()
	d := New(config)
	for _, list := range [][]*flowcontrolv1.FlowSchema{bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas} {
		schemas = append(schemas, list...)
	}
	for _, list := range [][]*flowcontrolv1.PriorityLevelConfiguration{bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations} {
		levels = append(levels, list...)
	}
	d.Set(schemas, levels)
	return d
}

func parse[T any](t testing.TB, text string) *T {
	t.Helper()
	o := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
		t.Fatal(err)
	}
	return o
}

func schema(t testing.TB, text string) *flowcontrolv1.FlowSchema {
	return parse[flowcontrolv1.FlowSchema](t, text)
}

func priority(t testing.TB, text string) *flowcontrolv1.PriorityLevelConfiguration {
	return parse[flowcontrolv1.PriorityLevelConfiguration](t, text)
}

func asker(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)}
}

var (
	admin   = asker("admin", user.SystemPrivilegedGroup)
	kubelet = asker("system:node:n1", user.NodesGroup)
	account = asker("system:serviceaccount:default:web", "system:serviceaccounts", "system:serviceaccounts:default")
	dns     = asker("system:serviceaccount:kube-system:dns", "system:serviceaccounts", "system:serviceaccounts:kube-system")
	alice   = asker("alice", "developers")
	nobody  = &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}
)

func ask(verb, group, namespace, resource, sub string) *request.Info {
	return &request.Info{IsResource: true, Verb: verb, Group: group, Namespace: namespace, Resource: resource, Subresource: sub}
}

func path(verb, path string) *request.Info { return &request.Info{Verb: verb, Path: path} }

func TestUsualSchemas(t *testing.T) {
	d := usual(t, Config{Seats: 600}, nil, nil)
	for _, c := range []struct {
		who                 user.Info
		info                *request.Info
		schema, level, flow string
	}{
		{admin, ask("list", "", "", "pods", ""), "exempt", "exempt", ""},
		{admin, path("get", "/metrics"), "exempt", "exempt", ""},
		{nobody, path("get", "/healthz"), "probes", "exempt", ""},
		{nobody, path("get", "/readyz/etcd"), "probes", "exempt", ""},
		{nobody, path("get", "/readyzz"), "global-default", "global-default", user.Anonymous},
		{nobody, path("post", "/healthz"), "global-default", "global-default", user.Anonymous},
		{kubelet, ask("patch", "", "", "nodes", "status"), "system-node-high", "node-high", "system:node:n1"},
		{kubelet, ask("update", "coordination.k8s.io", "kube-node-lease", "leases", ""), "system-node-high", "node-high", "system:node:n1"},
		{kubelet, ask("patch", "", "default", "pods", "status"), "system-nodes", "system", "system:node:n1"},
		{kubelet, ask("get", "", "", "nodes", "proxy"), "system-nodes", "system", "system:node:n1"},
		{dns, ask("update", "coordination.k8s.io", "kube-system", "leases", ""), "system-leader-election", "leader-election", "system:serviceaccount:kube-system:dns"},
		{dns, ask("list", "coordination.k8s.io", "kube-system", "leases", ""), "kube-system-service-accounts", "workload-high", "kube-system"},
		{asker("system:kube-scheduler"), ask("create", "", "a", "pods", "binding"), "kube-scheduler", "workload-high", "a"},
		{account, ask("get", "", "default", "pods", ""), "service-accounts", "workload-low", account.GetName()},
		{account, path("get", "/version"), "service-accounts", "workload-low", account.GetName()},
		{alice, ask("get", "", "default", "pods", ""), "global-default", "global-default", "alice"},
		{&user.DefaultInfo{Name: "stray"}, ask("get", "", "default", "pods", ""), "catch-all", "catch-all", "stray"}, // in no group at all
	} {
		s := d.Classify(c.who, c.info)
		if got := [3]string{s.name, s.level.name, s.flow(c.who, c.info)}; got != [3]string{c.schema, c.level, c.flow} {
			t.Errorf("%s %+v: %v, want %s %s %q", c.who.GetName(), c.info, got, c.schema, c.level, c.flow)
		}
	}
}

func TestRules(t *testing.T) {
	all := `resourceRules: [{verbs: ["*"], apiGroups: ["*"], resources: ["*"], namespaces: ["*"], clusterScope: true}], nonResourceRules: [{verbs: ["*"], nonResourceURLs: ["*"]}]`
	resources := func(rule string) string {
		return `{subjects: [{kind: User, user: {name: "*"}}], resourceRules: [` + rule + `]}`
	}
	for name, c := range map[string]struct {
		rule string
		yes  []*request.Info
		no   []*request.Info
		who  user.Info
	}{
		"user":              {rule: `{subjects: [{kind: User, user: {name: alice}}], ` + all + `}`, yes: []*request.Info{path("get", "/x")}},
		"other_user":        {rule: `{subjects: [{kind: User, user: {name: bob}}], ` + all + `}`, no: []*request.Info{path("get", "/x")}},
		"second_subject":    {rule: `{subjects: [{kind: User, user: {name: bob}}, {kind: Group, group: {name: developers}}], ` + all + `}`, yes: []*request.Info{path("get", "/x")}},
		"every_group":       {rule: `{subjects: [{kind: Group, group: {name: "*"}}], ` + all + `}`, yes: []*request.Info{path("get", "/x")}},
		"account":           {who: account, rule: `{subjects: [{kind: ServiceAccount, serviceAccount: {namespace: default, name: web}}], ` + all + `}`, yes: []*request.Info{path("get", "/x")}},
		"other_account":     {who: account, rule: `{subjects: [{kind: ServiceAccount, serviceAccount: {namespace: default, name: we}}], ` + all + `}`, no: []*request.Info{path("get", "/x")}},
		"accounts":          {who: account, rule: `{subjects: [{kind: ServiceAccount, serviceAccount: {namespace: default, name: "*"}}], ` + all + `}`, yes: []*request.Info{path("get", "/x")}},
		"others_accounts":   {who: account, rule: `{subjects: [{kind: ServiceAccount, serviceAccount: {namespace: def, name: "*"}}], ` + all + `}`, no: []*request.Info{path("get", "/x")}},
		"user_no_account":   {rule: `{subjects: [{kind: ServiceAccount, serviceAccount: {namespace: default, name: "*"}}], ` + all + `}`, no: []*request.Info{path("get", "/x")}},
		"verb":              {rule: resources(`{verbs: [get, list], apiGroups: ["*"], resources: ["*"], namespaces: ["*"]}`), yes: []*request.Info{ask("list", "", "a", "pods", "")}, no: []*request.Info{ask("watch", "", "a", "pods", "")}},
		"group":             {rule: resources(`{verbs: ["*"], apiGroups: [""], resources: ["*"], namespaces: ["*"]}`), yes: []*request.Info{ask("list", "", "a", "pods", "")}, no: []*request.Info{ask("list", "apps", "a", "deployments", "")}},
		"resource":          {rule: resources(`{verbs: ["*"], apiGroups: ["*"], resources: [pods, pods/exec], namespaces: ["*"]}`), yes: []*request.Info{ask("get", "", "a", "pods", ""), ask("create", "", "a", "pods", "exec")}, no: []*request.Info{ask("get", "", "a", "pods", "log"), ask("get", "", "a", "nodes", "")}},
		"namespace":         {rule: resources(`{verbs: ["*"], apiGroups: ["*"], resources: ["*"], namespaces: [a]}`), yes: []*request.Info{ask("get", "", "a", "pods", "")}, no: []*request.Info{ask("get", "", "b", "pods", ""), ask("list", "", "", "pods", "")}},
		"cluster_scope":     {rule: resources(`{verbs: ["*"], apiGroups: ["*"], resources: ["*"], clusterScope: true}`), yes: []*request.Info{ask("list", "", "", "pods", "")}, no: []*request.Info{ask("get", "", "b", "pods", "")}},
		"star_among_others": {rule: resources(`{verbs: ["*", get], apiGroups: ["*"], resources: ["*"], namespaces: ["*"]}`), yes: []*request.Info{ask("get", "", "a", "pods", "")}, no: []*request.Info{ask("list", "", "a", "pods", "")}},
		"only_resources":    {rule: resources(`{verbs: ["*"], apiGroups: ["*"], resources: ["*"], namespaces: ["*"], clusterScope: true}`), no: []*request.Info{path("get", "/x")}},
		"paths": {
			rule: `{subjects: [{kind: User, user: {name: "*"}}], nonResourceRules: [{verbs: [get], nonResourceURLs: ["/a", "/b/*"]}]}`,
			yes:  []*request.Info{path("get", "/a"), path("get", "/a/b"), path("get", "/b/c")},
			no:   []*request.Info{path("get", "/ab"), path("get", "/b"), path("put", "/a"), ask("get", "", "a", "pods", "")},
		},
		"no_rules": {rule: `{subjects: [{kind: User, user: {name: "*"}}]}`, no: []*request.Info{path("get", "/x"), ask("get", "", "a", "pods", "")}},
	} {
		t.Run(name, func(t *testing.T) {
			own := schema(t, `{metadata: {name: own}, spec: {matchingPrecedence: 10, priorityLevelConfiguration: {name: catch-all}, rules: [`+c.rule+`]}}`)
			d := usual(t, Config{Seats: 600}, []*flowcontrolv1.FlowSchema{own}, nil)
			who := c.who
			if who == nil {
				who = alice
			}
			for _, info := range c.yes {
				if got := d.Classify(who, info).name; got != "own" {
					t.Errorf("%+v: %s", info, got)
				}
			}
			for _, info := range c.no {
				if got := d.Classify(who, info).name; got == "own" {
					t.Errorf("%+v matches", info)
				}
			}
		})
	}
}

// TestOrder: precedence comes before names, a schema without a level is passed over, and mandatory ones are always there.
func TestOrder(t *testing.T) {
	everybody := func(name string, precedence int32, level string) *flowcontrolv1.FlowSchema {
		return &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: flowcontrolv1.FlowSchemaSpec{
			MatchingPrecedence: precedence, PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: level},
			Rules: bootstrap.MandatoryFlowSchemaCatchAll.Spec.Rules,
		}}
	}
	own := priority(t, `{metadata: {name: own, uid: u}, spec: {type: Limited, limited: {limitResponse: {type: Reject}}}}`)
	levels := []*flowcontrolv1.PriorityLevelConfiguration{own}
	pods := ask("get", "", "default", "pods", "")
	d := New(Config{Seats: 10, Wait: time.Second})
	for _, step := range []struct {
		schemas []*flowcontrolv1.FlowSchema
		levels  []*flowcontrolv1.PriorityLevelConfiguration
		want    string
	}{
		{want: "catch-all"},
		{schemas: []*flowcontrolv1.FlowSchema{everybody("b", 20, "own"), everybody("a", 20, "own"), everybody("z", 21, "own")}, levels: levels, want: "a"},
		{schemas: []*flowcontrolv1.FlowSchema{everybody("b", 20, "own"), everybody("a", 20, "own"), everybody("z", 19, "own")}, levels: levels, want: "z"},
		{schemas: []*flowcontrolv1.FlowSchema{everybody("a", 20, "none"), everybody("z", 21, "own")}, levels: levels, want: "z"},
		{schemas: []*flowcontrolv1.FlowSchema{everybody("z", 21, "own")}, want: "catch-all"},
	} {
		d.Set(step.schemas, step.levels)
		if got := d.Classify(alice, pods); got.name != step.want {
			t.Errorf("%s, want %s", got.name, step.want)
		}
		if got := d.Classify(admin, pods); got.name != "exempt" || !got.Exempt() {
			t.Errorf("a master's is %s", got.name)
		}
		if step.want == "z" {
			h := map[string][]string{}
			d.Classify(alice, pods).SetHeaders(h)
			if h["X-Kubernetes-Pf-Flowschema-Uid"][0] != "z" || h["X-Kubernetes-Pf-Prioritylevel-Uid"][0] != "u" {
				t.Errorf("%v", h)
			}
		}
	}
}

func BenchmarkUncontended(b *testing.B) {
	d := usual(b, Config{Seats: 600, Wait: time.Second}, nil, nil)
	pods := ask("get", "", "default", "pods", "")
	for name, who := range map[string]user.Info{"exempt": admin, "account": account, "person": alice} {
		one := func(b *testing.B) {
			s := d.Classify(who, pods)
			seat, ok := d.Enter(b.Context(), s, who, pods, 1)
			if !ok {
				b.Fatal("refused")
			}
			seat.Leave()
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				one(b)
			}
		})
		b.Run(name+"_parallel", func(b *testing.B) {
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					one(b)
				}
			})
		})
	}
}
