package controller_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	runtimepkg "runtime"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	clientrest "k8s.io/client-go/rest"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/polymorphichelpers"

	"github.com/mini-k8s/mini/apiserver"
	"github.com/mini-k8s/mini/apiserver/openapi"
	"github.com/mini-k8s/mini/apiserver/plugins"
	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/controller"
	"github.com/mini-k8s/mini/internal/pki"
	"github.com/mini-k8s/mini/store"
)

// cluster is a real API server on a real etcd with all controllers, and a kubelet that only pretends.
type cluster struct {
	kubernetes.Interface
	t      *testing.T
	ctx    context.Context
	config *clientrest.Config
}

func start(t *testing.T) *cluster {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	if os.Getenv("MINI_TEST_LOG") != "" {
		logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	st, err := store.Open(t.Context(), store.Config{DataDir: t.TempDir(), Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	certs := httptest.NewUnstartedServer(nil)
	certs.StartTLS()
	certificate := certs.TLS.Certificates[0]
	certs.Close()
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	server, err := apiserver.New(apiserver.Config{
		Store: st, Logger: logger, Listener: l, TLS: &tls.Config{Certificates: []tls.Certificate{certificate}},
		Advertise: netip.MustParseAddrPort("192.0.2.1:6443"), ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		NodePorts: registry.PortRange{From: 30000, To: 32767}, OpenAPI: openapi.NewHandler(),
		Plugins: plugins.New(plugins.Config{ClientCAs: ca.Pool(), Logger: logger, ClusterDomain: "cluster.local", ServiceAccountKeys: []crypto.Signer{must(pki.NewKey())}}),
	})
	if err != nil {
		t.Fatal(err)
	}
	config := server.LoopbackConfig()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	meta, err := metadata.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	storeCtx, stopStore := context.WithCancel(context.Background())
	serverCtx, stopServer := context.WithCancel(context.Background())
	ctx, stop := context.WithCancel(context.Background())
	storeDone, serverDone, done := make(chan error, 1), make(chan error, 1), make(chan error, 1)
	go func() { storeDone <- st.Run(storeCtx) }()
	go func() { serverDone <- server.Run(serverCtx) }()
	select {
	case <-server.Ready():
	case <-time.After(time.Minute):
		t.Fatal("the server is not ready after a minute")
	}
	go func() {
		done <- controller.Run(ctx, controller.Config{
			Client: client, Metadata: meta, Informers: informers.NewSharedInformerFactory(client, 0), Logger: logger,
			ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16"), RootCA: ca.PEM(), Signer: ca,
			NodeMonitorGracePeriod: grace,
		})
	}()
	t.Cleanup(func() {
		for _, s := range []struct {
			name string
			stop context.CancelFunc
			done chan error
		}{{"controllers", stop, done}, {"server", stopServer, serverDone}, {"store", stopStore, storeDone}} {
			s.stop()
			select {
			case err := <-s.done:
				if err != nil {
					t.Errorf("%s: %v", s.name, err)
				}
			case <-time.After(30 * time.Second):
				t.Errorf("%s do not end", s.name)
			}
		}
	})
	return &cluster{Interface: client, t: t, ctx: ctx, config: config}
}

// until waits for a state of the cluster that is brought about elsewhere.
func (c *cluster) until(what string, f func() (bool, string)) {
	c.t.Helper()
	last := ""
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		ok, state := f()
		if ok {
			return
		}
		last = state
	}
	c.t.Fatalf("%s: not after a minute; %s", what, last)
}

// grace is the nodes' in these tests.
const grace = 5 * time.Second

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// kubelet makes the namespace's pods run on the node, ready, with an address; pods that are being deleted go at once.
func (c *cluster) kubelet(namespace, node string) {
	w := must(c.CoreV1().Pods(namespace).Watch(c.ctx, metav1.ListOptions{}))
	go func() {
		n := 0
		for e := range w.ResultChan() {
			p, ok := e.Object.(*corev1.Pod)
			if !ok || e.Type == "DELETED" || len(p.Finalizers) > 0 {
				continue
			}
			now := int64(0)
			switch {
			case p.DeletionTimestamp != nil:
				_ = c.CoreV1().Pods(namespace).Delete(c.ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
			case p.Spec.NodeName == "":
				_ = c.CoreV1().Pods(namespace).Bind(c.ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: p.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: node}}, metav1.CreateOptions{})
			case p.Status.PodIP == "" && !strings.Contains(p.Spec.Containers[0].Image, "broken"):
				n++
				p = p.DeepCopy()
				p.Status.Phase, p.Status.PodIP = corev1.PodRunning, fmt.Sprintf("10.42.0.%d", n)
				p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
				p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
				_, _ = c.CoreV1().Pods(namespace).UpdateStatus(c.ctx, p, metav1.UpdateOptions{})
			}
		}
	}()
	c.t.Cleanup(w.Stop)
}

func (c *cluster) namespace(name string) {
	must(c.CoreV1().Namespaces().Create(c.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))
	c.until("default account", func() (bool, string) {
		_, err := c.CoreV1().ServiceAccounts(name).Get(c.ctx, "default", metav1.GetOptions{})
		return err == nil, fmt.Sprint(err)
	})
}

func web(image string, n int32) *appsv1.Deployment {
	set := map[string]string{"app": "web"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: set}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: set}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
		}},
	}
}

