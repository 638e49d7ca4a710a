package admission

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"github.com/mini-k8s/mini/apiserver/authz"
	"github.com/mini-k8s/mini/internal/pki"
)

// chainFor runs the whole chain on the objects; "ada" may approve and sign for kubernetes.io/*.
func chainFor(t *testing.T, objects ...runtime.Object) (Chain, *fake.Clientset) {
	t.Helper()
	client := fake.NewClientset(objects...)
	factory := informers.NewSharedInformerFactory(client, 0)
	rbac, err := authz.NewRBAC(factory)
	if err != nil {
		t.Fatal(err)
	}
	signers := authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		if a.GetUser().GetName() == "ada" && a.GetResource() == "signers" && a.GetName() == "kubernetes.io/*" {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "", nil
	})
	c, err := New(Config{Client: client, Dynamic: dynamicfake.NewSimpleDynamicClient(runtime.NewScheme()), Informers: factory, Authorizer: signers, RBAC: rbac})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { c.End(); cancel(); factory.Shutdown() })
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	return c, client
}

// write is a request as the API server makes it.
type write struct {
	resource  schema.GroupVersionResource
	sub, name string
	namespace string
	op        admission.Operation
	obj, old  runtime.Object
	user      user.Info
}

func (w write) attributes() admission.Attributes {
	kind := schema.GroupVersionKind{}
	for _, o := range []runtime.Object{w.obj, w.old} {
		switch o.(type) {
		case *corev1.Namespace:
			kind = corev1.SchemeGroupVersion.WithKind("Namespace")
		case *corev1.Pod:
			kind = corev1.SchemeGroupVersion.WithKind("Pod")
		}
	}
	if w.user == nil {
		w.user = &user.DefaultInfo{Name: "bob"}
	}
	return admission.NewAttributesRecord(w.obj, w.old, kind, w.namespace, w.name, w.resource, w.sub, w.op, nil, false, w.user)
}

func run(t *testing.T, c Chain, w write) error {
	t.Helper()
	a := w.attributes()
	if err := c.Admit(t.Context(), a, nil); err != nil {
		return err
	}
	return c.Validate(t.Context(), a, nil)
}

var (
	pods  = corev1.SchemeGroupVersion.WithResource("pods")
	nodes = corev1.SchemeGroupVersion.WithResource("nodes")
)

func base() []runtime.Object {
	return []runtime.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-node-lease"}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ending"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "default"}, ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "quiet"}, AutomountServiceAccountToken: ptr.To(false)},
	}
}

func newPod(change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if change != nil {
		change(p)
	}
	return p
}

func createPod(p *corev1.Pod) write {
	return write{resource: pods, namespace: p.Namespace, name: p.Name, op: admission.Create, obj: p}
}

func TestPodGetsWhatUpstreamGivesIt(t *testing.T) {
	c, _ := chainFor(t, base()...)
	p := newPod(func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{Name: "i"}} })
	if err := run(t, c, createPod(p)); err != nil {
		t.Fatal(err)
	}
	if len(p.Spec.Volumes) != 1 {
		t.Fatalf("volumes %v", p.Spec.Volumes)
	}
	name := p.Spec.Volumes[0].Name
	if !strings.HasPrefix(name, "kube-api-access-") || len(name) != len("kube-api-access-")+5 {
		t.Errorf("volume %q", name)
	}
	mount := []corev1.VolumeMount{{Name: name, ReadOnly: true, MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}}
	want := corev1.PodSpec{
		ServiceAccountName: "default", DeprecatedServiceAccount: "default",
		ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}},
		Priority:         ptr.To[int32](0), PreemptionPolicy: ptr.To(corev1.PreemptLowerPriority),
		InitContainers: []corev1.Container{{Name: "i", VolumeMounts: mount}},
		Containers:     []corev1.Container{{Name: "c", Image: "i", VolumeMounts: mount}},
		Tolerations: []corev1.Toleration{
			{Key: "node.kubernetes.io/not-ready", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: ptr.To[int64](300)},
			{Key: "node.kubernetes.io/unreachable", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: ptr.To[int64](300)},
		},
		Volumes: []corev1.Volume{{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			DefaultMode: ptr.To[int32](0o644),
			Sources: []corev1.VolumeProjection{
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{ExpirationSeconds: ptr.To[int64](3607), Path: "token"}},
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
				{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}}}}},
			},
		}}}},
	}
	if diff := cmp.Diff(want, p.Spec); diff != "" {
		t.Error(diff)
	}
	// Admitting it again changes nothing: the chain may run more than once.
	before := p.DeepCopy()
	if err := run(t, c, createPod(p)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, p); diff != "" {
		t.Errorf("the second time: %s", diff)
	}
}

