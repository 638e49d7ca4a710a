package authz

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// policyObjects is the default policy as objects.
func policyObjects() []runtime.Object {
	var out []runtime.Object
	p := DefaultPolicy()
	for _, o := range p.ClusterRoles {
		out = append(out, o)
	}
	for _, o := range p.ClusterRoleBindings {
		out = append(out, o)
	}
	for _, o := range p.Roles {
		out = append(out, o)
	}
	for _, o := range p.RoleBindings {
		out = append(out, o)
	}
	return out
}

// authorizerFor runs informers on the objects until the test ends.
func authorizerFor(t testing.TB, objects ...runtime.Object) (authorizer.Authorizer, *RBAC, *fake.Clientset) {
	t.Helper()
	client := fake.NewClientset(objects...)
	factory := informers.NewSharedInformerFactory(client, 0)
	auth, rbac, err := New(factory, client)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	factory.Start(ctx.Done())
	for kind, ok := range factory.WaitForCacheSync(ctx.Done()) {
		if !ok {
			t.Fatal(kind)
		}
	}
	return auth, rbac, client
}

// ask reads "VERB [GROUP/]RESOURCE[/SUB][:NAME] [NAMESPACE]" or "VERB /path".
func ask(u user.Info, question string) authorizer.AttributesRecord {
	words := strings.Fields(question)
	a := authorizer.AttributesRecord{User: u, Verb: words[0]}
	what := words[1]
	if strings.HasPrefix(what, "/") {
		a.Path = what
		return a
	}
	a.ResourceRequest = true
	if i := strings.LastIndexByte(what, ':'); i >= 0 {
		what, a.Name = what[:i], what[i+1:]
	}
	parts := strings.Split(what, "/")
	if strings.Contains(parts[0], ".") || parts[0] == "apps" || parts[0] == "batch" {
		a.APIGroup, parts = parts[0], parts[1:]
	}
	a.Resource = parts[0]
	if len(parts) > 1 {
		a.Subresource = parts[1]
	}
	if len(words) > 2 {
		a.Namespace = words[2]
	}
	return a
}

func allowed(t testing.TB, auth authorizer.UnconditionalAuthorizer, a authorizer.AttributesRecord) (bool, string) {
	t.Helper()
	decision, reason, err := auth.Authorize(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	if decision == authorizer.DecisionDeny {
		t.Fatalf("denied: %s", reason)
	}
	return decision == authorizer.DecisionAllow, reason
}

func person(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)}
}

func account(namespace, name string) user.Info {
	return &user.DefaultInfo{Name: "system:serviceaccount:" + namespace + ":" + name, Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, user.AllAuthenticated}}
}

func roleBinding(namespace, name, kind, role string, subjects ...rbacv1.Subject) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role}}
}

