package admission

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/mini-k8s/mini/controller/controllertest"
)

func amounts(s string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for _, part := range strings.Fields(s) {
		name, value, _ := strings.Cut(part, "=")
		list[corev1.ResourceName(name)] = resource.MustParse(value)
	}
	return list
}

func quotaOf(name, hard, used string) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.ResourceQuotaSpec{Hard: amounts(hard)},
		Status: corev1.ResourceQuotaStatus{Hard: amounts(hard), Used: amounts(used)},
	}
}

// quotaServers are as many plugins on one API as there would be servers.
func quotaServers(t *testing.T, n int, quotas ...runtime.Object) (*controllertest.World, []*resourceQuota) {
	t.Helper()
	w := controllertest.New(t, quotas...)
	var servers []*resourceQuota
	for range n {
		servers = append(servers, newResourceQuota(w.Client, w.Informers))
	}
	informer := w.Informers.Core().V1().ResourceQuotas().Informer()
	w.Informers.Start(t.Context().Done())
	w.Informers.WaitForCacheSync(t.Context().Done())
	if !informer.HasSynced() {
		t.Fatal("the quotas are not known")
	}
	return w, servers
}

func secretOf(i int) admission.Attributes {
	return write{
		resource: corev1.SchemeGroupVersion.WithResource("secrets"), namespace: "ns", name: fmt.Sprint("s", i), op: admission.Create,
		obj: &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint("s", i)}},
	}.attributes()
}

func usedOf(t *testing.T, w *controllertest.World, name string) corev1.ResourceList {
	t.Helper()
	q, err := w.Client.CoreV1().ResourceQuotas("ns").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return q.Status.Used
}

// TestFiftyCreators: of fifty that create at once through three servers exactly as many come in as the quotas allow, and
// nothing is charged for the others.
func TestFiftyCreators(t *testing.T) {
	w, servers := quotaServers(t, 3, quotaOf("wide", "secrets=40", "secrets=3"), quotaOf("narrow", "count/secrets=20", "count/secrets=0"))
	var admitted atomic.Int32
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			err := servers[i%len(servers)].Validate(t.Context(), secretOf(i), nil)
			switch {
			case err == nil:
				admitted.Add(1)
			case !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota: narrow, requested: count/secrets=1, used: count/secrets=20, limited: count/secrets=20"):
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := admitted.Load(); n != 20 {
		t.Errorf("%d were admitted", n)
	}
	if used := usedOf(t, w, "narrow")["count/secrets"]; used.Value() != 20 {
		t.Errorf("narrow: %s", used.String())
	}
	// A server may have charged the wide quota for requests that another server's charge then kept out of the narrow one;
	// the controller gives that back. It never charges less than was admitted.
	if used := usedOf(t, w, "wide")["secrets"]; used.Value() < 23 {
		t.Errorf("wide: %s", used.String())
	}
	for _, s := range servers {
		s.mu.Lock()
		if len(s.rounds) != 0 {
			t.Errorf("rounds are left: %v", s.rounds)
		}
		s.mu.Unlock()
	}
}

func TestQuotaOfOneServer(t *testing.T) {
	w, servers := quotaServers(t, 1, quotaOf("a", "secrets=1", "secrets=0"), quotaOf("b", "count/secrets=5", "count/secrets=0"))
	s := servers[0]
	if err := s.Validate(t.Context(), secretOf(1), nil); err != nil {
		t.Fatal(err)
	}
	for range 3 { // what one quota refuses the other is not charged for
		if err := s.Validate(t.Context(), secretOf(2), nil); !apierrors.IsForbidden(err) || !strings.HasPrefix(err.Error(), `secrets "s2" is forbidden: exceeded quota: a,`) {
			t.Fatalf("got %v", err)
		}
	}
	if used := usedOf(t, w, "b")["count/secrets"]; used.Value() != 1 {
		t.Errorf("b: %s", used.String())
	}
}

func TestWhatIsCharged(t *testing.T) {
	pod := newPod(func(p *corev1.Pod) { p.ResourceVersion = "1" })
	ending := newPod(func(p *corev1.Pod) { p.ResourceVersion = "1"; p.Spec.ActiveDeadlineSeconds = ptr.To[int64](1) })
	resource := func(s string) schema.GroupVersionResource { return schema.ParseGroupResource(s).WithVersion("v1") }
	for _, c := range []struct {
		name string
		w    write
		want bool
	}{
		{"pod", createPod(pod), true},
		{"binding", write{resource: pods, sub: "binding", op: admission.Create}, false},
		{"pod_update", write{resource: pods, op: admission.Update, obj: pod, old: pod}, false},
		{"pod_gets_a_deadline", write{resource: pods, op: admission.Update, obj: ending, old: pod}, true},
		{"resize", write{resource: pods, sub: "resize", op: admission.Update, obj: pod, old: pod}, true},
		{"pod_status", write{resource: pods, sub: "status", op: admission.Update, obj: pod, old: pod}, false},
		{"service_update", write{resource: resource("services"), op: admission.Update}, true},
		{"secret", write{resource: resource("secrets"), op: admission.Create}, true},
		{"secret_update", write{resource: resource("secrets"), op: admission.Update}, false},
		{"event", write{resource: resource("events"), op: admission.Create}, false},
		{"event_of_its_group", write{resource: resource("events.events.k8s.io"), op: admission.Create}, false},
		{"review", write{resource: resource("localsubjectaccessreviews.authorization.k8s.io"), op: admission.Create}, false},
		{"custom", write{resource: resource("widgets.example.com"), op: admission.Create}, true},
		{"token", write{resource: resource("serviceaccounts"), sub: "token", op: admission.Create}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := charged(c.w.attributes()); got != c.want {
				t.Errorf("charged is %v", got)
			}
		})
	}
}