func TestPods(t *testing.T) {
	c, _ := chainFor(t, base()...)
	cases := map[string]struct {
		change func(*corev1.Pod)
		want   string // error, "" for none
		check  func(*corev1.Pod) bool
	}{
		"no token by the pod's word":     {func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = ptr.To(false) }, "", func(p *corev1.Pod) bool { return len(p.Spec.Volumes) == 0 }},
		"no token by the account's word": {func(p *corev1.Pod) { p.Spec.ServiceAccountName = "quiet" }, "", func(p *corev1.Pod) bool { return len(p.Spec.Volumes) == 0 }},
		"the pod's word over the account's": {func(p *corev1.Pod) {
			p.Spec.ServiceAccountName, p.Spec.AutomountServiceAccountToken = "quiet", ptr.To(true)
		}, "", func(p *corev1.Pod) bool { return len(p.Spec.Volumes) == 1 }},
		"its own mount at the place": {func(p *corev1.Pod) {
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "mine", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}}
		}, "", func(p *corev1.Pod) bool {
			return len(p.Spec.Volumes) == 0 && len(p.Spec.Containers[0].VolumeMounts) == 1
		}},
		"its own pull secrets": {func(p *corev1.Pod) { p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "mine"}} }, "", func(p *corev1.Pod) bool {
			return len(p.Spec.ImagePullSecrets) == 1 && p.Spec.ImagePullSecrets[0].Name == "mine"
		}},
		"no such account":   {func(p *corev1.Pod) { p.Spec.ServiceAccountName = "none" }, `pods "p" is forbidden: error looking up service account ns/none: serviceaccounts "none" not found`, nil},
		"namespace ending":  {func(p *corev1.Pod) { p.Namespace = "ending" }, `pods "p" is forbidden: unable to create new content in namespace ending because it is being terminated`, nil},
		"no such namespace": {func(p *corev1.Pod) { p.Namespace = "none" }, `namespaces "none" not found`, nil},
		"system priority":   {func(p *corev1.Pod) { p.Spec.PriorityClassName = "system-node-critical" }, "", func(p *corev1.Pod) bool { return *p.Spec.Priority == 2000001000 }},
		"unknown priority":  {func(p *corev1.Pod) { p.Spec.PriorityClassName = "x" }, `pods "p" is forbidden: no PriorityClass with name x was found`, nil},
		"number by hand":    {func(p *corev1.Pod) { p.Spec.Priority = ptr.To[int32](7) }, "the integer value of priority (7) must not be provided in pod spec", nil},
		"tolerates all":     {func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Operator: "Exists"}} }, "", func(p *corev1.Pod) bool { return len(p.Spec.Tolerations) == 1 }},
		"tolerates one": {func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Operator: "Exists", Effect: "NoExecute"}}
		}, "", func(p *corev1.Pod) bool {
			return len(p.Spec.Tolerations) == 2 && p.Spec.Tolerations[0].TolerationSeconds == nil
		}},
		"tolerates to start": {func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Operator: "Exists", Effect: "NoSchedule"}}
		}, "", func(p *corev1.Pod) bool { return len(p.Spec.Tolerations) == 3 }},
	}
	for name, tt := range cases {
		p := newPod(tt.change)
		err := run(t, c, createPod(p))
		switch {
		case tt.want == "" && err != nil, tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v", name, err)
		case tt.check != nil && !tt.check(p):
			t.Errorf("%s: %+v", name, p.Spec)
		}
	}
}

