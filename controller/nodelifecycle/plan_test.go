package nodelifecycle

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func node(name string, ready corev1.ConditionStatus) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if ready != "" {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, LastHeartbeatTime: metav1.NewTime(t0)}}
	}
	return n
}

func TestHealth(t *testing.T) {
	const grace, startup = 40 * time.Second, 60 * time.Second
	for name, tc := range map[string]struct {
		node    *corev1.Node
		silence time.Duration
		changed bool
		again   time.Duration
		ready   corev1.ConditionStatus
		reason  string
	}{
		"alive":           {node("n", corev1.ConditionTrue), 10 * time.Second, false, 30 * time.Second, corev1.ConditionTrue, ""},
		"silent":          {node("n", corev1.ConditionTrue), 40 * time.Second, true, 0, corev1.ConditionUnknown, reasonUnknown},
		"not_ready":       {node("n", corev1.ConditionFalse), 41 * time.Second, true, 0, corev1.ConditionUnknown, reasonUnknown},
		"starting":        {node("n", ""), 50 * time.Second, false, 10 * time.Second, "", ""},
		"never_spoke":     {node("n", ""), 60 * time.Second, true, 0, corev1.ConditionUnknown, reasonNever},
		"silent_for_long": {node("n", corev1.ConditionUnknown), time.Hour, true, 0, corev1.ConditionUnknown, ""}, // pressures are added
	} {
		t.Run(name, func(t *testing.T) {
			conds, changed, again := health(tc.node, t0, t0.Add(tc.silence), grace, startup)
			next := &corev1.Node{Status: corev1.NodeStatus{Conditions: conds}}
			if changed != tc.changed || again != tc.again || readyStatus(next) != tc.ready {
				t.Fatalf("changed %v again %s ready %s", changed, again, readyStatus(next))
			}
			if c := condition(next, corev1.NodeReady); c != nil && c.Reason != tc.reason {
				t.Errorf("reason %q, want %q", c.Reason, tc.reason)
			}
			if _, twice, _ := health(next, t0, t0.Add(tc.silence), grace, startup); twice {
				t.Error("second run changes something")
			}
		})
	}
}

func names(ts []corev1.Taint) (out []string) {
	for _, t := range ts {
		out = append(out, t.Key+":"+string(t.Effect))
	}
	slices.Sort(out)
	return out
}

func TestTaints(t *testing.T) {
	own := corev1.Taint{Key: "team", Value: "x", Effect: corev1.TaintEffectNoExecute}
	admitted := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
	gone := func(n *corev1.Node) *corev1.Node {
		n.Spec.Taints = append(n.Spec.Taints, derived[8], derived[1], own)
		return n
	}
	pressed := node("n", corev1.ConditionTrue)
	pressed.Status.Conditions = append(pressed.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue},
		corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue})
	pressed.Spec.Unschedulable = true
	fresh := node("n", "")
	fresh.Spec.Taints = []corev1.Taint{admitted}
	joined := node("n", corev1.ConditionTrue)
	joined.Spec.Taints = []corev1.Taint{admitted}
	for name, tc := range map[string]struct {
		node        *corev1.Node
		evict, calm bool
		want        string
		wanted      bool
	}{
		"ready":             {node("n", corev1.ConditionTrue), true, false, "[]", false},
		"fresh_keeps":       {fresh, true, false, "[node.kubernetes.io/not-ready:NoSchedule]", false},
		"joined_loses":      {joined, true, false, "[]", false},
		"not_ready":         {node("n", corev1.ConditionFalse), true, false, "[node.kubernetes.io/not-ready:NoExecute node.kubernetes.io/not-ready:NoSchedule]", false},
		"unreachable":       {node("n", corev1.ConditionUnknown), true, false, "[node.kubernetes.io/unreachable:NoExecute node.kubernetes.io/unreachable:NoSchedule]", false},
		"unreachable_waits": {node("n", corev1.ConditionUnknown), false, false, "[node.kubernetes.io/unreachable:NoSchedule]", true},
		"calm":              {gone(node("n", corev1.ConditionUnknown)), true, true, "[node.kubernetes.io/unreachable:NoSchedule team:NoExecute]", false},
		"stays":             {gone(node("n", corev1.ConditionUnknown)), false, false, "[node.kubernetes.io/unreachable:NoExecute node.kubernetes.io/unreachable:NoSchedule team:NoExecute]", false},
		"back":              {gone(node("n", corev1.ConditionTrue)), true, false, "[team:NoExecute]", false},
		"pressure":          {pressed, true, false, "[node.kubernetes.io/disk-pressure:NoSchedule node.kubernetes.io/network-unavailable:NoSchedule node.kubernetes.io/unschedulable:NoSchedule]", false},
	} {
		t.Run(name, func(t *testing.T) {
			got, changed, wanted := taints(tc.node, t0, tc.evict, tc.calm)
			if fmt.Sprint(names(got)) != tc.want || wanted != tc.wanted {
				t.Fatalf("%v wanted %v", names(got), wanted)
			}
			if changed != (fmt.Sprint(names(got)) != fmt.Sprint(names(tc.node.Spec.Taints))) {
				t.Errorf("changed %v", changed)
			}
			next := tc.node.DeepCopy()
			next.Spec.Taints = got
			if _, twice, _ := taints(next, t0, tc.evict, tc.calm); twice {
				t.Error("second run changes something")
			}
		})
	}
}

