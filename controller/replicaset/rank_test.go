package replicaset

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

type podOpt func(*corev1.Pod)

func on(node string) podOpt { return func(p *corev1.Pod) { p.Spec.NodeName = node } }
func phased(ph corev1.PodPhase) podOpt {
	return func(p *corev1.Pod) { p.Status.Phase = ph }
}
func ready(since time.Duration) podOpt {
	return func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(t0.Add(-since))}}
	}
}
func cost(c string) podOpt {
	return func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: c} }
}
func restarted(n int32) podOpt {
	return func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: n}} }
}
func aged(d time.Duration) podOpt {
	return func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(t0.Add(-d)) }
}
func deleting() podOpt {
	return func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: t0} }
}

func pod(name string, opts ...podOpt) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{"app": "web"}, CreationTimestamp: metav1.NewTime(t0.Add(-time.Hour))},
		Spec:       corev1.PodSpec{NodeName: "n-" + name},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	for _, o := range opts {
		o(p)
	}
	return p
}

// In each case the first pod is deleted before the second, by the rule named.
func TestRankPairs(t *testing.T) {
	r := ready(time.Minute)
	for name, tc := range map[string]struct {
		first, second *corev1.Pod
		more          []*corev1.Pod
	}{
		"unscheduled":           {pod("b", on(""), r), pod("a", phased(corev1.PodPending)), nil},
		"pending":               {pod("b", phased(corev1.PodPending), cost("100")), pod("a"), nil},
		"unknown":               {pod("b", phased(corev1.PodUnknown)), pod("a"), nil},
		"not_ready":             {pod("b", cost("100")), pod("a", r, cost("-100")), nil},
		"cost":                  {pod("b", r, cost("-1")), pod("a", r), nil},
		"broken_cost_is_zero":   {pod("b", r, cost("oops")), pod("a", r, cost("1")), nil},
		"doubled_up":            {pod("b", r, on("n1"), aged(time.Hour)), pod("a", r, on("n2"), aged(time.Second)), []*corev1.Pod{pod("c", on("n1"))}},
		"doubled_by_active":     {pod("b", r, on("n2"), restarted(1)), pod("a", r, on("n1")), []*corev1.Pod{pod("c", on("n1"), deleting())}},
		"ready_later":           {pod("b", ready(time.Minute), aged(48*time.Hour)), pod("a", ready(time.Hour), restarted(9)), nil},
		"ready_about_as_long":   {pod("b", ready(time.Minute), restarted(3)), pod("a", ready(time.Minute-time.Second)), nil},
		"restarts":              {pod("b", r, restarted(2)), pod("a", r, restarted(1), aged(time.Second)), nil},
		"younger":               {pod("b", r, aged(time.Minute)), pod("a", r, aged(time.Hour)), nil},
		"about_as_old_then_uid": {pod("a", r, aged(60*time.Minute)), pod("b", r, aged(59*time.Minute)), nil},
	} {
		t.Run(name, func(t *testing.T) {
			for _, pods := range [][]*corev1.Pod{{tc.first, tc.second}, {tc.second, tc.first}} {
				Rank(pods, append(slices.Clone(pods), tc.more...), t0)
				if pods[0] != tc.first {
					t.Errorf("%s is deleted before %s", pods[0].Name, tc.first.Name)
				}
			}
		})
	}
}

// The order is one: it does not depend on how the pods came in.
func TestRankIsStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var pods []*corev1.Pod
		for i := range rapid.IntRange(2, 12).Draw(t, "pods") {
			opts := []podOpt{on(rapid.SampledFrom([]string{"", "n1", "n2"}).Draw(t, "node")),
				phased(rapid.SampledFrom([]corev1.PodPhase{corev1.PodPending, corev1.PodUnknown, corev1.PodRunning}).Draw(t, "phase")),
				cost(fmt.Sprint(rapid.IntRange(-1, 1).Draw(t, "cost"))), restarted(int32(rapid.IntRange(0, 2).Draw(t, "restarts"))),
				aged(time.Duration(rapid.IntRange(1, 5000).Draw(t, "age")) * time.Second)}
			if rapid.Bool().Draw(t, "ready") {
				opts = append(opts, ready(time.Duration(rapid.IntRange(1, 5000).Draw(t, "since"))*time.Second))
			}
			pods = append(pods, pod(fmt.Sprint(i), opts...))
		}
		a, b := slices.Clone(pods), rapid.Permutation(pods).Draw(t, "shuffled")
		Rank(a, pods, t0)
		Rank(b, pods, t0)
		if !slices.Equal(a, b) {
			t.Fatal("two orders of the same pods")
		}
		for i := 1; i < len(a); i++ {
			if a[i].Spec.NodeName == "" && a[i-1].Spec.NodeName != "" {
				t.Fatal("a scheduled pod is deleted before one that is not")
			}
		}
	})
}