// The default account of a new namespace is waited for.
func TestDefaultAccountOnItsWay(t *testing.T) {
	c, client := chainFor(t, base()[0])
	done := make(chan error, 1)
	begun := time.Now()
	go func() { done <- c.Admit(context.Background(), createPod(newPod(nil)).attributes(), nil) }()
	if _, err := client.CoreV1().ServiceAccounts("ns").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("%v after %v", err, time.Since(begun))
	}
}

func TestNamespaces(t *testing.T) {
	c, client := chainFor(t, base()...)
	namespaces := corev1.SchemeGroupVersion.WithResource("namespaces")
	remove := func(name string) error {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		return run(t, c, write{resource: namespaces, namespace: name, name: name, op: admission.Delete, old: ns})
	}
	for _, name := range []string{"default", "kube-system", "kube-public"} {
		if err := remove(name); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "this namespace may not be deleted") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := remove("ns"); err != nil {
		t.Fatal(err)
	}
	// From now on the lister's word is not enough.
	ns, _ := client.CoreV1().Namespaces().Get(t.Context(), "ns", metav1.GetOptions{})
	ns.Status.Phase = corev1.NamespaceTerminating
	if err := client.Tracker().Update(namespaces, ns, ""); err != nil {
		t.Fatal(err)
	}
	err := run(t, c, createPod(newPod(nil)))
	if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("just deleted: %v", err)
	}
	if err := run(t, c, write{resource: pods, namespace: "ending", name: "p", op: admission.Update, obj: newPod(nil), old: newPod(nil)}); err != nil {
		t.Errorf("update in an ending namespace: %v", err)
	}
}

