package core

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/mini-k8s/mini/store"
)

func TestBind(t *testing.T) {
	for _, test := range []struct {
		name    string
		pod     func(*corev1.Pod)
		binding func(*corev1.Binding)
		want    string
	}{
		{"fine", nil, nil, ""},
		{"no_node", nil, func(b *corev1.Binding) { b.Target.Name = "" }, "target.name: Required value"},
		{"not_a_node", nil, func(b *corev1.Binding) { b.Target.Kind = "Pod" }, `target.kind: Unsupported value: "Pod": supported values: "Node", "<empty>"`},
		{"bound", func(p *corev1.Pod) { p.Spec.NodeName = "m" }, nil, `pod web is already assigned to node "m"`},
		{"deleted", func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }, nil, "pod web is being deleted, cannot be assigned to a host"},
		{"gated", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }, nil, "pod web has non-empty .spec.schedulingGates"},
		{"other_pod", nil, func(b *corev1.Binding) { b.UID = "other" }, "Precondition failed: UID in precondition: other, UID in object meta: u"},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := goodPod(t)
			pod.UID = "u"
			pod.Status.NominatedNodeName = "old"
			b := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "web", Annotations: map[string]string{"a": "b"}}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}
			if test.pod != nil {
				test.pod(pod)
			}
			if test.binding != nil {
				test.binding(b)
			}
			err := bind(pod, b)
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("want %s, got %v", test.want, err)
				}
				return
			}
			if err != nil || pod.Spec.NodeName != "n" || pod.Annotations["a"] != "b" || pod.Status.NominatedNodeName != "" || !hasCondition(pod, corev1.PodScheduled) {
				t.Errorf("%v: %+v", err, pod)
			}
		})
	}
}

func hasCondition(pod *corev1.Pod, kind corev1.PodConditionType) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == kind {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// TestEvict: budgets are charged for pods that count, and only while they allow it.
func TestEvict(t *testing.T) {
	always := policyv1.AlwaysAllow
	for _, test := range []struct {
		name    string
		pod     func(*corev1.Pod)
		budgets []policyv1.PodDisruptionBudget
		dryRun  bool
		want    string // "" is evicted
		allowed int32  // left in the first budget
	}{
		{name: "no_budget"},
		{name: "other_budget", budgets: []policyv1.PodDisruptionBudget{budget("x", "other", 0)}},
		{name: "charged", budgets: []policyv1.PodDisruptionBudget{budget("x", "web", 2)}, allowed: 1},
		{name: "dry_run", budgets: []policyv1.PodDisruptionBudget{budget("x", "web", 2)}, dryRun: true, allowed: 2},
		{name: "used_up", budgets: []policyv1.PodDisruptionBudget{budget("x", "web", 0)}, want: "Cannot evict pod as it would violate the pod's disruption budget."},
		{name: "two_budgets", budgets: []policyv1.PodDisruptionBudget{budget("x", "web", 1), budget("y", "web", 1)}, allowed: 1, want: "This pod has more than one PodDisruptionBudget"},
		{
			name: "finished_pod_is_free", budgets: []policyv1.PodDisruptionBudget{budget("x", "web", 0)},
			pod: func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded },
		},
		{
			name: "unhealthy_pod_always", pod: func(p *corev1.Pod) { p.Status.Conditions = nil },
			budgets: []policyv1.PodDisruptionBudget{func() policyv1.PodDisruptionBudget {
				b := budget("x", "web", 0)
				b.Spec.UnhealthyPodEvictionPolicy = &always
				return b
			}()},
		},
		{
			name: "stale_budget", allowed: 1, want: "Cannot evict pod as it would violate the pod's disruption budget.",
			budgets: []policyv1.PodDisruptionBudget{func() policyv1.PodDisruptionBudget {
				b := budget("x", "web", 1)
				b.Generation = 2
				return b
			}()},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, deps, _, _ := newWorld()
			pods, budgets := w.collection("pods", schema.GroupVersionKind{}), w.collection("poddisruptionbudgets", schema.GroupVersionKind{})
			pod := goodPod(t)
			pod.UID, pod.Spec.NodeName = "u", "n"
			pod.Status.Phase = corev1.PodRunning
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
			if test.pod != nil {
				test.pod(pod)
			}
			if _, err := pods.Create(t.Context(), "default/web", pod); err != nil {
				t.Fatal(err)
			}
			for i := range test.budgets {
				if _, err := budgets.Create(t.Context(), "default/"+test.budgets[i].Name, &test.budgets[i]); err != nil {
					t.Fatal(err)
				}
			}
			opts, err := podActions{deps}.evict(t.Context(), pod, &policyv1.Eviction{}, test.dryRun)
			if test.want == "" && (err != nil || *opts.Preconditions.UID != "u") {
				t.Fatalf("%+v %v", opts, err)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Fatalf("want %s, got %v", test.want, err)
			}
			if test.name == "used_up" && (!apierrors.IsTooManyRequests(err) || !apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause)) {
				t.Errorf("kubectl drain would not retry on %#v", err)
			}
			if len(test.budgets) > 0 && test.budgets[0].Name == "x" {
				item, _ := budgets.Get(t.Context(), "default/x", "")
				if got := item.Object.(*policyv1.PodDisruptionBudget).Status.DisruptionsAllowed; got != test.allowed {
					t.Errorf("%d disruptions are left, want %d", got, test.allowed)
				}
			}
			item, _ := pods.Get(t.Context(), "default/web", "")
			if marked := hasCondition(item.Object.(*corev1.Pod), corev1.DisruptionTarget); marked != (test.want == "" && !test.dryRun) {
				t.Errorf("the pod is marked as disrupted: %v", marked)
			}
		})
	}
}

func budget(name, app string, allowed int32) policyv1.PodDisruptionBudget {
	return policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Generation: 1},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}},
		Status:     policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: allowed},
	}
}

var _ store.Collection = (*memory)(nil)