// TestListerIsLate: a quota that has been counted holds, also for a server that has not heard of the count.
func TestListerIsLate(t *testing.T) {
	late := quotaOf("q", "secrets=1", "secrets=0")
	late.Status = corev1.ResourceQuotaStatus{}
	w, servers := quotaServers(t, 1, late)
	counted := quotaOf("q", "secrets=1", "secrets=1")
	w.Client.PrependReactor("get", "resourcequotas", func(clienttesting.Action) (bool, runtime.Object, error) { return true, counted, nil })
	if err := servers[0].Validate(t.Context(), secretOf(1), nil); !apierrors.IsForbidden(err) {
		t.Errorf("got %v", err)
	}
}

// TestNothingIsTakenBackTooSoon: who counts cannot lower a charge whose object may not be stored yet.
func TestNothingIsTakenBackTooSoon(t *testing.T) {
	_, servers := quotaServers(t, 1, quotaOf("q", "secrets=2 pods=2", "secrets=0 pods=2"))
	s := servers[0]
	lower := func(used string) error {
		return s.Validate(t.Context(), write{
			resource: corev1.SchemeGroupVersion.WithResource("resourcequotas"), sub: "status", namespace: "ns", name: "q", op: admission.Update,
			old: quotaOf("q", "secrets=2 pods=2", "secrets=1 pods=2"), obj: quotaOf("q", "secrets=2 pods=2", used),
		}.attributes(), nil)
	}
	ctx, done := context.WithCancel(t.Context())
	if err := s.Validate(ctx, secretOf(1), nil); err != nil {
		t.Fatal(err)
	}
	if err := lower("secrets=0 pods=2"); !apierrors.IsConflict(err) {
		t.Errorf("got %v while the request is under way", err)
	}
	if err := lower("secrets=1 pods=1"); err != nil {
		t.Errorf("others are not held up: %v", err)
	}
	done()
	for end := time.Now().Add(time.Minute); lower("secrets=0 pods=2") != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("refused a minute after the request")
		}
	}
}