func TestNodeRestriction(t *testing.T) {
	bound := func(node string) *corev1.Pod {
		return newPod(func(p *corev1.Pod) { p.UID, p.Spec.NodeName, p.Name = "u-p", node, "on-"+node })
	}
	mirror := func(change func(*corev1.Pod)) *corev1.Pod {
		return newPod(func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
			p.Spec.NodeName = "a"
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "a"}}
			if change != nil {
				change(p)
			}
		})
	}
	c, _ := chainFor(t, append(base(), bound("a"), bound("b"))...)
	a := &user.DefaultInfo{Name: "system:node:a", Groups: []string{"system:nodes"}}
	node := func(name string, change func(*corev1.Node)) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name, "mine": "1"}}}
		if change != nil {
			change(n)
		}
		return n
	}
	lease := func(name string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-node-lease", Name: name}}
	}
	token := func(ref *authenticationv1.BoundObjectReference) *authenticationv1.TokenRequest {
		return &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: ref}}
	}
	ref := func(pod string) *authenticationv1.BoundObjectReference {
		return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod, UID: "u-p"}
	}
	withoutUID := ref("on-a")
	withoutUID.UID = ""
	accounts, leases := corev1.SchemeGroupVersion.WithResource("serviceaccounts"), coordinationv1.SchemeGroupVersion.WithResource("leases")
	labelled := bound("a")
	labelled.Labels = map[string]string{"x": "y"}
	secretive := mirror(func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}}}
	})
	cases := map[string]struct {
		w    write
		want string
	}{
		"its node":                    {write{resource: nodes, op: admission.Create, obj: node("a", nil)}, ""},
		"another node":                {write{resource: nodes, op: admission.Create, obj: node("b", nil)}, `node "a" is not allowed to modify node "b"`},
		"a role by itself":            {write{resource: nodes, op: admission.Create, obj: node("a", func(n *corev1.Node) { n.Labels["node-role.kubernetes.io/control-plane"] = "" })}, "is not allowed to set the following labels: node-role.kubernetes.io/control-plane"},
		"a restricted label":          {write{resource: nodes, name: "a", op: admission.Update, old: node("a", nil), obj: node("a", func(n *corev1.Node) { n.Labels["x.node-restriction.kubernetes.io/y"] = "" })}, "is not allowed to modify the following labels: x.node-restriction.kubernetes.io/y"},
		"a free label":                {write{resource: nodes, name: "a", op: admission.Update, old: node("a", nil), obj: node("a", func(n *corev1.Node) { n.Labels["mine"], n.Labels["node.kubernetes.io/x"] = "2", "" })}, ""},
		"its taints":                  {write{resource: nodes, name: "a", op: admission.Update, old: node("a", func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "t"}} }), obj: node("a", nil)}, "is not allowed to modify taints"},
		"its status":                  {write{resource: nodes, sub: "status", name: "a", op: admission.Update, old: node("a", nil), obj: node("a", nil)}, ""},
		"its lease":                   {write{resource: leases, namespace: "kube-node-lease", op: admission.Create, obj: lease("a")}, ""},
		"another's lease":             {write{resource: leases, namespace: "kube-node-lease", op: admission.Create, obj: lease("b")}, "can only access node lease with the same name as the requesting node"},
		"its pod's status":            {write{resource: pods, namespace: "ns", name: "on-a", sub: "status", op: admission.Update, obj: bound("a"), old: bound("a")}, ""},
		"another pod's status":        {write{resource: pods, namespace: "ns", name: "on-b", sub: "status", op: admission.Update, obj: bound("b"), old: bound("b")}, "can only update pod status for pods with spec.nodeName set to itself"},
		"labels through the status":   {write{resource: pods, namespace: "ns", name: "on-a", sub: "status", op: admission.Update, obj: labelled, old: bound("a")}, "cannot update labels through pod status"},
		"its pod's end":               {write{resource: pods, namespace: "ns", name: "on-a", op: admission.Delete, old: bound("a")}, ""},
		"another pod's end":           {write{resource: pods, namespace: "ns", name: "on-b", op: admission.Delete, old: bound("b")}, "can only delete pods with spec.nodeName set to itself"},
		"a pod of its own":            {write{resource: pods, namespace: "ns", op: admission.Create, obj: newPod(nil)}, "can only create mirror pods"},
		"a mirror pod":                {write{resource: pods, namespace: "ns", op: admission.Create, obj: mirror(nil)}, ""},
		"a mirror pod elsewhere":      {write{resource: pods, namespace: "ns", op: admission.Create, obj: mirror(func(p *corev1.Pod) { p.Spec.NodeName = "b" })}, "can only create pods with spec.nodeName set to itself"},
		"a mirror pod that wants":     {write{resource: pods, namespace: "ns", op: admission.Create, obj: secretive}, "can not create pods that reference configmaps"},
		"its pod's token":             {write{resource: accounts, sub: "token", namespace: "ns", name: "default", op: admission.Create, obj: token(ref("on-a"))}, ""},
		"another pod's token":         {write{resource: accounts, sub: "token", namespace: "ns", name: "default", op: admission.Create, obj: token(ref("on-b"))}, "node requested token bound to a pod scheduled on a different node"},
		"a token bound to nothing":    {write{resource: accounts, sub: "token", namespace: "ns", name: "default", op: admission.Create, obj: token(nil)}, "node requested token not bound to a pod"},
		"a token of any pod so named": {write{resource: accounts, sub: "token", namespace: "ns", name: "default", op: admission.Create, obj: token(withoutUID)}, "node requested token with a pod binding without a uid"},
	}
	for name, tt := range cases {
		tt.w.user = a
		err := run(t, c, tt.w)
		if tt.want == "" && err != nil || tt.want != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Everybody else is the authorizer's business alone.
	if err := run(t, c, write{resource: nodes, op: admission.Create, obj: node("b", nil)}); err != nil {
		t.Errorf("not a node: %v", err)
	}
}

