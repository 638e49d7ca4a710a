package replicaset

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"
	"pgregory.net/rapid"

	"github.com/mini-k8s/mini/controller/controllertest"
)

func set(replicas int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "rs", Generation: 3},
		Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"a": "b"}}}},
	}
}

// A plan never asks for more or fewer pods than are missing or too many, deletes only active pods and each once, and has
// nothing to do when the number is right.
func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.IntRange(0, 20).Draw(t, "replicas")
		rs := set(int32(want))
		rs.Spec.MinReadySeconds = int32(rapid.IntRange(0, 30).Draw(t, "minReady"))
		var pods []*corev1.Pod
		active := 0
		for i := range rapid.IntRange(0, 25).Draw(t, "pods") {
			opts := []podOpt{ready(time.Duration(rapid.IntRange(0, 60).Draw(t, "since")) * time.Second)}
			switch rapid.IntRange(0, 4).Draw(t, "kind") {
			case 0:
				opts = append(opts, deleting())
			case 1:
				opts = append(opts, phased(corev1.PodFailed))
			default:
				active++
			}
			pods = append(pods, pod(fmt.Sprint(i), opts...))
		}
		p := plan(rs, pods, pods, t0)
		if after := active + p.create - len(p.delete); after != want || (p.create > 0 && len(p.delete) > 0) {
			t.Fatalf("%d active, +%d -%d, want %d", active, p.create, len(p.delete), want)
		}
		seen := map[string]bool{}
		for _, d := range p.delete {
			if d.DeletionTimestamp != nil || d.Status.Phase == corev1.PodFailed || seen[d.Name] {
				t.Fatalf("deletes %s", d.Name)
			}
			seen[d.Name] = true
		}
		s := p.status
		if int(s.Replicas) != active || s.AvailableReplicas > s.ReadyReplicas || s.ReadyReplicas > s.Replicas || s.ObservedGeneration != 3 {
			t.Fatalf("status %+v", s)
		}
		if s.AvailableReplicas < s.ReadyReplicas && (p.again <= 0 || p.again > 30*time.Second) {
			t.Fatalf("pods become available later, looks again in %s", p.again)
		}
	})
}

func TestPlanLeavesADeletedSetAlone(t *testing.T) {
	rs := set(3)
	rs.DeletionTimestamp = &metav1.Time{Time: t0}
	if p := plan(rs, []*corev1.Pod{pod("a")}, nil, t0); p.create != 0 || len(p.delete) != 0 || p.status.Replicas != 1 {
		t.Errorf("%+v", p)
	}
}

func TestFailureCondition(t *testing.T) {
	boom := errors.New("exceeded quota")
	s := withFailure(appsv1.ReplicaSetStatus{}, nil, "FailedCreate", boom, t0)
	if len(s.Conditions) != 1 || s.Conditions[0].Reason != "FailedCreate" || s.Conditions[0].Message != "exceeded quota" {
		t.Fatalf("%+v", s.Conditions)
	}
	again := withFailure(appsv1.ReplicaSetStatus{}, s.Conditions, "FailedCreate", errors.New("other"), t0.Add(time.Hour))
	if len(again.Conditions) != 1 || again.Conditions[0] != s.Conditions[0] {
		t.Errorf("condition is rewritten at each try: %+v", again.Conditions)
	}
	if s = withFailure(appsv1.ReplicaSetStatus{}, s.Conditions, "", nil, t0); len(s.Conditions) != 0 {
		t.Errorf("stays after success: %+v", s.Conditions)
	}
}

func start(t *testing.T, w *controllertest.World) {
	c, err := New(Config{Client: w.Client, Informers: w.Informers, Feeds: w.Feeds, Events: w.Events, Logger: w.Logger})
	if err != nil {
		t.Fatal(err)
	}
	w.Start(c)
	synctest.Wait()
}

func podsOf(t *testing.T, w *controllertest.World) (owned, all []corev1.Pod) {
	t.Helper()
	synctest.Wait()
	l, err := w.Client.CoreV1().Pods("ns").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range l.Items {
		if ref := metav1.GetControllerOf(&p); ref != nil && ref.UID == "rs" {
			owned = append(owned, p)
		}
	}
	return owned, l.Items
}