func (c *cluster) rolledOut(namespace string) {
	c.t.Helper()
	c.until("rollout", func() (bool, string) {
		d := must(c.AppsV1().Deployments(namespace).Get(c.ctx, "web", metav1.GetOptions{}))
		s, n := d.Status, *d.Spec.Replicas
		return s.ObservedGeneration == d.Generation && s.UpdatedReplicas == n && s.Replicas == n && s.AvailableReplicas == n, fmt.Sprintf("%+v", s)
	})
}

func (c *cluster) endpoints(namespace, name string) (ready []string) {
	l := must(c.DiscoveryV1().EndpointSlices(namespace).List(c.ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + name}))
	for _, s := range l.Items {
		for _, e := range s.Endpoints {
			if *e.Conditions.Ready {
				ready = append(ready, e.Addresses...)
			}
		}
	}
	slices.Sort(ready)
	return ready
}

func TestNamespaceGetsItsOwn(t *testing.T) {
	c := start(t)
	for _, ns := range []string{"default", "kube-system"} {
		c.until("account and CA of "+ns, func() (bool, string) {
			_, err := c.CoreV1().ServiceAccounts(ns).Get(c.ctx, "default", metav1.GetOptions{})
			m, err2 := c.CoreV1().ConfigMaps(ns).Get(c.ctx, "kube-root-ca.crt", metav1.GetOptions{})
			return err == nil && err2 == nil && strings.Contains(m.Data["ca.crt"], "BEGIN CERTIFICATE"), fmt.Sprint(err, err2)
		})
	}
	node := must(c.CoreV1().Nodes().Create(c.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{}))
	c.until("podCIDR", func() (bool, string) {
		node = must(c.CoreV1().Nodes().Get(c.ctx, "n1", metav1.GetOptions{}))
		return node.Spec.PodCIDR == "10.42.0.0/24", node.Spec.PodCIDR
	})
}