func TestCertificates(t *testing.T) {
	c, _ := chainFor(t, base()...)
	resource := certificatesv1.SchemeGroupVersion.WithResource("certificatesigningrequests")
	request := func(name string, groups ...string) []byte {
		key, err := pki.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		out, err := pki.NewRequest(pki.Subject{CommonName: name, Organizations: groups}, key)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	csr := func(signer string, pem []byte) *certificatesv1.CertificateSigningRequest {
		return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: signer, Request: pem}}
	}
	signed := csr("kubernetes.io/kubelet-serving", nil)
	signed.Status.Certificate = []byte("x")
	ada := &user.DefaultInfo{Name: "ada"}
	node := &user.DefaultInfo{Name: "system:node:a", Groups: []string{"system:nodes"}}
	cases := map[string]struct {
		w    write
		want string
	}{
		"approve":                   {write{sub: "approval", op: admission.Update, user: ada, obj: csr("kubernetes.io/kubelet-serving", nil), old: csr("kubernetes.io/kubelet-serving", nil)}, ""},
		"approve without the right": {write{sub: "approval", op: admission.Update, obj: csr("kubernetes.io/kubelet-serving", nil), old: csr("kubernetes.io/kubelet-serving", nil)}, `user not permitted to approve requests with signerName "kubernetes.io/kubelet-serving"`},
		"approve for another":       {write{sub: "approval", op: admission.Update, user: ada, obj: csr("example.org/x", nil), old: csr("example.org/x", nil)}, "user not permitted to approve"},
		"sign":                      {write{sub: "status", op: admission.Update, user: ada, obj: signed, old: csr("kubernetes.io/kubelet-serving", nil)}, ""},
		"sign without the right":    {write{sub: "status", op: admission.Update, obj: signed, old: csr("kubernetes.io/kubelet-serving", nil)}, `user not permitted to sign requests with signerName "kubernetes.io/kubelet-serving"`},
		"change nothing":            {write{sub: "status", op: admission.Update, obj: signed, old: signed}, ""},
		"masters":                   {write{op: admission.Create, user: ada, obj: csr("kubernetes.io/kube-apiserver-client", request("x", "system:masters"))}, "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"},
		"a client":                  {write{op: admission.Create, user: ada, obj: csr("kubernetes.io/kube-apiserver-client", request("x", "devs"))}, ""},
		"a node for itself":         {write{op: admission.Create, user: node, obj: csr("kubernetes.io/kube-apiserver-client-kubelet", request("system:node:a", "system:nodes"))}, ""},
		"a node for another":        {write{op: admission.Create, user: node, obj: csr("kubernetes.io/kubelet-serving", request("system:node:b", "system:nodes"))}, "can only create a node CSR with CN=system:node:a"},
	}
	for name, tt := range cases {
		tt.w.resource, tt.w.name = resource, "x"
		err := run(t, c, tt.w)
		if tt.want == "" && err != nil || tt.want != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLabelsAreAWayToGrant(t *testing.T) {
	c, _ := chainFor(t, base()...)
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "big"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}}}}
	labelled := role.DeepCopy()
	labelled.Labels = map[string]string{"rbac.authorization.k8s.io/aggregate-to-view": "true"}
	w := write{resource: rbacv1.SchemeGroupVersion.WithResource("clusterroles"), name: "big", op: admission.Update, obj: labelled, old: role}
	if err := run(t, c, w); !apierrors.IsForbidden(err) {
		t.Errorf("%v", err)
	}
	w.user = &user.DefaultInfo{Name: "root", Groups: []string{"system:masters"}}
	if err := run(t, c, w); err != nil {
		t.Errorf("masters: %v", err)
	}
}

func TestNewNodesAreTainted(t *testing.T) {
	c, _ := chainFor(t, base()...)
	notReady := corev1.Taint{Key: "node.kubernetes.io/not-ready", Effect: corev1.TaintEffectNoSchedule}
	for name, taints := range map[string][]corev1.Taint{"none": nil, "already": {notReady}} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.NodeSpec{Taints: taints}}
		if err := run(t, c, write{resource: nodes, op: admission.Create, obj: n}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]corev1.Taint{notReady}, n.Spec.Taints); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
