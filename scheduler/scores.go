package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// maxScore is the best a node gets from one score.
const maxScore = 100

// score returns each node's total: every score from 0 to maxScore, with the weights of kube-scheduler's default profile.
func score(v view, p *podInfo, nodes []*nodeInfo) []int64 {
	totals := make([]int64, len(nodes))
	add := func(weight int64, scores []int64) {
		for i, s := range scores {
			totals[i] += weight * s
		}
	}
	if len(nodes) == 1 {
		return totals
	}
	add(1, each(nodes, func(n *nodeInfo) int64 { return leastAllocated(p, n) }))
	add(1, each(nodes, func(n *nodeInfo) int64 { return balanced(p, n) }))
	add(1, each(nodes, func(n *nodeInfo) int64 { return imageLocality(p.pod, n, v.nodes) }))
	add(3, inverted(each(nodes, func(n *nodeInfo) int64 { return softTaints(p.pod, n) })))
	add(2, preferredNodes(p.pod, nodes))
	add(2, preferredPods(v, p, nodes))
	add(2, spreadScores(v, p, nodes))
	return totals
}

func each(nodes []*nodeInfo, f func(*nodeInfo) int64) []int64 {
	out := make([]int64, len(nodes))
	for i, n := range nodes {
		out[i] = f(n)
	}
	return out
}

// leastAllocated prefers free CPU and memory.
func leastAllocated(p *podInfo, n *nodeInfo) int64 {
	var sum, kinds int64
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		total := n.allocatable[name]
		if total <= 0 {
			continue
		}
		kinds++
		sum += max(0, total-n.scored[name]-p.scored[name]) * maxScore / total
	}
	if kinds == 0 {
		return 0
	}
	return sum / kinds
}

// balanced prefers nodes whose CPU and memory are used in like parts.
func balanced(p *podInfo, n *nodeInfo) int64 {
	part := func(name corev1.ResourceName) float64 {
		total := n.allocatable[name]
		if total <= 0 {
			return 0
		}
		return min(1, float64(n.used[name]+p.requests[name])/float64(total))
	}
	apart := math.Abs(part(corev1.ResourceCPU)-part(corev1.ResourceMemory)) / 2
	return int64((1 - apart) * maxScore)
}

// Image sizes below and above which there is nothing to gain (kube-scheduler's image locality).
const (
	smallImage = 23 << 20
	largeImage = 1000 << 20
)

// imageLocality prefers nodes that have the images; one that is everywhere counts fully, one that is on few nodes less, so
// that not all pods crowd there.
func imageLocality(pod *corev1.Pod, n *nodeInfo, all []*nodeInfo) int64 {
	var sum int64
	for _, c := range pod.Spec.Containers {
		name := fullImageName(c.Image)
		size, ok := n.images[name]
		if !ok {
			continue
		}
		var have int64
		for _, other := range all {
			if _, ok := other.images[name]; ok {
				have++
			}
		}
		sum += size * have / int64(len(all))
	}
	most := int64(largeImage) * int64(len(pod.Spec.Containers))
	sum = min(max(sum, smallImage), most)
	return maxScore * (sum - smallImage) / max(1, most-smallImage)
}

// softTaints counts the PreferNoSchedule taints that the pod does not tolerate.
func softTaints(pod *corev1.Pod, n *nodeInfo) int64 {
	var count int64
	for i := range n.node.Spec.Taints {
		if t := &n.node.Spec.Taints[i]; t.Effect == corev1.TaintEffectPreferNoSchedule && !tolerates(pod, t) {
			count++
		}
	}
	return count
}

func preferredNodes(pod *corev1.Pod, nodes []*nodeInfo) []int64 {
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return nil
	}
	preferred, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return nil // the API server lets no such pod pass
	}
	return normalized(each(nodes, func(n *nodeInfo) int64 { return preferred.Score(n.node) }))
}

// hardAffinityWeight is what a placed pod's required affinity to the new pod counts for.
const hardAffinityWeight = 1

// preferredPods adds up, for each node, the weights of the preferences that pods there and the pod have for each other.
func preferredPods(v view, p *podInfo, nodes []*nodeInfo) []int64 {
	weights := map[place]int64{}
	add := func(n *nodeInfo, key string, w int64) {
		if at, ok := placeOf(n, key); ok {
			weights[at] += w
		}
	}
	for _, n := range v.nodes {
		for _, other := range n.pods {
			for i := range p.prefers {
				if w := &p.prefers[i]; w.matches(other.pod, v.nsLabels) {
					add(n, w.topology, w.weight)
				}
			}
			for i := range other.prefers {
				if w := &other.prefers[i]; w.matches(p.pod, v.nsLabels) {
					add(n, w.topology, w.weight)
				}
			}
			for i := range other.affinity {
				if t := &other.affinity[i]; t.matches(p.pod, v.nsLabels) {
					add(n, t.topology, hardAffinityWeight)
				}
			}
		}
	}
	if len(weights) == 0 {
		return nil
	}
	return stretched(each(nodes, func(n *nodeInfo) int64 {
		var sum int64
		for at, w := range weights {
			if n.node.Labels[at.key] == at.value {
				sum += w
			}
		}
		return sum
	}))
}

// spreadScores prefers domains with fewer of the pods that the soft constraints select. A domain's weight falls with their
// number, since with many domains a skew matters less.
func spreadScores(v view, p *podInfo, nodes []*nodeInfo) []int64 {
	constraints := softConstraints(p.pod)
	if len(constraints) == 0 {
		return nil
	}
	sums := make([]float64, len(nodes))
	for i := range constraints {
		c := &constraints[i]
		counts := c.count(v, p.pod, constraints[i:i+1])
		weight := math.Log(float64(len(counts) + 2))
		for j, n := range nodes {
			if domain, ok := n.node.Labels[c.key]; ok {
				sums[j] += float64(counts[domain])*weight + float64(c.maxSkew-1)
			}
		}
	}
	most := 0.0
	for _, s := range sums {
		most = max(most, s)
	}
	out := make([]int64, len(nodes))
	for i, s := range sums {
		out[i] = maxScore
		if most > 0 {
			out[i] = int64(maxScore * (most - s) / most)
		}
	}
	return out
}

// normalized scales to 0..maxScore by the largest.
func normalized(scores []int64) []int64 {
	var most int64
	for _, s := range scores {
		most = max(most, s)
	}
	for i := range scores {
		if most > 0 {
			scores[i] = scores[i] * maxScore / most
		}
	}
	return scores
}

// inverted is normalized with the largest as 0.
func inverted(scores []int64) []int64 {
	for i, s := range normalized(scores) {
		scores[i] = maxScore - s
	}
	return scores
}

// stretched scales from the smallest, 0, to the largest, maxScore.
func stretched(scores []int64) []int64 {
	least, most := int64(math.MaxInt64), int64(math.MinInt64)
	for _, s := range scores {
		least, most = min(least, s), max(most, s)
	}
	for i := range scores {
		if most > least {
			scores[i] = (scores[i] - least) * maxScore / (most - least)
		} else {
			scores[i] = 0
		}
	}
	return scores
}
