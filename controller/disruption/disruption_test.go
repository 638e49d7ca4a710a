package disruption

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"github.com/mini-k8s/mini/controller/controllertest"
)

func amount(s string) *intstr.IntOrString {
	v := intstr.Parse(s)
	return &v
}

func budget() *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", Generation: 2},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
	}
}

func pod(name string, ready bool, owner string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{"app": "web"}}}
	if ready {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	if owner != "" {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: owner, UID: "rs", Controller: &yes}}
	}
	return p
}

func asks(n int32) func(*corev1.Pod, *metav1.OwnerReference) (scale, error) {
	return func(_ *corev1.Pod, ref *metav1.OwnerReference) (scale, error) { return scale{ref.UID, n}, nil }
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		name              string
		least, most       string
		ready, unready    int
		scale             int32
		allowed, desired  int32
		expected, healthy int32
	}{
		{"number", "2", "", 3, 0, 3, 1, 2, 3, 3},
		{"number_counts_pods", "2", "", 3, 1, 9, 1, 2, 4, 3},
		{"percent_of_scale", "50%", "", 3, 0, 5, 0, 3, 5, 3},
		{"unavailable", "", "1", 3, 0, 3, 1, 2, 3, 3},
		{"unavailable_missing", "", "1", 2, 0, 3, 0, 2, 3, 2},
		{"unavailable_percent", "", "30%", 10, 0, 10, 3, 7, 10, 10},
		{"too_few", "4", "", 3, 0, 3, 0, 4, 3, 3},
		{"none_there", "0", "", 0, 0, 0, 0, 0, 0, 0},
		{"none_needed", "", "100%", 1, 1, 2, 1, 0, 2, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := budget()
			if c.least != "" {
				b.Spec.MinAvailable = amount(c.least)
			} else {
				b.Spec.MaxUnavailable = amount(c.most)
			}
			var pods []*corev1.Pod
			for i := range c.ready + c.unready {
				pods = append(pods, pod(fmt.Sprint(i), i < c.ready, "rs"))
			}
			s := plan(b, pods, asks(c.scale), time.Now()).status
			if s.DisruptionsAllowed != c.allowed || s.DesiredHealthy != c.desired || s.ExpectedPods != c.expected || s.CurrentHealthy != c.healthy || s.ObservedGeneration != 2 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestPlanProperties: what is allowed never leaves fewer healthy pods than desired, evictions under way are not healthy, and
// a second plan changes nothing.
func TestPlanProperties(t *testing.T) {
	now := time.Now()
	rapid.Check(t, func(t *rapid.T) {
		b := budget()
		text := rapid.SampledFrom([]string{"0", "1", "3", "10%", "50%", "100%"}).Draw(t, "amount")
		if rapid.Bool().Draw(t, "min") {
			b.Spec.MinAvailable = amount(text)
		} else {
			b.Spec.MaxUnavailable = amount(text)
		}
		b.Status.DisruptedPods = map[string]metav1.Time{}
		var pods []*corev1.Pod
		for i := range rapid.IntRange(0, 8).Draw(t, "pods") {
			p := pod(fmt.Sprint(i), rapid.Bool().Draw(t, "ready"), "rs")
			if rapid.Bool().Draw(t, "evicted") {
				b.Status.DisruptedPods[p.Name] = metav1.NewTime(now.Add(-time.Duration(rapid.IntRange(0, 300).Draw(t, "ago")) * time.Second))
			}
			if rapid.Bool().Draw(t, "deleting") {
				p.DeletionTimestamp = &metav1.Time{Time: now}
			}
			pods = append(pods, p)
		}
		first := plan(b, pods, asks(int32(len(pods))), now)
		s := first.status
		if s.DisruptionsAllowed < 0 || s.DisruptionsAllowed > 0 && s.CurrentHealthy-s.DisruptionsAllowed < s.DesiredHealthy {
			t.Fatalf("%+v", s)
		}
		if int(s.CurrentHealthy)+len(s.DisruptedPods) > len(pods) || (len(s.DisruptedPods) > 0) != (first.again > 0) {
			t.Fatalf("%+v, again in %s", s, first.again)
		}
		b.Status = s
		if again := plan(b, pods, asks(int32(len(pods))), now); !equality.Semantic.DeepEqual(again.status, s) {
			t.Fatalf("a second plan: %+v, after %+v", again.status, s)
		}
	})
}

func TestUnknownController(t *testing.T) {
	b := budget()
	b.Spec.MaxUnavailable, b.Status.DisruptionsAllowed = amount("1"), 3
	p := plan(b, []*corev1.Pod{pod("a", true, "rs")}, func(*corev1.Pod, *metav1.OwnerReference) (scale, error) {
		return scale{}, errors.New("who is that")
	}, time.Now())
	if p.failed == nil || p.status.DisruptionsAllowed != 0 || len(p.status.Conditions) != 1 || p.status.Conditions[0].Reason != policyv1.SyncFailedReason {
		t.Errorf("%+v", p)
	}
}

// TestController follows pods and sizes through the API.
func TestController(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		n := int32(2)
		rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "rs", UID: "rs"}, Spec: appsv1.ReplicaSetSpec{
			Replicas: &n, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}},
		}}
		b := budget()
		b.Spec.MaxUnavailable = amount("1")
		w := controllertest.New(t, b, rs, pod("a", true, "rs"), pod("b", true, "rs"))
		c, err := New(Config{Client: w.Client, Informers: w.Informers, Feeds: w.Feeds, Events: w.Events, Logger: w.Logger})
		if err != nil {
			t.Fatal(err)
		}
		w.Start(c)
		expect := func(allowed, expected int32) {
			t.Helper()
			synctest.Wait()
			got, err := w.Client.PolicyV1().PodDisruptionBudgets("ns").Get(ctx, "web", metav1.GetOptions{})
			if err != nil || got.Status.DisruptionsAllowed != allowed || got.Status.ExpectedPods != expected {
				t.Errorf("%+v, %v, want %d of %d", got.Status, err, allowed, expected)
			}
		}
		expect(1, 2)
		if err := w.Client.CoreV1().Pods("ns").Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		expect(0, 2)
		more := int32(5)
		rs = rs.DeepCopy()
		rs.ResourceVersion, rs.Spec.Replicas = "", &more
		if _, err := w.Client.AppsV1().ReplicaSets("ns").Update(ctx, rs, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		expect(0, 5)
		w.Writes()
		synctest.Wait()
		if got := w.Writes(); len(got) != 0 {
			t.Errorf("writes at rest: %v", got)
		}
	})
}
