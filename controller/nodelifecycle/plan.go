package nodelifecycle

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	reasonNever   = "NodeStatusNeverUpdated"
	reasonUnknown = "NodeStatusUnknown"
)

// condition returns the node's condition of type t, nil if it has none.
func condition(node *corev1.Node, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == t {
			return &node.Status.Conditions[i]
		}
	}
	return nil
}

func readyStatus(node *corev1.Node) corev1.ConditionStatus {
	if c := condition(node, corev1.NodeReady); c != nil {
		return c.Status
	}
	return ""
}

// health returns the node's conditions when it was last heard of at seen; changed is false when they stay as they are. again
// is when the grace period would end.
func health(node *corev1.Node, seen, now time.Time, grace, startup time.Duration) (conditions []corev1.NodeCondition, changed bool, again time.Duration) {
	if condition(node, corev1.NodeReady) == nil {
		grace = startup
	}
	if left := seen.Add(grace).Sub(now); left > 0 {
		return node.Status.Conditions, false, left
	}
	conditions = slices.Clone(node.Status.Conditions)
	stamp := metav1.NewTime(now)
	for _, t := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		i := slices.IndexFunc(conditions, func(c corev1.NodeCondition) bool { return c.Type == t })
		switch {
		case i < 0:
			conditions = append(conditions, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, Reason: reasonNever, Message: "Kubelet never posted node status.",
				LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: stamp,
			})
			changed = true
		case conditions[i].Status != corev1.ConditionUnknown:
			conditions[i].Status, conditions[i].Reason, conditions[i].Message = corev1.ConditionUnknown, reasonUnknown, "Kubelet stopped posting node status."
			conditions[i].LastTransitionTime = stamp
			changed = true
		}
	}
	return conditions, changed, 0
}

// derived are the taints that this controller owns: key and effect.
var derived = []corev1.Taint{
	{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeDiskPressure, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodePIDPressure, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeNetworkUnavailable, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute},
	{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute},
}

// due says whether the node's state asks for the derived taint.
func due(node *corev1.Node, t *corev1.Taint) bool {
	is := func(c corev1.NodeConditionType, s corev1.ConditionStatus) bool {
		cond := condition(node, c)
		return cond != nil && cond.Status == s
	}
	switch t.Key {
	case corev1.TaintNodeNotReady:
		return is(corev1.NodeReady, corev1.ConditionFalse)
	case corev1.TaintNodeUnreachable:
		return is(corev1.NodeReady, corev1.ConditionUnknown)
	case corev1.TaintNodeMemoryPressure:
		return is(corev1.NodeMemoryPressure, corev1.ConditionTrue)
	case corev1.TaintNodeDiskPressure:
		return is(corev1.NodeDiskPressure, corev1.ConditionTrue)
	case corev1.TaintNodePIDPressure:
		return is(corev1.NodePIDPressure, corev1.ConditionTrue)
	case corev1.TaintNodeNetworkUnavailable:
		return is(corev1.NodeNetworkUnavailable, corev1.ConditionTrue)
	case corev1.TaintNodeUnschedulable:
		return node.Spec.Unschedulable
	}
	return false
}

// taints returns the taints that the node should have: everybody else's as they are, and the derived ones by its state. evict
// says whether a NoExecute taint that is due may be added now; without it none is, wanted says that one waits for it. In
// calm, NoExecute taints of ours are even taken away.
func taints(node *corev1.Node, now time.Time, evict, calm bool) (out []corev1.Taint, changed, wanted bool) {
	fresh := condition(node, corev1.NodeReady) == nil
	for _, have := range node.Spec.Taints {
		i := slices.IndexFunc(derived, func(d corev1.Taint) bool { return d.Key == have.Key && d.Effect == have.Effect })
		keep := i < 0 || due(node, &derived[i])
		if fresh && have.Key == corev1.TaintNodeNotReady {
			keep = true // admission put it there until the kubelet has spoken
		}
		if calm && i >= 0 && have.Effect == corev1.TaintEffectNoExecute {
			keep = false
		}
		if keep {
			out = append(out, have)
		} else {
			changed = true
		}
	}
	for i := range derived {
		t := derived[i]
		if !due(node, &t) || slices.ContainsFunc(out, func(h corev1.Taint) bool { return h.Key == t.Key && h.Effect == t.Effect }) {
			continue
		}
		if t.Effect == corev1.TaintEffectNoExecute {
			if calm {
				continue
			}
			if !evict {
				wanted = true
				continue
			}
		}
		stamp := metav1.NewTime(now)
		t.TimeAdded = &stamp
		out = append(out, t)
		changed = true
	}
	return out, changed, wanted
}

// mode is how a zone is, and with it how fast nodes of it may be evicted.
type mode int

const (
	normal mode = iota
	partial
	full
)

const (
	unhealthyShare = 0.55 // of a zone's nodes, from which on it is partially disrupted
	largeCluster   = 50   // nodes above which a partially disrupted zone is evicted slowly instead of not at all
	evictEvery     = 10 * time.Second
	evictSlowly    = 100 * time.Second
)

// zoneOf names the node's failure domain.
func zoneOf(node *corev1.Node) string {
	return node.Labels[corev1.LabelTopologyRegion] + "/" + node.Labels[corev1.LabelTopologyZone]
}

// disruption is the state of all zones. ready says that some node of the cluster is ready, calm that there are nodes and none
// is.
type disruption struct {
	zones map[string]mode
	size  map[string]int
	ready bool
	calm  bool
}

func judge(nodes []*corev1.Node) disruption {
	ready, total := map[string]int{}, map[string]int{}
	all := 0
	for _, n := range nodes {
		z := zoneOf(n)
		total[z]++
		switch readyStatus(n) {
		case corev1.ConditionTrue:
			ready[z]++
			all++
		case "": // one that is just starting says nothing about the others
			total[z]--
		}
	}
	out := disruption{zones: map[string]mode{}, size: total}
	known := 0
	for z, n := range total {
		known += n
		bad := n - ready[z]
		switch {
		case ready[z] == 0 && bad > 0:
			out.zones[z] = full
		case bad > 2 && float64(bad)/float64(n) >= unhealthyShare:
			out.zones[z] = partial
		default:
			out.zones[z] = normal
		}
	}
	out.ready = all > 0
	out.calm = known > 0 && all == 0
	return out
}

// pace returns the time between two evictions of nodes in the zone; ok is false when there are none.
func (d disruption) pace(zone string) (every time.Duration, ok bool) {
	switch d.zones[zone] {
	case partial:
		if d.size[zone] > largeCluster {
			return evictSlowly, true
		}
		return 0, false
	}
	// A zone that is down as a whole while others are up is evicted at the normal pace.
	return evictEvery, !d.calm
}
