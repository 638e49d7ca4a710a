package scheduler

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/resource"
)

// amounts are quantities by resource: CPU in thousandths of a core, everything else in units (bytes).
type amounts map[corev1.ResourceName]int64

func amountsOf(list corev1.ResourceList) amounts {
	a := make(amounts, len(list))
	for name, q := range list {
		if name == corev1.ResourceCPU {
			a[name] = q.MilliValue()
		} else {
			a[name] = q.Value()
		}
	}
	return a
}

func (a amounts) add(b amounts, sign int64) {
	for name, v := range b {
		a[name] += sign * v
	}
}

// What a container without a request counts for in scores, as kube-scheduler has it: so that pods without requests spread too.
const (
	defaultMilliCPU = 100
	defaultMemory   = 200 << 20
)

// podInfo is what decisions need of a pod, computed once.
type podInfo struct {
	pod      *corev1.Pod
	requests amounts // what it asks for
	scored   amounts // the same with defaults for containers that ask for no CPU or memory
	ports    []hostPort
	required []term // its required anti-affinity, which new pods have to respect
	affinity []term // its required affinity
	prefers  []weighted
	node     string // where it is or is assumed to be
}

type hostPort struct {
	ip       string
	protocol corev1.Protocol
	port     int32
}

// term is a required pod (anti-)affinity term ready to match.
type term struct {
	namespaces map[string]bool // nil matches none unless all
	all        bool            // every namespace (an empty namespaceSelector)
	nsSelector labels.Selector // further namespaces by label, nil if none
	selector   labels.Selector
	topology   string
}

type weighted struct {
	term
	weight int64 // negative for anti-affinity
}

func newPodInfo(pod *corev1.Pod) *podInfo {
	p := &podInfo{
		pod:      pod,
		requests: amountsOf(resource.PodRequests(pod, resource.PodResourcesOptions{UseStatusResources: true})),
		node:     pod.Spec.NodeName,
	}
	p.scored = maps.Clone(p.requests)
	for _, c := range pod.Spec.Containers {
		if _, ok := c.Resources.Requests[corev1.ResourceCPU]; !ok {
			p.scored[corev1.ResourceCPU] += defaultMilliCPU
		}
		if _, ok := c.Resources.Requests[corev1.ResourceMemory]; !ok {
			p.scored[corev1.ResourceMemory] += defaultMemory
		}
	}
	for _, c := range pod.Spec.Containers {
		p.addPorts(c.Ports)
	}
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			p.addPorts(c.Ports)
		}
	}
	if a := pod.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			p.affinity = terms(pod, a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
			p.prefers = preferences(pod, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, 1)
		}
		if a.PodAntiAffinity != nil {
			p.required = terms(pod, a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
			p.prefers = append(p.prefers, preferences(pod, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, -1)...)
		}
	}
	return p
}

func (p *podInfo) addPorts(ports []corev1.ContainerPort) {
	for _, cp := range ports {
		if cp.HostPort > 0 {
			p.ports = append(p.ports, hostPort{cp.HostIP, cp.Protocol, cp.HostPort})
		}
	}
}

func terms(pod *corev1.Pod, in []corev1.PodAffinityTerm) []term {
	out := make([]term, 0, len(in))
	for i := range in {
		out = append(out, newTerm(pod, &in[i]))
	}
	return out
}

func preferences(pod *corev1.Pod, in []corev1.WeightedPodAffinityTerm, sign int64) []weighted {
	out := make([]weighted, 0, len(in))
	for i := range in {
		out = append(out, weighted{newTerm(pod, &in[i].PodAffinityTerm), sign * int64(in[i].Weight)})
	}
	return out
}

// newTerm makes a term; matchLabelKeys and mismatchLabelKeys were merged into the selector by the API server. A selector
// that is not valid, which the API server does not let pass, matches nothing.
func newTerm(pod *corev1.Pod, t *corev1.PodAffinityTerm) term {
	out := term{topology: t.TopologyKey, selector: selectorOf(t.LabelSelector)}
	if len(t.Namespaces) == 0 && t.NamespaceSelector == nil {
		out.namespaces = map[string]bool{pod.Namespace: true}
		return out
	}
	out.namespaces = make(map[string]bool, len(t.Namespaces))
	for _, ns := range t.Namespaces {
		out.namespaces[ns] = true
	}
	if t.NamespaceSelector != nil {
		out.nsSelector = selectorOf(t.NamespaceSelector)
		out.all = out.nsSelector.Empty()
	}
	return out
}

func selectorOf(s *metav1.LabelSelector) labels.Selector {
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return sel
}

// matches says whether the term selects the pod.
func (t *term) matches(pod *corev1.Pod, nsLabels func(string) labels.Set) bool {
	if !t.all && !t.namespaces[pod.Namespace] && (t.nsSelector == nil || !t.nsSelector.Matches(nsLabels(pod.Namespace))) {
		return false
	}
	return t.selector.Matches(labels.Set(pod.Labels))
}

// nodeInfo is a node with what runs there or is on its way.
type nodeInfo struct {
	node        *corev1.Node // nil where pods came before their node
	allocatable amounts
	used        amounts
	scored      amounts
	pods        map[types.UID]*podInfo
	images      map[string]int64 // bytes by every name
}

func newNodeInfo() *nodeInfo {
	return &nodeInfo{used: amounts{}, scored: amounts{}, pods: map[types.UID]*podInfo{}}
}

func (n *nodeInfo) setNode(node *corev1.Node) {
	n.node = node
	n.allocatable = amountsOf(node.Status.Allocatable)
	n.images = make(map[string]int64, len(node.Status.Images))
	for _, img := range node.Status.Images {
		for _, name := range img.Names {
			n.images[name] = img.SizeBytes
		}
	}
}

func (n *nodeInfo) add(p *podInfo) {
	n.pods[p.pod.UID] = p
	n.used.add(p.requests, 1)
	n.scored.add(p.scored, 1)
}

func (n *nodeInfo) remove(uid types.UID) {
	p, ok := n.pods[uid]
	if !ok {
		return
	}
	delete(n.pods, uid)
	n.used.add(p.requests, -1)
	n.scored.add(p.scored, -1)
}
