package podgc

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/controller/controllertest"
)

func pod(name, node string, phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase}}
}

func node(name string, taints ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, t := range taints {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: t, Effect: corev1.TaintEffectNoExecute})
	}
	return n
}

func terminating(p *corev1.Pod) *corev1.Pod {
	p.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	return p
}

func there(t *testing.T, w *controllertest.World) string {
	t.Helper()
	synctest.Wait()
	l, err := w.Client.CoreV1().Pods("ns").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range l.Items {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func start(t *testing.T, w *controllertest.World, threshold int) {
	c, err := New(Config{Client: w.Client, Informers: w.Informers, Feeds: w.Feeds, Logger: w.Logger, Threshold: threshold})
	if err != nil {
		t.Fatal(err)
	}
	w.Start(c)
}

func TestMissingNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := controllertest.New(t, node("n1"), node("n2"), pod("a", "n1", corev1.PodRunning), pod("b", "n2", corev1.PodRunning),
			pod("lost", "never", corev1.PodRunning), pod("waiting", "", corev1.PodPending), terminating(pod("unbound", "", corev1.PodPending)))
		start(t, w, 0)
		if got := there(t, w); got != "a b lost waiting" {
			t.Fatalf("at start: %s", got)
		}
		time.Sleep(45 * time.Second)
		if got := there(t, w); got != "a b waiting" {
			t.Fatalf("node that never was: %s", got)
		}
		if got := fmt.Sprint(w.Writes()); got != "[patch pods/status ns/unbound delete pods ns/unbound patch pods/status ns/lost delete pods ns/lost]" {
			t.Errorf("writes %s", got)
		}
		if err := w.Client.CoreV1().Nodes().Delete(ctx, "n1", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		if got := there(t, w); got != "a b waiting" {
			t.Fatalf("in quarantine: %s", got)
		}
		time.Sleep(15 * time.Second)
		if got := there(t, w); got != "b waiting" {
			t.Fatalf("node deleted: %s", got)
		}
		if err := w.Client.CoreV1().Nodes().Delete(ctx, "n2", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		if _, err := w.Client.CoreV1().Nodes().Create(ctx, node("n2"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if got := there(t, w); got != "b waiting" {
			t.Fatalf("node registered anew: %s", got)
		}
	})
}

func TestOutOfService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		off := node("off", corev1.TaintNodeOutOfService)
		on := node("on", corev1.TaintNodeOutOfService)
		on.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		w := controllertest.New(t, off, on, terminating(pod("a", "off", corev1.PodRunning)), pod("b", "off", corev1.PodRunning), terminating(pod("c", "on", corev1.PodRunning)))
		start(t, w, 0)
		if got := there(t, w); got != "b c" {
			t.Errorf("left: %s", got)
		}
	})
}

func TestSurplus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controllertest.New(t)
		for i := range 6 {
			p := pod(fmt.Sprint(i), "", corev1.PodSucceeded)
			p.CreationTimestamp = metav1.NewTime(time.Now().Add(time.Duration(-i) * time.Minute))
			if i == 0 {
				p.Status.Reason = "Evicted"
			}
			if _, err := w.Client.CoreV1().Pods("ns").Create(context.Background(), p, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Client.CoreV1().Pods("ns").Create(context.Background(), pod("running", "", corev1.PodRunning), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		start(t, w, 3)
		if got := there(t, w); got != "1 2 3 running" { // the evicted one and the oldest are gone
			t.Errorf("left: %s", got)
		}
	})
}