func TestDeploymentBehindService(t *testing.T) {
	c := start(t)
	c.namespace("app")
	c.kubelet("app", "n1")
	must(c.CoreV1().Nodes().Create(c.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{}))
	must(c.CoreV1().Services("app").Create(c.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}}}, metav1.CreateOptions{}))
	must(c.AppsV1().Deployments("app").Create(c.ctx, web("v1", 3), metav1.CreateOptions{}))
	c.rolledOut("app")
	c.until("endpoints", func() (bool, string) { e := c.endpoints("app", "web"); return len(e) == 3, fmt.Sprint(e) })
	ep := must(c.CoreV1().Endpoints("app").Get(c.ctx, "web", metav1.GetOptions{}))
	if len(ep.Subsets) != 1 || len(ep.Subsets[0].Ports) != 1 || ep.Subsets[0].Ports[0].Port != 8080 {
		t.Errorf("Endpoints %+v", ep.Subsets)
	}

	// Readiness reaches the slices at once.
	pods := must(c.CoreV1().Pods("app").List(c.ctx, metav1.ListOptions{}))
	p := pods.Items[0].DeepCopy()
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == corev1.PodReady {
			p.Status.Conditions[i].Status = corev1.ConditionFalse
		}
	}
	begun := time.Now()
	must(c.CoreV1().Pods("app").UpdateStatus(c.ctx, p, metav1.UpdateOptions{}))
	c.until("endpoint leaves", func() (bool, string) { return !slices.Contains(c.endpoints("app", "web"), p.Status.PodIP), "" })
	t.Logf("readiness to slice: %s", time.Since(begun))

	must(c.AppsV1().Deployments("app").Patch(c.ctx, "web", types.StrategicMergePatchType,
		[]byte(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"v2"}]}}}}`), metav1.PatchOptions{}))
	c.rolledOut("app")
	d := must(c.AppsV1().Deployments("app").Get(c.ctx, "web", metav1.GetOptions{}))
	if d.Annotations["deployment.kubernetes.io/revision"] != "2" {
		t.Errorf("revision %v", d.Annotations)
	}
	sets := must(c.AppsV1().ReplicaSets("app").List(c.ctx, metav1.ListOptions{}))
	if len(sets.Items) != 2 {
		t.Errorf("%d ReplicaSets", len(sets.Items))
	}
	events := must(c.CoreV1().Events("app").List(c.ctx, metav1.ListOptions{}))
	c.until("event", func() (bool, string) {
		events = must(c.CoreV1().Events("app").List(c.ctx, metav1.ListOptions{}))
		return slices.ContainsFunc(events.Items, func(e corev1.Event) bool {
			return e.Reason == "ScalingReplicaSet" && strings.HasSuffix(e.Message, "from 0 to 3") && e.Source.Component == "deployment-controller"
		}), ""
	})

	c.kubectlRollout("app")

	// Deleted in the background: nothing of it stays.
	if err := c.AppsV1().Deployments("app").Delete(c.ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.CoreV1().Services("app").Delete(c.ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.until("garbage", func() (bool, string) {
		s := must(c.AppsV1().ReplicaSets("app").List(c.ctx, metav1.ListOptions{}))
		p := must(c.CoreV1().Pods("app").List(c.ctx, metav1.ListOptions{}))
		e := must(c.DiscoveryV1().EndpointSlices("app").List(c.ctx, metav1.ListOptions{}))
		n := must(c.CoreV1().Endpoints("app").List(c.ctx, metav1.ListOptions{}))
		return len(s.Items)+len(p.Items)+len(e.Items)+len(n.Items) == 0, fmt.Sprintf("%d sets %d pods %d slices %d endpoints", len(s.Items), len(p.Items), len(e.Items), len(n.Items))
	})
}

// kubectlRollout does what kubectl rollout history, undo, pause, resume and status do, with kubectl's own code.
func (c *cluster) kubectlRollout(namespace string) {
	c.t.Helper()
	kind := schema.GroupKind{Group: "apps", Kind: "Deployment"}
	history := must(must(polymorphichelpers.HistoryViewerFor(kind, c)).ViewHistory(namespace, "web", 0))
	if !strings.Contains(history, "\n1 ") || !strings.Contains(history, "\n2 ") {
		c.t.Errorf("history:\n%s", history)
	}
	get := func() *appsv1.Deployment {
		return must(c.AppsV1().Deployments(namespace).Get(c.ctx, "web", metav1.GetOptions{}))
	}
	said, err := must(polymorphichelpers.RollbackerFor(kind, c)).Rollback(get(), nil, 0, cmdutil.DryRunNone)
	if err != nil || !strings.Contains(said, "rolled back") {
		c.t.Fatalf("undo: %s, %v", said, err)
	}
	c.rolledOut(namespace)
	d := get()
	if d.Spec.Template.Spec.Containers[0].Image != "v1" || d.Annotations["deployment.kubernetes.io/revision"] != "3" {
		c.t.Errorf("after undo: image %s, annotations %v", d.Spec.Template.Spec.Containers[0].Image, d.Annotations)
	}
	raw := must(runtime.DefaultUnstructuredConverter.ToUnstructured(d))
	raw["apiVersion"], raw["kind"] = "apps/v1", "Deployment"
	said, done, err := must(polymorphichelpers.StatusViewerFor(kind)).Status(&unstructured.Unstructured{Object: raw}, 0)
	if err != nil || !done || said != "deployment \"web\" successfully rolled out\n" {
		c.t.Errorf("status: %q %v %v", said, done, err)
	}

	patch := func(what string) {
		must(c.AppsV1().Deployments(namespace).Patch(c.ctx, "web", types.StrategicMergePatchType, []byte(what), metav1.PatchOptions{}))
	}
	patch(`{"spec":{"paused":true,"template":{"spec":{"containers":[{"name":"c","image":"v3"}]}}}}`)
	progressing := func(reason string) func() (bool, string) {
		return func() (bool, string) {
			conds := get().Status.Conditions
			return slices.ContainsFunc(conds, func(d appsv1.DeploymentCondition) bool {
				return d.Type == appsv1.DeploymentProgressing && d.Reason == reason
			}), fmt.Sprintf("%+v", conds)
		}
	}
	c.until("paused", progressing("DeploymentPaused"))
	if got := len(must(c.AppsV1().ReplicaSets(namespace).List(c.ctx, metav1.ListOptions{})).Items); got != 2 {
		c.t.Errorf("%d ReplicaSets while paused", got)
	}
	patch(`{"spec":{"paused":false}}`)
	c.rolledOut(namespace)
	c.until("resumed", progressing("NewReplicaSetAvailable"))
}

func TestPropagation(t *testing.T) {
	c := start(t)
	c.namespace("gc")
	c.kubelet("gc", "n1")
	must(c.CoreV1().Nodes().Create(c.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{}))
	for _, policy := range []metav1.DeletionPropagation{metav1.DeletePropagationOrphan, metav1.DeletePropagationForeground} {
		must(c.AppsV1().Deployments("gc").Create(c.ctx, web("v1", 2), metav1.CreateOptions{}))
		c.rolledOut("gc")
		if err := c.AppsV1().Deployments("gc").Delete(c.ctx, "web", metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
			t.Fatal(err)
		}
		c.until(string(policy)+": owner gone", func() (bool, string) {
			d, err := c.AppsV1().Deployments("gc").Get(c.ctx, "web", metav1.GetOptions{})
			return apierrors.IsNotFound(err), fmt.Sprintf("%v finalizers %v", err, d.Finalizers)
		})
		sets := must(c.AppsV1().ReplicaSets("gc").List(c.ctx, metav1.ListOptions{}))
		if policy == metav1.DeletePropagationForeground {
			if len(sets.Items) != 0 { // it went after its dependents
				t.Errorf("foreground: %d sets left", len(sets.Items))
			}
			continue
		}
		if len(sets.Items) != 1 || len(sets.Items[0].OwnerReferences) != 0 {
			t.Errorf("orphan: %d sets", len(sets.Items))
		}
		// The next round's Deployment adopts the orphan.
	}
	c.until("pods gone", func() (bool, string) {
		p := must(c.CoreV1().Pods("gc").List(c.ctx, metav1.ListOptions{}))
		return len(p.Items) == 0, fmt.Sprint(len(p.Items))
	})
}

func TestOwnersOfAnyKind(t *testing.T) {
	c := start(t)
	c.namespace("gc")
	owner := must(c.CoreV1().ConfigMaps("gc").Create(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{}))
	ref := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: owner.UID}
	wrong := ref
	wrong.UID = types.UID("00000000-0000-0000-0000-000000000000")
	secret := func(name string, refs ...metav1.OwnerReference) {
		must(c.CoreV1().Secrets("gc").Create(c.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: refs}}, metav1.CreateOptions{}))
	}
	secret("owned", ref)
	secret("owned-twice", ref, wrong)
	secret("never-owned", wrong)
	secret("free")
	there := func() string {
		l := must(c.CoreV1().Secrets("gc").List(c.ctx, metav1.ListOptions{}))
		var names []string
		for _, s := range l.Items {
			names = append(names, fmt.Sprintf("%s/%d", s.Name, len(s.OwnerReferences)))
		}
		slices.Sort(names)
		return strings.Join(names, " ")
	}
	want := "free/0 owned-twice/1 owned/1"
	c.until("dangling references", func() (bool, string) { s := there(); return s == want, s })
	if err := c.CoreV1().ConfigMaps("gc").Delete(c.ctx, "owner", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.until("owner deleted", func() (bool, string) { s := there(); return s == "free/0", s })
}

func TestNamespaceDeletion(t *testing.T) {
	c := start(t)
	c.namespace("doomed")
	c.kubelet("doomed", "n1")
	must(c.CoreV1().Nodes().Create(c.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{}))
	must(c.AppsV1().Deployments("doomed").Create(c.ctx, web("v1", 2), metav1.CreateOptions{}))
	c.rolledOut("doomed")
	held := must(c.CoreV1().ConfigMaps("doomed").Create(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"example.com/hold"}}}, metav1.CreateOptions{}))
	if err := c.CoreV1().Namespaces().Delete(c.ctx, "doomed", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.until("conditions", func() (bool, string) {
		ns := must(c.CoreV1().Namespaces().Get(c.ctx, "doomed", metav1.GetOptions{}))
		return slices.ContainsFunc(ns.Status.Conditions, func(n corev1.NamespaceCondition) bool {
			return n.Type == corev1.NamespaceFinalizersRemaining && n.Status == corev1.ConditionTrue &&
				n.Message == "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
		}), fmt.Sprintf("%+v", ns.Status)
	})
	held = must(c.CoreV1().ConfigMaps("doomed").Get(c.ctx, "held", metav1.GetOptions{}))
	held.Finalizers = nil
	must(c.CoreV1().ConfigMaps("doomed").Update(c.ctx, held, metav1.UpdateOptions{}))
	c.until("namespace gone", func() (bool, string) {
		ns, err := c.CoreV1().Namespaces().Get(c.ctx, "doomed", metav1.GetOptions{})
		return apierrors.IsNotFound(err), fmt.Sprintf("%v %+v", err, ns.Status)
	})
	c.namespace("quick")
	begun := time.Now()
	if err := c.CoreV1().Namespaces().Delete(c.ctx, "quick", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.until("empty namespace gone", func() (bool, string) {
		_, err := c.CoreV1().Namespaces().Get(c.ctx, "quick", metav1.GetOptions{})
		return apierrors.IsNotFound(err), fmt.Sprint(err)
	})
	t.Logf("empty namespace deleted in %s", time.Since(begun))
}

func TestNodeJoins(t *testing.T) {
	c := start(t)
	key := must(pki.NewKey())
	req := must(pki.NewRequest(pki.Subject{CommonName: "system:node:n1", Organizations: []string{"system:nodes"}}, key))
	as := clientrest.CopyConfig(c.config)
	as.Impersonate = clientrest.ImpersonationConfig{UserName: "system:bootstrap:abcdef", Groups: []string{"system:bootstrappers", "system:masters"}}
	joining := must(kubernetes.NewForConfig(as))
	begun := time.Now()
	csr, err := joining.CertificatesV1().CertificateSigningRequests().Create(c.ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{Request: req, SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.until("certificate", func() (bool, string) {
		csr = must(c.CertificatesV1().CertificateSigningRequests().Get(c.ctx, csr.Name, metav1.GetOptions{}))
		return len(csr.Status.Certificate) > 0, fmt.Sprintf("%+v", csr.Status)
	})
	t.Logf("certificate in %s", time.Since(begun))
	if certs := must(pki.ParseCertificates(csr.Status.Certificate)); certs[0].Subject.CommonName != "system:node:n1" {
		t.Errorf("subject %s", certs[0].Subject)
	}
}

// node makes a ready node that sends heartbeats until the function it returns is called.
func (c *cluster) node(name string) (die func()) {
	must(c.CoreV1().Nodes().Create(c.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))
	status := []byte(`{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`)
	must(c.CoreV1().Nodes().Patch(c.ctx, name, types.StrategicMergePatchType, status, metav1.PatchOptions{}, "status"))
	leases := c.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	lease := must(leases.Create(c.ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &name}}, metav1.CreateOptions{}))
	ctx, die := context.WithCancel(c.ctx)
	c.t.Cleanup(die)
	go func() {
		for beat := time.NewTicker(grace / 10); ; {
			select {
			case <-ctx.Done():
				beat.Stop()
				return
			case now := <-beat.C:
				at := metav1.NewMicroTime(now)
				lease.Spec.RenewTime = &at
				if next, err := leases.Update(ctx, lease, metav1.UpdateOptions{}); err == nil {
					lease = next
				}
			}
		}
	}()
	return die
}

func TestNodeDies(t *testing.T) {
	c := start(t)
	c.namespace("app")
	c.node("n1")
	die := c.node("n2")
	now := int64(0)
	for name, node := range map[string]string{"stays": "n1", "goes": "n2"} {
		p := must(c.CoreV1().Pods("app").Create(c.ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "web"}},
			Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}},
				Tolerations: []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &now}}},
		}, metav1.CreateOptions{}))
		p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.42.0.9", PodIPs: []corev1.PodIP{{IP: "10.42.0.9"}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
		must(c.CoreV1().Pods("app").UpdateStatus(c.ctx, p, metav1.UpdateOptions{}))
	}
	die()
	c.until("unreachable", func() (bool, string) {
		n := must(c.CoreV1().Nodes().Get(c.ctx, "n2", metav1.GetOptions{}))
		taints := 0
		for _, taint := range n.Spec.Taints {
			if taint.Key == corev1.TaintNodeUnreachable && taint.TimeAdded != nil {
				taints++
			}
		}
		return taints == 2, fmt.Sprintf("%+v %+v", n.Spec.Taints, n.Status.Conditions)
	})
	c.until("evicted", func() (bool, string) {
		p := must(c.CoreV1().Pods("app").Get(c.ctx, "goes", metav1.GetOptions{}))
		conds := map[corev1.PodConditionType]corev1.ConditionStatus{}
		for _, cond := range p.Status.Conditions {
			conds[cond.Type] = cond.Status
		}
		return p.DeletionTimestamp != nil && conds[corev1.PodReady] == corev1.ConditionFalse && conds[corev1.DisruptionTarget] == corev1.ConditionTrue, fmt.Sprintf("%+v", p.Status)
	})
	if p := must(c.CoreV1().Pods("app").Get(c.ctx, "stays", metav1.GetOptions{})); p.DeletionTimestamp != nil || p.Status.Conditions[0].Status != corev1.ConditionTrue {
		t.Errorf("pod of the living node: %+v", p.Status)
	}
	if n := must(c.CoreV1().Nodes().Get(c.ctx, "n1", metav1.GetOptions{})); len(n.Spec.Taints) != 0 {
		t.Errorf("taints of the living node: %v", n.Spec.Taints)
	}
	must(c.CoreV1().Nodes().Patch(c.ctx, "n2", types.StrategicMergePatchType,
		[]byte(`{"status":{"conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":"`+time.Now().UTC().Format(time.RFC3339)+`"}]}}`), metav1.PatchOptions{}, "status"))
	c.until("back", func() (bool, string) {
		n := must(c.CoreV1().Nodes().Get(c.ctx, "n2", metav1.GetOptions{}))
		return len(n.Spec.Taints) == 0, fmt.Sprint(n.Spec.Taints)
	})
}

// TestIdle: a cluster at rest does nothing. Goroutines are what the informers need; the API server's and etcd's are counted
// before.
func TestIdle(t *testing.T) {
	before := runtimepkg.NumGoroutine()
	c := start(t)
	c.namespace("idle")
	must(c.CoreV1().Nodes().Create(c.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{}))
	c.until("quiet", func() (bool, string) {
		a := must(c.CoreV1().Namespaces().List(c.ctx, metav1.ListOptions{})).ResourceVersion
		time.Sleep(500 * time.Millisecond)
		b := must(c.CoreV1().Namespaces().List(c.ctx, metav1.ListOptions{})).ResourceVersion
		return a == b, a + " " + b
	})
	t.Logf("%d goroutines, %d before", runtimepkg.NumGoroutine(), before)
}