func TestRBAC(t *testing.T) {
	objects := append(policyObjects(),
		roleBinding("team", "admins", "ClusterRole", "admin", subject("ada")),
		roleBinding("team", "editors", "ClusterRole", "edit", group("editors")),
		roleBinding("team", "viewers", "ClusterRole", "view", rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Name: "bot"}),
		roleBinding("team", "scalers", "Role", "scaler", subject("sam")),
		roleBinding("team", "dangling", "Role", "gone", subject("dan")),
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "scaler"}, Rules: []rbacv1.PolicyRule{
			rule("update", "*", "*/scale"), named("get", "", "configmaps", "limits"), {Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics"}},
		}},
	)
	auth, _, _ := authorizerFor(t, objects...)
	anonymous := &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}
	cases := []struct {
		user     user.Info
		question string
		want     bool
	}{
		{person("root", user.SystemPrivilegedGroup), "delete nodes:a", true},
		{person("root", user.SystemPrivilegedGroup), "get /anything", true},
		{person("nobody"), "get pods:x team", false},
		{person("nobody"), "get /api/v1", true},
		{person("nobody"), "get /apis", true},
		{person("nobody"), "get /metrics", false},
		{person("nobody"), "post /api/v1", false},
		{person("nobody"), "create authorization.k8s.io/selfsubjectaccessreviews", true},
		{person("nobody"), "create authorization.k8s.io/subjectaccessreviews", false},
		{anonymous, "get /version", true},
		{anonymous, "get /livez", true},
		{anonymous, "get /api", false},
		{anonymous, "get configmaps:cluster-info kube-public", true},
		{anonymous, "get configmaps:other kube-public", false},
		{anonymous, "list configmaps kube-public", false},
		{person("ada"), "create rbac.authorization.k8s.io/roles team", true},
		{person("ada"), "create apps/deployments team", true},
		{person("ada"), "get secrets:x team", true},
		{person("ada"), "get secrets:x other", false},
		{person("ada"), "get secrets:x", false},
		{person("ada"), "create resourcequotas team", false},
		{person("eve", "editors"), "create pods/exec:x team", true},
		{person("eve", "editors"), "create rbac.authorization.k8s.io/roles team", false},
		{person("eve", "editors"), "update apps/deployments/scale:x team", true},
		{person("eve", "editors"), "update apps/deployments/status:x team", false},
		{account("team", "bot"), "list pods team", true},
		{account("team", "bot"), "get pods/log:x team", true},
		{account("team", "bot"), "list secrets team", false},
		{account("other", "bot"), "list pods team", false},
		{person("sam"), "update apps/deployments/scale:x team", true},
		{person("sam"), "update example.org/things/scale:x team", true},
		{person("sam"), "update apps/deployments:x team", false},
		{person("sam"), "get configmaps:limits team", true},
		{person("sam"), "get configmaps:other team", false},
		{person("sam"), "list configmaps team", false},
		{person("sam"), "get /metrics", false}, // a Role grants no URLs
		{person("kube-apiserver-kubelet-client"), "get nodes/proxy:a", true},
		{person("kube-apiserver-kubelet-client"), "get secrets:x team", false},
		{person("system:bootstrap:abcdef", "system:bootstrappers"), "create certificates.k8s.io/certificatesigningrequests", true},
		{person("system:bootstrap:abcdef", "system:bootstrappers"), "create certificates.k8s.io/certificatesigningrequests/nodeclient", true},
		{person("system:bootstrap:abcdef", "system:bootstrappers"), "list nodes", false},
		{person("system:bootstrap:abcdef", "system:bootstrappers"), "list secrets kube-system", false},
		{person(user.KubeScheduler), "create pods/binding:x team", true},
		{person(user.KubeScheduler), "create pods team", false},
	}
	for _, c := range cases {
		if got, reason := allowed(t, auth, ask(c.user, c.question)); got != c.want {
			t.Errorf("%s: %s: %v (%s)", c.user.GetName(), c.question, got, reason)
		}
	}
	if _, reason := allowed(t, auth, ask(person("ada"), "list pods team")); reason != `RBAC: allowed by RoleBinding "admins/team" of ClusterRole "admin" to User "ada"` {
		t.Errorf("reason: %s", reason)
	}
	if _, reason := allowed(t, auth, ask(person("dan"), "list pods team")); reason != `RBAC: role.rbac.authorization.k8s.io "gone" not found` {
		t.Errorf("reason: %s", reason)
	}
}

func nodeUser(name string) user.Info { return person("system:node:"+name, user.NodesGroup) }

func nodePod(node, name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "uid-of-pod"},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: name + "-sa",
			ImagePullSecrets: []corev1.LocalObjectReference{{Name: name + "-pull"}},
			InitContainers: []corev1.Container{{Name: "i", Env: []corev1.EnvVar{
				{Name: "A", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name + "-initenv"}}}},
			}}},
			Containers: []corev1.Container{{Name: "c", EnvFrom: []corev1.EnvFromSource{
				{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name + "-envfrom"}}},
			}}},
			Volumes: []corev1.Volume{
				{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name + "-secret"}}},
				{Name: "c", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name + "-claim"}}},
				{Name: "e", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
				{Name: "p", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
					{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}},
				}}}},
			},
		},
	}
}

