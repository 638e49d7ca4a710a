package deployment

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/mini-k8s/mini/controller/controllertest"
	"github.com/mini-k8s/mini/controller/feed"
	"github.com/mini-k8s/mini/controller/replicaset"
)

// kubelet makes pods ready after a while, and watches how many there are.
type kubelet struct {
	w     *controllertest.World
	after time.Duration

	mu          sync.Mutex
	ready, all  map[string]bool
	most, least int
}

func (k *kubelet) subscribe() {
	k.ready, k.all = map[string]bool{}, map[string]bool{}
	k.least = 1 << 30
	k.w.Feeds.Handle(k.w.Informers.Core().V1().Pods().Informer(), feed.Of(func(old, p *corev1.Pod) {
		k.mu.Lock()
		defer k.mu.Unlock()
		if p == nil {
			delete(k.ready, old.Name)
			delete(k.all, old.Name)
			k.least = min(k.least, len(k.ready))
			return
		}
		k.all[p.Name] = true
		k.most = max(k.most, len(k.all))
		if len(p.Status.Conditions) > 0 {
			k.ready[p.Name] = true
			return
		}
		go k.start(p)
	}))
}

func (k *kubelet) start(p *corev1.Pod) {
	if p.Spec.Containers[0].Image == "broken" {
		return
	}
	time.Sleep(k.after)
	p = p.DeepCopy()
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
	_, _ = k.w.Client.CoreV1().Pods(p.Namespace).UpdateStatus(context.Background(), p, metav1.UpdateOptions{})
}

type bed struct {
	*controllertest.World
	t *testing.T
	k *kubelet
}

func start(t *testing.T, d *appsv1.Deployment) *bed {
	w := controllertest.New(t, d)
	b := &bed{w, t, &kubelet{w: w, after: 2 * time.Second}}
	rs, err := replicaset.New(replicaset.Config{Client: w.Client, Informers: w.Informers, Feeds: w.Feeds, Events: w.Events, Logger: w.Logger})
	if err != nil {
		t.Fatal(err)
	}
	dc, err := New(Config{Client: w.Client, Informers: w.Informers, Feeds: w.Feeds, Events: w.Events, Logger: w.Logger})
	if err != nil {
		t.Fatal(err)
	}
	b.k.subscribe()
	w.Start(rs, dc)
	time.Sleep(time.Minute)
	return b
}

func (b *bed) get() *appsv1.Deployment {
	b.t.Helper()
	synctest.Wait()
	d, err := b.Client.AppsV1().Deployments("ns").Get(context.Background(), "web", metav1.GetOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	return d.DeepCopy()
}

func (b *bed) change(f func(*appsv1.Deployment)) {
	b.t.Helper()
	d := b.get()
	f(d)
	d.Generation++ // the API server's part
	if _, err := b.Client.AppsV1().Deployments("ns").Update(context.Background(), d, metav1.UpdateOptions{}); err != nil {
		b.t.Fatal(err)
	}
	b.k.mu.Lock()
	b.k.most, b.k.least = 0, 1<<30
	b.k.mu.Unlock()
	time.Sleep(time.Minute)
}

func (b *bed) images() map[string]int {
	synctest.Wait()
	pods, err := b.Client.CoreV1().Pods("ns").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	out := map[string]int{}
	for _, p := range pods.Items {
		out[p.Spec.Containers[0].Image]++
	}
	return out
}

func (b *bed) events() (out []string) {
	for len(b.Events.Events) > 0 {
		out = append(out, <-b.Events.Events)
	}
	return out
}

func TestRollsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, deployment(4, intstr.FromInt32(1), intstr.FromInt32(1)))
		if got := b.images(); got["v1"] != 4 || len(got) != 1 {
			t.Fatalf("pods %v", got)
		}
		sets, _ := b.Client.AppsV1().ReplicaSets("ns").List(context.Background(), metav1.ListOptions{})
		if len(sets.Items) != 1 {
			t.Fatalf("%d ReplicaSets", len(sets.Items))
		}
		rs := sets.Items[0]
		hash := rs.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
		if rs.Name != "web-"+hash || rs.Spec.Selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] != hash || rs.Spec.Template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] != hash {
			t.Errorf("ReplicaSet %s, labels %v", rs.Name, rs.Labels)
		}
		found := false
		for _, e := range b.events() {
			found = found || e == fmt.Sprintf("Normal ScalingReplicaSet Scaled up replica set %s from 0 to 4", rs.Name)
		}
		if !found {
			t.Error("no ScalingReplicaSet event")
		}
		d := b.get()
		if s := d.Status; s.Replicas != 4 || s.UpdatedReplicas != 4 || s.AvailableReplicas != 4 || s.ReadyReplicas != 4 || s.UnavailableReplicas != 0 || s.ObservedGeneration != 1 || d.Annotations[annotationRevision] != "1" {
			t.Fatalf("status %+v, annotations %v", s, d.Annotations)
		}

		b.change(func(d *appsv1.Deployment) { d.Spec.Template = template("v2") })
		if got := b.images(); got["v2"] != 4 || len(got) != 1 {
			t.Fatalf("after rollout: %v", got)
		}
		// The sum that is asked for never exceeds 5 (TestRolloutProperties); one that is being deleted may come on top.
		if b.k.most > 6 || b.k.least < 3 {
			t.Errorf("in between at most %d pods and at least %d ready, want 6 and 3", b.k.most, b.k.least)
		}
		if d := b.get(); d.Annotations[annotationRevision] != "2" || !complete(d, &d.Status) {
			t.Fatalf("after rollout: %+v", d.Status)
		}

		b.change(func(d *appsv1.Deployment) { d.Spec.Template = template("broken") })
		if got := b.images(); got["v2"] != 3 || got["broken"] != 2 {
			t.Fatalf("broken rollout: %v", got)
		}
		time.Sleep(11 * time.Minute)
		if c := (&conditions{list: b.get().Status.Conditions}).get(appsv1.DeploymentProgressing); c.Reason != reasonDeadline {
			t.Errorf("Progressing %+v", c)
		}
		b.change(func(d *appsv1.Deployment) { d.Spec.Template = template("v2") })
		if got := b.images(); got["v2"] != 4 || len(got) != 1 {
			t.Fatalf("after undo: %v", got)
		}
		if d := b.get(); d.Annotations[annotationRevision] != "4" {
			t.Errorf("revision after undo: %s", d.Annotations[annotationRevision])
		}

		n := int32(6)
		b.change(func(d *appsv1.Deployment) { d.Spec.Replicas = &n })
		if got := b.images(); got["v2"] != 6 {
			t.Fatalf("scaled: %v", got)
		}
		b.Writes()
		time.Sleep(time.Hour)
		if got := b.Writes(); len(got) != 0 {
			t.Errorf("writes at rest: %v", got)
		}
	})
}

