package scheduler

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// cluster is the scheduler's picture of nodes and placed pods. It has no lock of its own.
type cluster struct {
	nodes    map[string]*nodeInfo
	pods     map[types.UID]*podInfo // every placed or assumed pod
	assumed  map[types.UID]bool     // placed by us, not yet seen as bound
	nsLabels func(namespace string) labels.Set
	ordered  []*nodeInfo // of view, nil after a node came or went
}

func newCluster(nsLabels func(string) labels.Set) *cluster {
	return &cluster{nodes: map[string]*nodeInfo{}, pods: map[types.UID]*podInfo{}, assumed: map[types.UID]bool{}, nsLabels: nsLabels}
}

func (c *cluster) view() view {
	if c.ordered == nil {
		for _, n := range c.nodes {
			if n.node != nil {
				c.ordered = append(c.ordered, n)
			}
		}
		slices.SortFunc(c.ordered, func(a, b *nodeInfo) int { return strings.Compare(a.node.Name, b.node.Name) })
	}
	return view{nodes: c.ordered, nsLabels: c.nsLabels}
}

func (c *cluster) info(name string) *nodeInfo {
	n, ok := c.nodes[name]
	if !ok {
		n = newNodeInfo()
		c.nodes[name] = n
	}
	return n
}

// setNode enters a node and says whether a filter could now decide otherwise.
func (c *cluster) setNode(node *corev1.Node) bool {
	n := c.info(node.Name)
	old := n.node
	n.setNode(node)
	c.ordered = nil
	return old == nil || old.Spec.Unschedulable != node.Spec.Unschedulable ||
		!equalLabels(old.Labels, node.Labels) || !slices.Equal(taintKeys(old), taintKeys(node)) ||
		!equality.Semantic.DeepEqual(old.Status.Allocatable, node.Status.Allocatable)
}

func taintKeys(n *corev1.Node) []string {
	keys := make([]string, 0, len(n.Spec.Taints))
	for _, t := range n.Spec.Taints {
		keys = append(keys, t.Key+"="+t.Value+":"+string(t.Effect))
	}
	return keys
}

func (c *cluster) removeNode(name string) {
	n, ok := c.nodes[name]
	if !ok {
		return
	}
	n.node = nil
	c.ordered = nil
	c.prune(name, n)
}

func (c *cluster) prune(name string, n *nodeInfo) {
	if n.node == nil && len(n.pods) == 0 {
		delete(c.nodes, name)
	}
}

// assume enters a decided pod before its binding is confirmed.
func (c *cluster) assume(p *podInfo, node string) {
	p.node = node
	c.place(p)
	c.assumed[p.pod.UID] = true
}

// forget takes an assumed pod out again, unless it was confirmed meanwhile.
func (c *cluster) forget(uid types.UID) {
	if c.assumed[uid] {
		c.removePod(uid)
	}
}

// setPod enters a bound pod as the API server has it, and says what changed for others.
func (c *cluster) setPod(pod *corev1.Pod) helpedBy {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return c.removePod(pod.UID)
	}
	old := c.pods[pod.UID]
	if old != nil && old.node == pod.Spec.NodeName && equalLabels(old.pod.Labels, pod.Labels) &&
		old.pod.Generation == pod.Generation && (old.pod.DeletionTimestamp == nil) == (pod.DeletionTimestamp == nil) {
		delete(c.assumed, pod.UID)
		return 0
	}
	if old != nil {
		c.removePod(pod.UID)
	}
	c.place(newPodInfo(pod))
	if old == nil {
		return podPlaced
	}
	return podPlaced | podGone // a resize down, a label taken off: as if it went and came
}

func (c *cluster) place(p *podInfo) {
	c.pods[p.pod.UID] = p
	c.info(p.node).add(p)
}

func (c *cluster) removePod(uid types.UID) helpedBy {
	p, ok := c.pods[uid]
	if !ok {
		return 0
	}
	delete(c.pods, uid)
	delete(c.assumed, uid)
	if n, ok := c.nodes[p.node]; ok {
		n.remove(uid)
		c.prune(p.node, n)
	}
	return podGone
}

func equalLabels(a, b map[string]string) bool { return maps.Equal(a, b) }