func TestNode(t *testing.T) {
	mirror := nodePod("a", "mirror")
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	unbound := nodePod("", "pending")
	objects := append(policyObjects(), nodePod("a", "one"), nodePod("b", "two"), mirror, unbound,
		&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv-one"}, Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: "one-claim"}}},
		&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv-two"}, Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: "two-claim"}}},
	)
	auth, _, _ := authorizerFor(t, objects...)
	cases := []struct {
		question string
		want     bool
	}{
		{"get secrets:one-secret ns", true}, {"watch secrets:one-secret ns", true}, {"list secrets:one-secret ns", true},
		{"get secrets:one-pull ns", true}, {"get secrets:one-initenv ns", true},
		{"get secrets:two-secret ns", false}, {"get secrets:one-secret other", false}, {"list secrets ns", false}, {"list secrets", false},
		{"update secrets:one-secret ns", false}, {"get secrets:mirror-secret ns", false}, {"get secrets:pending-secret ns", false},
		{"get configmaps:one-envfrom ns", true}, {"get configmaps:kube-root-ca.crt ns", true}, {"get configmaps:two-envfrom ns", false},
		{"create serviceaccounts/token:one-sa ns", true}, {"create serviceaccounts/token:two-sa ns", false},
		{"create serviceaccounts/token:mirror-sa ns", false}, {"get serviceaccounts:one-sa ns", false},
		{"get persistentvolumeclaims:one-claim ns", true}, {"get persistentvolumeclaims:one-e ns", true},
		{"get persistentvolumeclaims:two-claim ns", false}, {"patch persistentvolumeclaims/status:one-claim ns", true},
		{"get persistentvolumes:pv-one", true}, {"get persistentvolumes:pv-two", false}, {"get persistentvolumes:none", false},
		{"get pods:one ns", true}, {"get pods:mirror ns", true}, {"get pods:two ns", false}, {"list pods", false},
		{"update pods/status:one ns", true}, {"delete pods:one ns", true}, {"create pods ns", true}, {"create pods/eviction:one ns", true},
		{"create pods/exec:one ns", false}, {"update pods:one ns", false}, {"patch pods/ephemeralcontainers:one ns", false},
		{"get nodes:a", true}, {"create nodes", true}, {"patch nodes/status:a", true}, {"update nodes:a", true},
		{"patch nodes/status:b", false}, {"update nodes:b", false}, {"delete nodes:a", false}, {"get nodes/proxy:a", false},
		{"get nodes:b", true}, // by system:node-proxier: routes and proxy look at all nodes
		{"get coordination.k8s.io/leases:a kube-node-lease", true}, {"create coordination.k8s.io/leases kube-node-lease", true},
		{"update coordination.k8s.io/leases:b kube-node-lease", false}, {"update coordination.k8s.io/leases:a ns", false},
		{"list coordination.k8s.io/leases kube-node-lease", false},
		{"create certificates.k8s.io/certificatesigningrequests", true}, {"create certificates.k8s.io/certificatesigningrequests/selfnodeclient", true},
		{"update certificates.k8s.io/certificatesigningrequests/approval:x", false},
		{"list services", true}, {"watch discovery.k8s.io/endpointslices", true}, {"create events ns", true}, {"patch events.k8s.io/events ns", true},
		{"create authentication.k8s.io/tokenreviews", true}, {"create authorization.k8s.io/subjectaccessreviews", true},
		{"get node.k8s.io/runtimeclasses:x", true}, {"create apps/deployments ns", false}, {"list namespaces", true},
	}
	for _, c := range cases {
		if got, reason := allowed(t, auth, ask(nodeUser("a"), c.question)); got != c.want {
			t.Errorf("%s: %v (%s)", c.question, got, reason)
		}
	}
	for node, want := range map[string]bool{"a": true, "b": false} {
		q := ask(nodeUser("a"), "watch pods")
		q.FieldSelectorRequirements = fields.OneTermEqualSelector("spec.nodeName", node).Requirements()
		if got, reason := allowed(t, auth, q); got != want {
			t.Errorf("watch pods of node %s: %v (%s)", node, got, reason)
		}
	}
	// The name alone makes no node.
	if got, _ := allowed(t, auth, ask(person("system:node:a"), "get secrets:one-secret ns")); got {
		t.Error("a user without the group system:nodes was taken for a node")
	}
	if _, reason := allowed(t, auth, ask(nodeUser("a"), "get secrets:two-secret ns")); reason != "no relationship found between node 'a' and this object" {
		t.Errorf("reason: %s", reason)
	}
}

// A kubelet that is faster than the informer is not refused.
func TestNodeWaitsForItsPod(t *testing.T) {
	auth, _, client := authorizerFor(t)
	result := make(chan bool, 1)
	go func() {
		decision, _, _ := auth.Authorize(context.Background(), ask(nodeUser("a"), "get secrets:late-secret ns"))
		result <- decision == authorizer.DecisionAllow
	}()
	if _, err := client.CoreV1().Pods("ns").Create(t.Context(), nodePod("a", "late"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if !<-result {
		t.Error("refused")
	}
}

func TestNodeLosesWhatItsPodUsed(t *testing.T) {
	auth, _, client := authorizerFor(t, nodePod("a", "one"))
	question := ask(nodeUser("a"), "get secrets:one-secret ns")
	if ok, reason := allowed(t, auth, question); !ok {
		t.Fatal(reason)
	}
	if err := client.CoreV1().Pods("ns").Delete(t.Context(), "one", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for t.Context().Err() == nil {
		if ok, _ := allowed(t, auth, question); !ok {
			return
		}
	}
}

func BenchmarkAuthorize(b *testing.B) {
	auth, _, _ := authorizerFor(b, append(policyObjects(), nodePod("a", "one"),
		roleBinding("team", "viewers", "ClusterRole", "view", rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Name: "bot"}))...)
	for name, a := range map[string]authorizer.AttributesRecord{
		"masters": ask(person("root", user.SystemPrivilegedGroup), "get pods:x team"),
		"account": ask(account("team", "bot"), "list pods team"),
		"node":    ask(nodeUser("a"), "get secrets:one-secret ns"),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if decision, _, _ := auth.Authorize(b.Context(), a); decision != authorizer.DecisionAllow {
					b.Fatal("refused")
				}
			}
		})
	}
}
