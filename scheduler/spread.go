package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// spreadConstraint is a topology spread constraint ready to count (KEP-895).
type spreadConstraint struct {
	key           string
	maxSkew       int64
	minDomains    int64
	selected      func(*corev1.Pod) bool
	self          int64 // 1 if the constraint counts the pod itself
	honorAffinity bool
	honorTaints   bool
}

// spreadConstraints are the pod's constraints of one kind.
func spreadConstraints(pod *corev1.Pod, when corev1.UnsatisfiableConstraintAction) []spreadConstraint {
	var out []spreadConstraint
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		if c.WhenUnsatisfiable != when {
			continue
		}
		selector := selectorOf(c.LabelSelector)
		for _, key := range c.MatchLabelKeys {
			if value, ok := pod.Labels[key]; ok {
				if r, err := labels.NewRequirement(key, "in", []string{value}); err == nil {
					selector = selector.Add(*r)
				}
			}
		}
		sc := spreadConstraint{
			key: c.TopologyKey, maxSkew: int64(c.MaxSkew), minDomains: 1,
			selected: func(other *corev1.Pod) bool {
				return other.Namespace == pod.Namespace && other.DeletionTimestamp == nil && selector.Matches(labels.Set(other.Labels))
			},
			honorAffinity: c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor,
			honorTaints:   c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor,
		}
		if c.MinDomains != nil {
			sc.minDomains = int64(*c.MinDomains)
		}
		if selector.Matches(labels.Set(pod.Labels)) {
			sc.self = 1
		}
		out = append(out, sc)
	}
	return out
}

// counted says whether a node's pods count for the constraint.
func (c *spreadConstraint) counted(n *nodeInfo, pod *corev1.Pod) bool {
	if c.honorAffinity {
		if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(n.node); err != nil || !ok {
			return false
		}
	}
	return !c.honorTaints || untolerated(pod)(n) == nil
}

// count returns how many selected pods each domain has. A node without all the keys counts for no constraint.
func (c *spreadConstraint) count(v view, pod *corev1.Pod, keys []spreadConstraint) map[string]int64 {
	domains := map[string]int64{}
	for _, n := range v.nodes {
		if !hasKeys(n, keys) || !c.counted(n, pod) {
			continue
		}
		domain := n.node.Labels[c.key]
		have := domains[domain]
		for _, p := range n.pods {
			if c.selected(p.pod) {
				have++
			}
		}
		domains[domain] = have
	}
	return domains
}

func hasKeys(n *nodeInfo, constraints []spreadConstraint) bool {
	for i := range constraints {
		if _, ok := n.node.Labels[constraints[i].key]; !ok {
			return false
		}
	}
	return true
}

// topologySpread filters by the pod's DoNotSchedule constraints; nil if it has none.
func topologySpread(v view, p *podInfo) filter {
	constraints := spreadConstraints(p.pod, corev1.DoNotSchedule)
	if len(constraints) == 0 {
		return nil
	}
	counts := make([]map[string]int64, len(constraints))
	least := make([]int64, len(constraints))
	for i := range constraints {
		c := &constraints[i]
		counts[i] = c.count(v, p.pod, constraints)
		least[i] = math.MaxInt64
		for _, have := range counts[i] {
			least[i] = min(least[i], have)
		}
		if int64(len(counts[i])) < c.minDomains {
			least[i] = 0
		}
	}
	return func(n *nodeInfo) *refusal {
		for i := range constraints {
			c := &constraints[i]
			domain, ok := n.node.Labels[c.key]
			if !ok {
				return refuse(nodeChange, "node(s) didn't match pod topology spread constraints (missing required label)")
			}
			if counts[i][domain]+c.self-least[i] > c.maxSkew {
				return refuse(anyChange, "node(s) didn't match pod topology spread constraints")
			}
		}
		return nil
	}
}

// softConstraints are the pod's ScheduleAnyway constraints or, if it has no constraints at all, kube-scheduler's default ones:
// the pods of one controller are spread over nodes and zones.
func softConstraints(pod *corev1.Pod) []spreadConstraint {
	if len(pod.Spec.TopologySpreadConstraints) > 0 {
		return spreadConstraints(pod, corev1.ScheduleAnyway)
	}
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return nil
	}
	siblings := func(other *corev1.Pod) bool {
		o := metav1.GetControllerOf(other)
		return o != nil && o.UID == owner.UID && other.DeletionTimestamp == nil
	}
	return []spreadConstraint{
		{key: corev1.LabelHostname, maxSkew: 3, minDomains: 1, selected: siblings, self: 1, honorAffinity: true},
		{key: zoneOf, maxSkew: 5, minDomains: 1, selected: siblings, self: 1, honorAffinity: true},
	}
}