func TestRecreate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := deployment(3, intstr.FromInt32(1), intstr.FromInt32(1))
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		b := start(t, d)
		b.change(func(d *appsv1.Deployment) { d.Spec.Template = template("v2") })
		if got := b.images(); got["v2"] != 3 || len(got) != 1 {
			t.Fatalf("after rollout: %v", got)
		}
		if b.k.most > 3 || b.k.least != 0 {
			t.Errorf("at most %d pods, at least %d ready, want 3 and 0", b.k.most, b.k.least)
		}
	})
}

func TestNameCollision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := deployment(1, intstr.FromInt32(1), intstr.FromInt32(1))
		taken := newSet(d)
		taken.OwnerReferences, taken.Labels = nil, nil
		w := controllertest.New(t, d, taken)
		c, err := New(Config{Client: w.Client, Informers: w.Informers, Feeds: w.Feeds, Events: w.Events, Logger: w.Logger})
		if err != nil {
			t.Fatal(err)
		}
		w.Start(c)
		time.Sleep(time.Minute)
		synctest.Wait()
		got, _ := w.Client.AppsV1().Deployments("ns").Get(context.Background(), "web", metav1.GetOptions{})
		sets, _ := w.Client.AppsV1().ReplicaSets("ns").List(context.Background(), metav1.ListOptions{})
		if got.Status.CollisionCount == nil || *got.Status.CollisionCount != 1 || len(sets.Items) != 2 {
			t.Errorf("collisions %v, %d sets", got.Status.CollisionCount, len(sets.Items))
		}
	})
}

func TestAdoptsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := deployment(2, intstr.FromInt32(1), intstr.FromInt32(1))
		orphan := newSet(d)
		orphan.OwnerReferences = nil
		b := func() *bed {
			w := controllertest.New(t, d, orphan)
			c, err := New(Config{Client: w.Client, Informers: w.Informers, Feeds: w.Feeds, Events: w.Events, Logger: w.Logger})
			if err != nil {
				t.Fatal(err)
			}
			w.Start(c)
			return &bed{World: w, t: t}
		}()
		time.Sleep(time.Minute)
		synctest.Wait()
		sets, _ := b.Client.AppsV1().ReplicaSets("ns").List(context.Background(), metav1.ListOptions{})
		if len(sets.Items) != 1 || !metav1.IsControlledBy(&sets.Items[0], d) || *sets.Items[0].Spec.Replicas != 2 {
			t.Fatalf("%d sets, first %+v", len(sets.Items), sets.Items[0].ObjectMeta)
		}
	})
}