func TestJudge(t *testing.T) {
	cluster := func(ready, bad, fresh int) (out []*corev1.Node) {
		for i := range ready + bad + fresh {
			s := corev1.ConditionTrue
			if i >= ready {
				s = corev1.ConditionUnknown
			}
			if i >= ready+bad {
				s = ""
			}
			out = append(out, node(fmt.Sprint(i), s))
		}
		return out
	}
	for name, tc := range map[string]struct {
		nodes []*corev1.Node
		every time.Duration
		ok    bool
		calm  bool
	}{
		"one_of_three":      {cluster(2, 1, 0), evictEvery, true, false},
		"two_of_three":      {cluster(1, 2, 0), evictEvery, true, false},
		"three_of_four":     {cluster(1, 3, 0), 0, false, false},
		"most_of_a_hundred": {cluster(40, 60, 0), evictSlowly, true, false},
		"half_of_a_hundred": {cluster(50, 50, 0), evictEvery, true, false},
		"all":               {cluster(0, 3, 0), evictEvery, false, true},
		"only_one":          {cluster(0, 1, 0), evictEvery, false, true},
		"all_but_a_fresh":   {cluster(0, 2, 1), evictEvery, false, true},
		"all_fresh":         {cluster(0, 0, 2), evictEvery, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := judge(tc.nodes)
			every, ok := d.pace("/")
			if every != tc.every || ok != tc.ok || d.calm != tc.calm {
				t.Errorf("every %s ok %v calm %v", every, ok, d.calm)
			}
		})
	}
	zones := cluster(2, 2, 0)
	zones[2].Labels = map[string]string{corev1.LabelTopologyZone: "b"}
	zones[3].Labels = zones[2].Labels
	if d := judge(zones); d.calm || d.zones["/b"] != full || d.zones["/"] != normal {
		t.Errorf("zones %+v", d)
	}
}

// Whatever a node is like, only the derived taints change, each is there exactly when it is due (NoExecute: may be missing
// while waiting, never there when calm), and a second run has nothing to do.
func TestTaintProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := node("n", rapid.SampledFrom([]corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown}).Draw(t, "ready"))
		n.Spec.Unschedulable = rapid.Bool().Draw(t, "unschedulable")
		foreign := corev1.Taint{Key: "x", Effect: corev1.TaintEffectNoExecute}
		n.Spec.Taints = []corev1.Taint{foreign}
		for i := range derived {
			if rapid.Bool().Draw(t, "has") {
				n.Spec.Taints = append(n.Spec.Taints, derived[i])
			}
		}
		evict, calm := rapid.Bool().Draw(t, "evict"), rapid.Bool().Draw(t, "calm")
		got, _, _ := taints(n, t0, evict, calm)
		if !slices.Contains(names(got), "x:NoExecute") {
			t.Fatal("someone else's taint is gone")
		}
		for i := range derived {
			d := derived[i]
			has := slices.Contains(names(got), d.Key+":"+string(d.Effect))
			had := slices.Contains(names(n.Spec.Taints), d.Key+":"+string(d.Effect))
			want := due(n, &d)
			if d.Effect == corev1.TaintEffectNoExecute {
				want = want && !calm && (evict || had)
			}
			if has != want {
				t.Fatalf("%s:%s there %v, want %v", d.Key, d.Effect, has, want)
			}
		}
		n.Spec.Taints = got
		if _, twice, _ := taints(n, t0, evict, calm); twice {
			t.Fatal("second run changes something")
		}
	})
}