func scale(t *testing.T, w *controllertest.World, n int32) {
	t.Helper()
	ctx := context.Background()
	rs, err := w.Client.AppsV1().ReplicaSets("ns").Get(ctx, "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rs = rs.DeepCopy()
	rs.Spec.Replicas = &n
	if _, err := w.Client.AppsV1().ReplicaSets("ns").Update(ctx, rs, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestScales(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controllertest.New(t, set(5))
		start(t, w)
		owned, _ := podsOf(t, w)
		if len(owned) != 5 || owned[0].Annotations["a"] != "b" || !strings.HasPrefix(owned[0].Name, "web-") {
			t.Fatalf("%d pods", len(owned))
		}
		scale(t, w, 2)
		if owned, _ = podsOf(t, w); len(owned) != 2 {
			t.Fatalf("%d pods after scaling down", len(owned))
		}
		ctx := context.Background()
		if err := w.Client.CoreV1().Pods("ns").Delete(ctx, owned[0].Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if owned, _ = podsOf(t, w); len(owned) != 2 {
			t.Fatalf("%d pods after one was deleted", len(owned))
		}
		rs, err := w.Client.AppsV1().ReplicaSets("ns").Get(ctx, "web", metav1.GetOptions{})
		if err != nil || rs.Status.Replicas != 2 || rs.Status.ObservedGeneration != 3 {
			t.Errorf("status %+v, %v", rs.Status, err)
		}
		var events []string
		for len(w.Events.Events) > 0 {
			events = append(events, <-w.Events.Events)
		}
		if n := len(events); n != 9 || !strings.HasPrefix(events[0], "Normal SuccessfulCreate Created pod: web-") || !strings.HasPrefix(events[5], "Normal SuccessfulDelete Deleted pod: web-") {
			t.Errorf("%d events: %v", n, events)
		}
		w.Writes()
		synctest.Wait()
		if got := w.Writes(); len(got) != 0 {
			t.Errorf("writes at rest: %v", got)
		}
	})
}

// A second sync before the informer has shown the first one's pods must not make them again.
func TestAheadOfTheInformer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controllertest.New(t, set(4))
		made := 0
		w.Client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
			made++ // answered, but no watch will ever tell
			p := a.(clienttesting.CreateAction).GetObject().(*corev1.Pod).DeepCopy()
			p.Name, p.UID, p.ResourceVersion = fmt.Sprint("p", made), types.UID(fmt.Sprint(made)), fmt.Sprint(5000+made)
			return true, p, nil
		})
		start(t, w)
		for range 3 {
			rs := set(4)
			rs.Annotations = map[string]string{"touched": fmt.Sprint(time.Now())}
			if _, err := w.Client.AppsV1().ReplicaSets("ns").Update(context.Background(), rs, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if made != 4 {
			t.Fatalf("%d pods made, want 4", made)
		}
	})
}

func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controllertest.New(t, set(100))
		tries := 0
		var fail atomic.Bool
		fail.Store(true)
		w.Client.PrependReactor("create", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			if !fail.Load() {
				return false, nil, nil
			}
			tries++
			return true, nil, apierrors.NewForbidden(corev1.Resource("pods"), "", errors.New("exceeded quota"))
		})
		start(t, w)
		if tries > 10 {
			t.Fatalf("%d requests for a template that cannot be created", tries)
		}
		rs, _ := w.Client.AppsV1().ReplicaSets("ns").Get(context.Background(), "web", metav1.GetOptions{})
		if len(rs.Status.Conditions) != 1 || rs.Status.Conditions[0].Type != appsv1.ReplicaSetReplicaFailure {
			t.Fatalf("conditions %+v", rs.Status.Conditions)
		}
		fail.Store(false)
		time.Sleep(5 * time.Minute)
		if owned, _ := podsOf(t, w); len(owned) != 100 {
			t.Fatalf("%d pods when it works again", len(owned))
		}
		rs, _ = w.Client.AppsV1().ReplicaSets("ns").Get(context.Background(), "web", metav1.GetOptions{})
		if len(rs.Status.Conditions) != 0 || rs.Status.Replicas != 100 {
			t.Fatalf("status %+v", rs.Status)
		}
	})
}

func TestAdoptsAndReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		ended := pod("ended", phased(corev1.PodSucceeded))
		foreign := pod("foreign")
		yes := true
		foreign.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "x", UID: "x", Controller: &yes}}
		unlike := pod("unlike")
		unlike.Labels = nil
		w := controllertest.New(t, set(2), pod("orphan"), ended, foreign, unlike)
		start(t, w)
		owned, all := podsOf(t, w)
		if len(owned) != 2 || len(all) != 5 {
			t.Fatalf("%d owned of %d", len(owned), len(all))
		}
		p, _ := w.Client.CoreV1().Pods("ns").Get(ctx, "orphan", metav1.GetOptions{})
		if ref := metav1.GetControllerOf(p); ref == nil || ref.UID != "rs" || ref.Kind != "ReplicaSet" || !*ref.BlockOwnerDeletion {
			t.Fatalf("orphan's controller %v", ref)
		}
		p = p.DeepCopy()
		p.Labels = map[string]string{"app": "debug"}
		if _, err := w.Client.CoreV1().Pods("ns").Update(ctx, p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if owned, _ = podsOf(t, w); len(owned) != 2 {
			t.Fatalf("%d owned after one was relabelled", len(owned))
		}
		p, _ = w.Client.CoreV1().Pods("ns").Get(ctx, "orphan", metav1.GetOptions{})
		if metav1.GetControllerOf(p) != nil {
			t.Errorf("relabelled pod is not released: %v", p.OwnerReferences)
		}
		p = p.DeepCopy()
		p.Labels = map[string]string{"app": "web"}
		if _, err := w.Client.CoreV1().Pods("ns").Update(ctx, p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if owned, _ = podsOf(t, w); len(owned) != 2 {
			t.Fatalf("%d owned after it came back, want one too many deleted", len(owned))
		}
	})
}

func TestMinReadySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		rs := set(1)
		rs.Spec.MinReadySeconds = 10
		w := controllertest.New(t, rs)
		start(t, w)
		owned, _ := podsOf(t, w)
		p := owned[0].DeepCopy()
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
		if _, err := w.Client.CoreV1().Pods("ns").UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		available := func() int32 {
			synctest.Wait()
			rs, err := w.Client.AppsV1().ReplicaSets("ns").Get(ctx, "web", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return rs.Status.AvailableReplicas
		}
		time.Sleep(8 * time.Second)
		if available() != 0 {
			t.Fatal("available too early")
		}
		time.Sleep(3 * time.Second)
		if available() != 1 {
			t.Fatal("not available after minReadySeconds")
		}
	})
}
