package apiserver_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/apiserver"
	"github.com/mini-k8s/mini/apiserver/openapi"
)

const webManifest = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "nginx:1", ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, nodePort: 30080}]}
`

type step struct {
	args  string
	stdin string
	want  []string
	fails bool
}

func (c *cluster) run(t *testing.T, steps []step) {
	t.Helper()
	for _, step := range steps {
		out, err := c.kubectl(t, step.stdin, strings.Fields(step.args)...)
		if (err != nil) != step.fails {
			t.Errorf("kubectl %s: %v\n%s", step.args, err, out)
		}
		for _, want := range step.want {
			if !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
				t.Errorf("kubectl %s: no %q in\n%s", step.args, want, out)
			}
		}
	}
}

// withOpenAPI serves the embedded documents, without which kubectl validates nothing.
func withOpenAPI(t *testing.T) func(*apiserver.Config) {
	t.Helper()
	w := httptest.NewRecorder()
	openapi.NewHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/openapi/v3", nil))
	if w.Code != http.StatusOK {
		t.Skip("needs `make openapi`")
	}
	return func(config *apiserver.Config) { config.OpenAPI = openapi.NewHandler() }
}

// TestKindsByKubectl takes the kinds through what people do with kubectl.
func TestKindsByKubectl(t *testing.T) {
	c := start(t, withOpenAPI(t))
	c.run(t, []step{
		{args: "apply -f -", stdin: webManifest, want: []string{"deployment.apps/web created", "service/web created"}},
		{args: "apply -f -", stdin: webManifest, want: []string{"deployment.apps/web unchanged", "service/web unchanged"}},
		{args: "apply -f -", stdin: strings.Replace(webManifest, "replicas", "replcas", 1), want: []string{`unknown field "spec.replcas"`}, fails: true},
		{args: "apply -f -", stdin: strings.Replace(webManifest, "name: web, image", "name: Web, image", 1), want: []string{
			`The Deployment "web" is invalid: spec.template.spec.containers[0].name: Invalid value: "Web": a lowercase RFC 1123 label must consist of`,
		}, fails: true},
		{args: "apply -f -", stdin: strings.Replace(webManifest, "matchLabels: {app: web}", "matchLabels: {app: x}", 1), want: []string{
			"`selector` does not match template `labels`", "field is immutable",
		}, fails: true},
		{args: "apply --server-side --force-conflicts -f -", stdin: webManifest, want: []string{"deployment.apps/web serverside-applied"}},
		{args: "get deploy -o wide", want: []string{"NAME READY UP-TO-DATE AVAILABLE AGE CONTAINERS IMAGES SELECTOR web 0/2 0 0", "web nginx:1 app=web"}},
		{args: "get svc web -o wide", want: []string{"NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE SELECTOR web NodePort 10.43.", "<none> 80:30080/TCP", "app=web"}},
		{args: "scale deploy web --replicas=3", want: []string{"deployment.apps/web scaled"}},
		// The second generation is that server-side apply took kubectl's own annotation away.
		{args: "get deploy web -o jsonpath={.spec.replicas}/{.metadata.generation}", want: []string{"3/3"}},
		{args: "set image deploy/web web=nginx:2", want: []string{"image updated"}},
		{args: "expose deploy web --name other --port 8080 --target-port 80", want: []string{"service/other exposed"}},
		{args: "explain deployment.spec.replicas", want: []string{"GROUP: apps KIND: Deployment VERSION: v1 FIELD: replicas <integer>"}},
		{args: "explain pod.spec.restartPolicy", want: []string{"ENUM: Always Never OnFailure"}},
		{args: "explain pod --recursive", want: []string{"topologySpreadConstraints <[]TopologySpreadConstraint>"}},
		{args: "run one --image=busybox:1 --labels=app=one -- sleep 1", want: []string{"pod/one created"}},
		{args: "get pod one -o wide", want: []string{"NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES one 0/1 Pending 0", "<none> <none> <none> <none>"}},
		{args: "get pods --field-selector spec.nodeName=,status.phase=Pending -o name", want: []string{"pod/one"}},
		{args: "get pods --field-selector spec.color=red", want: []string{"field label not supported: spec.color"}, fails: true},
		{args: "patch pod one -p {\"spec\":{\"nodeName\":\"n\"}}", want: []string{"pod updates may not change fields other than"}, fails: true},
		{args: "delete pod one", want: []string{`pod "one" deleted`}},
		{args: "create sa bot", want: []string{"serviceaccount/bot created"}},
		{args: "create role r --verb=get --resource=pods", want: []string{"role.rbac.authorization.k8s.io/r created"}},
		{args: "create rolebinding b --role=r --serviceaccount=default:bot", want: []string{"created"}},
		{args: "get rolebinding b -o wide", want: []string{"NAME ROLE AGE USERS GROUPS SERVICEACCOUNTS b Role/r", "default/bot"}},
		{args: "create secret generic s --from-literal=a=b", want: []string{"secret/s created"}},
		{args: "get secret s", want: []string{"NAME TYPE DATA AGE s Opaque 1"}},
		{args: "get all", want: []string{"deployment.apps/web", "service/web"}},
		{args: "create deploy bad --image=nginx --replicas=-1", want: []string{"spec.replicas: Invalid value: -1: must be greater than or equal to 0"}, fails: true},
		{args: "delete svc web other", want: []string{`service "web" deleted`}},
	})
}

// TestServiceAddressesReturn: the address and port of a deleted Service can be had again at once.
func TestServiceAddressesReturn(t *testing.T) {
	c := start(t)
	services := c.client.CoreV1().Services("default")
	for range 3 {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{
			ClusterIP: "10.43.0.77", Type: "NodePort", Ports: []corev1.ServicePort{{Port: 80, NodePort: 31000}},
		}}
		if _, err := services.Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		s.Name = "t"
		if _, err := services.Create(t.Context(), s, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
			t.Fatalf("a second service with the same address: %v", err)
		}
		ips, err := c.client.NetworkingV1().IPAddresses().List(t.Context(), metav1.ListOptions{})
		if err != nil || len(ips.Items) != 2 { // this one and the kubernetes service's
			t.Fatalf("%d claims, %v", len(ips.Items), err)
		}
		if err := services.Delete(t.Context(), "s", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBindAndEvict(t *testing.T) {
	c := start(t)
	pods := c.client.CoreV1().Pods("default")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if _, err := pods.Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	bind := func(node string) error {
		return pods.Bind(t.Context(), &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: "p", Annotations: map[string]string{"why": "test"}}, Target: corev1.ObjectReference{Kind: "Node", Name: node},
		}, metav1.CreateOptions{})
	}
	if err := bind(""); !apierrors.IsInvalid(err) {
		t.Errorf("binding to no node: %v", err)
	}
	// The older address of the same: a dry run of it binds nothing.
	const dry = "/api/v1/namespaces/default/bindings?dryRun=All"
	if got := c.do(t, "POST", dry, `{"metadata":{"name":"p"},"target":{"kind":"Node","name":"n0"}}`); got.code != http.StatusCreated ||
		got.body != `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success","code":201}`+"\n" {
		t.Errorf("dry run of a Binding: %d %s", got.code, got.body)
	}
	if err := bind("n1"); err != nil {
		t.Fatal(err)
	}
	if err := bind("n2"); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `pod p is already assigned to node "n1"`) {
		t.Errorf("binding twice: %v", err)
	}
	bound, err := pods.Get(t.Context(), "p", metav1.GetOptions{})
	if err != nil || bound.Spec.NodeName != "n1" || bound.Annotations["why"] != "test" || bound.Status.Conditions[0].Type != corev1.PodScheduled {
		t.Fatalf("bound: %+v %v", bound, err)
	}
	// The kubelet says that it runs; then somebody drains the node.
	bound.Status.Phase = corev1.PodRunning
	if _, err := pods.UpdateStatus(t.Context(), bound, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := pods.EvictV1(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p"}}); err != nil {
		t.Fatal(err)
	}
	going, err := pods.Get(t.Context(), "p", metav1.GetOptions{})
	if err != nil || going.DeletionTimestamp == nil || *going.DeletionGracePeriodSeconds != 30 {
		t.Fatalf("evicted: %+v %v", going, err)
	}
	disrupted := false
	for _, condition := range going.Status.Conditions {
		disrupted = disrupted || condition.Type == corev1.DisruptionTarget && condition.Reason == "EvictionByEvictionAPI"
	}
	if !disrupted {
		t.Errorf("conditions of an evicted pod: %+v", going.Status.Conditions)
	}
	zero := int64(0)
	if err := pods.Delete(t.Context(), "p", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(t.Context(), "p", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after a forced delete: %v", err)
	}
}

func TestNamespaceLife(t *testing.T) {
	c := start(t)
	namespaces := c.client.CoreV1().Namespaces()
	ns, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "n-"}}, metav1.CreateOptions{})
	if err != nil || ns.Labels["kubernetes.io/metadata.name"] != ns.Name || ns.Status.Phase != corev1.NamespaceActive || len(ns.Spec.Finalizers) != 1 {
		t.Fatalf("%+v %v", ns, err)
	}
	if err := namespaces.Delete(t.Context(), ns.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if ns, err = namespaces.Get(t.Context(), ns.Name, metav1.GetOptions{}); err != nil || ns.Status.Phase != corev1.NamespaceTerminating || ns.DeletionTimestamp == nil {
		t.Fatalf("%+v %v", ns, err)
	}
	ns.Spec.Finalizers = nil
	if _, err := namespaces.Finalize(t.Context(), ns, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err = namespaces.Get(t.Context(), ns.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after finalize: %v", err)
	}
}

// TestEventGroups: an Event written in one group is the same Event in the other.
func TestEventGroups(t *testing.T) {
	c := start(t)
	e := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e"}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "p", Namespace: "default"},
		Reason: "Because", Message: "text", Type: "Normal", Count: 3, Source: corev1.EventSource{Component: "me"},
	}
	if _, err := c.client.CoreV1().Events("default").Create(t.Context(), e, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	other, err := c.client.EventsV1().Events("default").Get(t.Context(), "e", metav1.GetOptions{})
	if err != nil || other.Regarding.Name != "p" || other.Note != "text" || other.DeprecatedCount != 3 || other.DeprecatedSource.Component != "me" {
		t.Fatalf("%+v %v", other, err)
	}
	list, err := c.client.CoreV1().Events("").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=p,source=me"})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("%v %v", list, err)
	}
	e.Name, e.InvolvedObject.Namespace = "f", "elsewhere"
	if _, err := c.client.CoreV1().Events("default").Create(t.Context(), e, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "does not match event.namespace") {
		t.Errorf("an event about another namespace: %v", err)
	}
}
