package nodelifecycle

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/controller/controllertest"
)

type bed struct {
	*controllertest.World
	t    *testing.T
	dead map[string]bool
}

// start makes a cluster of n nodes with a ready pod each, and a kubelet's heartbeats for each node that is not dead.
func start(t *testing.T, n int) *bed {
	b := &bed{t: t, dead: map[string]bool{}}
	b.World = controllertest.New(t)
	ctx := context.Background()
	for i := range n {
		name := fmt.Sprint("n", i)
		must(b.Client.CoreV1().Nodes().Create(ctx, node(name, corev1.ConditionTrue), metav1.CreateOptions{}))
		must(b.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))
		must(b.Client.CoreV1().Pods("ns").Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "p-" + name}, Spec: corev1.PodSpec{NodeName: name},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
		}, metav1.CreateOptions{}))
	}
	c, err := New(Config{Client: b.Client, Informers: b.Informers, Feeds: b.Feeds, Events: b.Events, Logger: b.Logger})
	must(c, err)
	b.World.Start(c)
	synctest.Wait()
	return b
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// pass lets time go by, with a heartbeat of every live node each ten seconds.
func (b *bed) pass(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(10 * time.Second) {
		leases := must(b.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease).List(context.Background(), metav1.ListOptions{}))
		for _, l := range leases.Items {
			if !b.dead[l.Name] {
				now := metav1.NowMicro()
				l.Spec.RenewTime = &now
				must(b.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Update(context.Background(), &l, metav1.UpdateOptions{}))
			}
		}
	}
	synctest.Wait()
}

// report is the kubelet's status report.
func (b *bed) report(name string) {
	n := must(b.Client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})).DeepCopy()
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()}}
	must(b.Client.CoreV1().Nodes().UpdateStatus(context.Background(), n, metav1.UpdateOptions{}))
	synctest.Wait()
}

func (b *bed) look(name string) string {
	n := must(b.Client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{}))
	p := must(b.Client.CoreV1().Pods("ns").Get(context.Background(), "p-"+name, metav1.GetOptions{}))
	return fmt.Sprintf("%s pod=%s %v", readyStatus(n), p.Status.Conditions[0].Status, names(n.Spec.Taints))
}

const (
	fine    = "True pod=True []"
	cut     = "Unknown pod=False [node.kubernetes.io/unreachable:NoExecute node.kubernetes.io/unreachable:NoSchedule]"
	waiting = "Unknown pod=False [node.kubernetes.io/unreachable:NoSchedule]"
	calmed  = "Unknown pod=True [node.kubernetes.io/unreachable:NoSchedule]"
)

func (b *bed) expect(when, name, want string) {
	b.t.Helper()
	if got := b.look(name); got != want {
		b.t.Errorf("%s: node %s is %s, want %s", when, name, got, want)
	}
}

func TestSilentNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 3)
		b.pass(10 * time.Minute)
		b.Writes()
		b.expect("alive by lease alone", "n1", fine)
		b.dead["n1"] = true
		b.pass(20 * time.Second) // the last heartbeat was ten seconds before
		b.expect("within grace", "n1", fine)
		b.pass(20 * time.Second)
		b.expect("silent", "n1", cut)
		b.expect("others", "n0", fine)
		b.dead["n1"] = false
		b.report("n1")
		if got := b.look("n1"); got != "True pod=False []" { // the kubelet reports its pods itself
			t.Errorf("back: %s", got)
		}
	})
}

func TestEvictionIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 5)
		b.pass(time.Minute)
		b.dead["n1"], b.dead["n2"] = true, true
		b.pass(30 * time.Second)
		a, c := b.look("n1"), b.look("n2")
		if !(a == cut && c == waiting || a == waiting && c == cut) {
			t.Errorf("at once: %s and %s, want one of them to wait", a, c)
		}
		b.pass(20 * time.Second)
		b.expect("later", "n1", cut)
		b.expect("later", "n2", cut)
		b.dead["n3"] = true // three of five: the zone is partially disrupted
		b.pass(5 * time.Minute)
		b.expect("partially disrupted", "n3", waiting)
	})
}

func TestAllSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 2)
		b.pass(time.Minute)
		b.dead["n0"], b.dead["n1"] = true, true
		b.pass(10 * time.Minute)
		for _, n := range []string{"n0", "n1"} {
			if got := b.look(n); got != calmed && got != waiting {
				t.Errorf("all silent: %s is %s", n, got)
			}
		}
		b.dead["n0"] = false
		b.report("n0")
		b.pass(20 * time.Second)
		b.expect("one is back", "n1", cut)
	})
}

func TestOnlyNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 1)
		b.dead["n0"] = true
		b.pass(5 * time.Minute)
		b.expect("the only node", "n0", calmed)
	})
}

// A kubelet that starts says NotReady first. That must not cost a taint that is taken away again a moment later.
func TestStartingNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 1)
		must(b.Client.CoreV1().Nodes().Create(context.Background(), node("new", corev1.ConditionFalse), metav1.CreateOptions{}))
		taintsOf := func() string {
			synctest.Wait()
			return fmt.Sprint(names(must(b.Client.CoreV1().Nodes().Get(context.Background(), "new", metav1.GetOptions{})).Spec.Taints))
		}
		if got := taintsOf(); got != "[node.kubernetes.io/not-ready:NoSchedule]" {
			t.Errorf("at once: %s", got)
		}
		time.Sleep(hesitate)
		if got := taintsOf(); got != "[node.kubernetes.io/not-ready:NoExecute node.kubernetes.io/not-ready:NoSchedule]" {
			t.Errorf("later: %s", got)
		}
	})
}

func TestNeverHeardOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 2)
		n := node("new", "")
		n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}}
		must(b.Client.CoreV1().Nodes().Create(context.Background(), n, metav1.CreateOptions{}))
		b.pass(50 * time.Second)
		if n := must(b.Client.CoreV1().Nodes().Get(context.Background(), "new", metav1.GetOptions{})); readyStatus(n) != "" || len(n.Spec.Taints) != 1 {
			t.Fatalf("within startup grace: %+v", n.Status)
		}
		b.pass(20 * time.Second)
		got := must(b.Client.CoreV1().Nodes().Get(context.Background(), "new", metav1.GetOptions{}))
		if c := condition(got, corev1.NodeReady); c == nil || c.Reason != reasonNever {
			t.Fatalf("never heard of: %+v", got.Status)
		}
		b.report("new")
		got = must(b.Client.CoreV1().Nodes().Get(context.Background(), "new", metav1.GetOptions{}))
		if len(got.Spec.Taints) != 0 {
			t.Errorf("taints after its first report: %v", names(got.Spec.Taints))
		}
	})
}
