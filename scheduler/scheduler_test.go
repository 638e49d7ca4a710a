package scheduler

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
)

func TestQueue(t *testing.T) {
	begin := time.Unix(0, 0)
	at := func(d time.Duration) time.Time { return begin.Add(d) }
	low, high := pod("low"), pod("high", func(p *corev1.Pod) { prio := int32(10); p.Spec.Priority = &prio })

	q := newQueue()
	q.add(low, at(0))
	q.add(high, at(time.Millisecond))
	first, _ := q.pop(at(1))
	second, _ := q.pop(at(1))
	if first.pod != high || second.pod != low {
		t.Fatalf("popped %s before %s", first.pod.Name, second.pod.Name)
	}

	q.park(first, podGone, at(0))
	q.wake(nodeChange, at(time.Second))
	if e, _ := q.pop(at(time.Minute)); e != nil {
		t.Fatalf("%s was woken by a change that does not help", e.pod.Name)
	}
	q.wake(podGone, at(500*time.Millisecond))
	e, next := q.pop(at(500 * time.Millisecond))
	if e != nil || next != at(time.Second) {
		t.Fatalf("popped %v, next at %v: want the end of the back-off", e, next)
	}
	if e, _ = q.pop(at(time.Second)); e != first {
		t.Fatalf("popped %v after the back-off", e)
	}

	q.wake(nodeChange, at(time.Second)) // while it is being decided
	q.park(e, nodeChange, at(time.Second))
	if e, _ = q.pop(at(time.Second + 2*initialBackoff)); e != first {
		t.Fatal("a change during the decision was missed")
	}

	q.park(e, podGone, at(time.Minute))
	if _, next = q.pop(at(time.Minute)); next != at(time.Minute+maxWait) {
		t.Fatalf("next at %v, want the longest wait", next)
	}
	q.wake(0, next)
	if e, _ = q.pop(next.Add(maxBackoff)); e != first {
		t.Fatal("a pod that waited too long was not tried again")
	}
	q.remove(high.UID)
	q.remove(low.UID)
	if len(q.pods) != 0 {
		t.Fatalf("%d pods left", len(q.pods))
	}
	q.park(e, podGone, at(0)) // deleted while it was decided
	q.retry(e, at(0))
	if e, next := q.pop(at(time.Hour)); e != nil || !next.IsZero() {
		t.Fatal("a deleted pod came back")
	}
}

// running starts a scheduler on a fake API and returns its client, which binds as the real one does.
func running(t *testing.T, objects ...runtime.Object) (*fake.Clientset, *record.FakeRecorder) {
	t.Helper()
	client := fake.NewClientset(objects...)
	client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "binding" {
			return false, nil, nil
		}
		b := a.(clienttesting.CreateAction).GetObject().(*corev1.Binding)
		o, err := client.Tracker().Get(corev1.SchemeGroupVersion.WithResource("pods"), b.Namespace, b.Name)
		if err != nil {
			return true, nil, err
		}
		p := o.(*corev1.Pod).DeepCopy()
		p.Spec.NodeName = b.Target.Name
		return true, b, client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), p, b.Namespace)
	})
	factory := informers.NewSharedInformerFactory(client, 0)
	recorder := record.NewFakeRecorder(100)
	s, err := New(Config{Client: client, Informers: factory, Recorder: recorder, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	factory.Start(ctx.Done())
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		factory.Shutdown()
	})
	return client, recorder
}

// eventually waits for the pod to satisfy ok, by watching it.
func eventually(t *testing.T, client *fake.Clientset, name string, ok func(*corev1.Pod) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	w, err := client.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for {
		p, err := client.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		if err == nil && ok(p) {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain; last state of %s: %+v", name, p)
		case <-w.ResultChan():
		}
	}
}

func TestSchedulerBinds(t *testing.T) {
	client, recorder := running(t, node("a"), pod("p"), pod("other", func(p *corev1.Pod) { p.Spec.SchedulerName = "someone-else" }))
	eventually(t, client, "p", func(p *corev1.Pod) bool { return p.Spec.NodeName == "a" })
	if e := <-recorder.Events; !strings.Contains(e, "Successfully assigned default/p to a") {
		t.Errorf("event %q", e)
	}
	other, err := client.CoreV1().Pods("default").Get(t.Context(), "other", metav1.GetOptions{})
	if err != nil || other.Spec.NodeName != "" {
		t.Errorf("another scheduler's pod was bound to %q (%v)", other.Spec.NodeName, err)
	}
}

func TestSchedulerSaysWhyAndTriesAgain(t *testing.T) {
	client, recorder := running(t, node("small"), pod("p", asking("3", "1Gi")))
	eventually(t, client, "p", func(p *corev1.Pod) bool {
		return len(p.Status.Conditions) == 1 && p.Status.Conditions[0].Reason == corev1.PodReasonUnschedulable
	})
	if e := <-recorder.Events; e != "Warning FailedScheduling 0/1 nodes are available: 1 Insufficient cpu." {
		t.Errorf("event %q", e)
	}
	big := node("big", func(n *corev1.Node) { n.Status.Allocatable[corev1.ResourceCPU] = resource.MustParse("8") })
	if _, err := client.CoreV1().Nodes().Create(t.Context(), big, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, client, "p", func(p *corev1.Pod) bool { return p.Spec.NodeName == "big" })
}
