package scheduler

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

func node(name string, edit ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("10"),
		}},
	}
	for _, e := range edit {
		e(n)
	}
	return n
}

func labelled(key, value string) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Labels[key] = value }
}

func tainted(key, value string, effect corev1.TaintEffect) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Value: value, Effect: effect})
	}
}

func pod(name string, edit ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{SchedulerName: corev1.DefaultSchedulerName, Containers: []corev1.Container{{Name: "c", Image: "img:1"}}},
	}
	for _, e := range edit {
		e(p)
	}
	return p
}

func asking(cpu, memory string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory),
		}
	}
}

func hostPorted(ip string, port int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostIP: ip, HostPort: port, ContainerPort: port, Protocol: corev1.ProtocolTCP}}
	}
}

func on(name string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = name } }

func web() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
}

func antiAffine(key string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{LabelSelector: web(), TopologyKey: key}},
		}}
	}
}

func affine(key string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{LabelSelector: web(), TopologyKey: key}},
		}}
	}
}

func spread(key string, skew int32, when corev1.UnsatisfiableConstraintAction) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{
			{MaxSkew: skew, TopologyKey: key, WhenUnsatisfiable: when, LabelSelector: web()},
		}
	}
}

func clusterOf(nodes []*corev1.Node, pods ...*corev1.Pod) *cluster {
	c := newCluster(func(string) labels.Set { return nil })
	for _, n := range nodes {
		c.setNode(n)
	}
	for _, p := range pods {
		c.setPod(p)
	}
	return c
}

func TestDecide(t *testing.T) {
	zones := []*corev1.Node{node("a", labelled("zone", "1")), node("b", labelled("zone", "1")), node("c", labelled("zone", "2"))}
	tests := map[string]struct {
		nodes   []*corev1.Node
		placed  []*corev1.Pod
		pod     *corev1.Pod
		want    []string // any of these
		message string
		helps   helpedBy
	}{
		"no-nodes": {pod: pod("p"), message: "no nodes available to schedule pods", helps: nodeChange},
		"one-node": {nodes: []*corev1.Node{node("a")}, pod: pod("p"), want: []string{"a"}},
		"too-big": {nodes: []*corev1.Node{node("a"), node("b")}, pod: pod("p", asking("3", "5Gi")),
			message: "0/2 nodes are available: 2 Insufficient cpu, 2 Insufficient memory.", helps: nodeChange | podGone},
		"room-on-one": {nodes: []*corev1.Node{node("a"), node("b")}, placed: []*corev1.Pod{pod("x", on("a"), asking("1500m", "1Gi"))},
			pod: pod("p", asking("1", "1Gi")), want: []string{"b"}},
		"the-emptier-node": {nodes: []*corev1.Node{node("a"), node("b")}, placed: []*corev1.Pod{pod("x", on("b"), asking("500m", "1Gi"))},
			pod: pod("p", asking("100m", "100Mi")), want: []string{"a"}},
		"unschedulable": {nodes: []*corev1.Node{node("a", func(n *corev1.Node) { n.Spec.Unschedulable = true })}, pod: pod("p"),
			message: "0/1 nodes are available: 1 node(s) were unschedulable.", helps: nodeChange},
		"taint": {nodes: []*corev1.Node{node("a", tainted("gpu", "yes", corev1.TaintEffectNoSchedule))}, pod: pod("p"),
			message: "0/1 nodes are available: 1 node(s) had untolerated taint {gpu: yes}.", helps: nodeChange},
		"tolerated-taint": {nodes: []*corev1.Node{node("a", tainted("gpu", "yes", corev1.TaintEffectNoSchedule))},
			pod: pod("p", func(p *corev1.Pod) {
				p.Spec.Tolerations = []corev1.Toleration{{Key: "gpu", Operator: corev1.TolerationOpExists}}
			}), want: []string{"a"}},
		"soft-taint-is-last": {nodes: []*corev1.Node{node("a", tainted("slow", "", corev1.TaintEffectPreferNoSchedule)), node("b")},
			pod: pod("p"), want: []string{"b"}},
		"node-selector": {nodes: zones, pod: pod("p", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"zone": "2"} }), want: []string{"c"}},
		"node-selector-nowhere": {nodes: zones, pod: pod("p", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"zone": "3"} }),
			message: "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.", helps: nodeChange},
		"preferred-node": {nodes: zones, pod: pod("p", func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
				PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 10, Preference: corev1.NodeSelectorTerm{
					MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{"2"}}},
				}}},
			}}
		}), want: []string{"c"}},
		"port-taken": {nodes: []*corev1.Node{node("a")}, placed: []*corev1.Pod{pod("x", on("a"), hostPorted("", 80))}, pod: pod("p", hostPorted("127.0.0.1", 80)),
			message: "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.", helps: nodeChange | podGone},
		"port-on-another-address": {nodes: []*corev1.Node{node("a")}, placed: []*corev1.Pod{pod("x", on("a"), hostPorted("192.0.2.1", 80))},
			pod: pod("p", hostPorted("192.0.2.2", 80)), want: []string{"a"}},
		"anti-affinity": {nodes: zones, placed: []*corev1.Pod{pod("x", on("a")), pod("y", on("c"))}, pod: pod("p", antiAffine(corev1.LabelHostname)), want: []string{"b"}},
		"anti-affinity-by-zone": {nodes: zones, placed: []*corev1.Pod{pod("x", on("a")), pod("y", on("c"))}, pod: pod("p", antiAffine("zone")),
			message: "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules.", helps: anyChange},
		"anti-affinity-of-placed": {nodes: zones[:2], placed: []*corev1.Pod{pod("x", on("a"), antiAffine("zone"))}, pod: pod("p"),
			message: "0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules.", helps: anyChange},
		"affinity":              {nodes: zones, placed: []*corev1.Pod{pod("x", on("c"))}, pod: pod("p", affine("zone")), want: []string{"c"}},
		"affinity-to-itself":    {nodes: zones, pod: pod("p", affine("zone")), want: []string{"a", "b", "c"}},
		"affinity-without-mate": {nodes: zones, pod: pod("p", affine("zone"), func(p *corev1.Pod) { p.Labels["app"] = "other" }), message: "0/3 nodes are available: 3 node(s) didn't match pod affinity rules.", helps: nodeChange | podPlaced},
		"spread-hard":           {nodes: zones, placed: []*corev1.Pod{pod("x", on("a"))}, pod: pod("p", spread("zone", 1, corev1.DoNotSchedule)), want: []string{"c"}},
		"spread-hard-full": {nodes: append(slices.Clone(zones[:1]), node("d", labelled("zone", "2"), func(n *corev1.Node) { n.Spec.Unschedulable = true })),
			placed: []*corev1.Pod{pod("x", on("a"))}, pod: pod("p", spread("zone", 1, corev1.DoNotSchedule)),
			message: "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) were unschedulable.", helps: anyChange},
		"spread-without-label": {nodes: []*corev1.Node{node("a")}, pod: pod("p", spread("zone", 1, corev1.DoNotSchedule)),
			message: "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label).", helps: nodeChange},
		"spread-soft":     {nodes: zones, placed: []*corev1.Pod{pod("x", on("a")), pod("y", on("b"))}, pod: pod("p", spread("zone", 1, corev1.ScheduleAnyway)), want: []string{"c"}},
		"siblings-spread": {nodes: zones, placed: []*corev1.Pod{pod("x", on("a"), ownedBy("rs")), pod("y", on("c"), ownedBy("rs"))}, pod: pod("p", ownedBy("rs")), want: []string{"b"}},
		"image-is-there": {nodes: []*corev1.Node{node("a"), node("b", func(n *corev1.Node) {
			n.Status.Images = []corev1.ContainerImage{{Names: []string{"docker.io/library/img:1"}, SizeBytes: 900 << 20}}
		})}, pod: pod("p"), want: []string{"b"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := clusterOf(tt.nodes, tt.placed...)
			for i := range 5 { // whatever way a tie is broken
				d := decide(c.view(), newPodInfo(tt.pod), func(n int) int { return i % n })
				if len(tt.want) > 0 && !slices.Contains(tt.want, d.node) || len(tt.want) == 0 && d.node != "" {
					t.Fatalf("node %q (%s), want one of %q", d.node, d.message, tt.want)
				}
				if d.message != tt.message || d.helps != tt.helps {
					t.Fatalf("said %q, helped by %b; want %q, %b", d.message, d.helps, tt.message, tt.helps)
				}
			}
		})
	}
}

func ownedBy(uid string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: uid, UID: types.UID(uid), Controller: &yes}}
	}
}

// TestDecideKeepsPromises places random pods one after another: no node is ever over its capacity, no hard rule is broken,
// and who is refused fits nowhere by a simple count.
func TestDecideKeepsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var nodes []*corev1.Node
		for i := range rapid.IntRange(1, 5).Draw(t, "nodes") {
			nodes = append(nodes, node(fmt.Sprint("n", i), labelled("zone", fmt.Sprint(rapid.IntRange(0, 2).Draw(t, "zone")))))
		}
		c := clusterOf(nodes)
		for i := range rapid.IntRange(1, 40).Draw(t, "pods") {
			cpu := rapid.IntRange(0, 1500).Draw(t, "cpu")
			p := pod(fmt.Sprint("p", i), asking(fmt.Sprintf("%dm", cpu), "1Mi"))
			if rapid.Bool().Draw(t, "apart") {
				antiAffine(corev1.LabelHostname)(p)
			}
			if rapid.Bool().Draw(t, "port") {
				hostPorted("", 80)(p)
			}
			info := newPodInfo(p)
			d := decide(c.view(), info, nil)
			if d.node != "" {
				c.assume(info, d.node)
			} else if d.message == "" || d.helps == 0 {
				t.Fatalf("a refusal without a reason: %+v", d)
			}
		}
		for _, n := range c.view().nodes {
			if n.used[corev1.ResourceCPU] > 2000 || len(n.pods) > 10 {
				t.Fatalf("%s has %d pods with %v", n.node.Name, len(n.pods), n.used)
			}
			ports, apart := 0, 0
			for _, p := range n.pods {
				ports += len(p.ports)
				apart += len(p.required)
			}
			if ports > 1 || apart > 0 && len(n.pods) > 1 {
				t.Fatalf("%s has %d pods, %d of them want port 80, %d want to be alone", n.node.Name, len(n.pods), ports, apart)
			}
		}
	})
}

// TestClusterAccounts: after any adds, moves and removals what a node counts as used is the sum of its pods.
func TestClusterAccounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := clusterOf([]*corev1.Node{node("a"), node("b")})
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			p := pod(fmt.Sprint("p", rapid.IntRange(0, 5).Draw(t, "pod")), asking(fmt.Sprintf("%dm", rapid.IntRange(0, 500).Draw(t, "cpu")), "1Mi"))
			p.Generation = int64(rapid.IntRange(0, 3).Draw(t, "generation"))
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				on(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "node"))(p)
				c.setPod(p)
			case 1:
				c.removePod(p.UID)
			case 2:
				c.forget(p.UID)
			case 3:
				if c.pods[p.UID] == nil {
					c.assume(newPodInfo(p), "a")
				}
			}
			for name, n := range c.nodes {
				sum := amounts{}
				for _, p := range n.pods {
					if p.node != name {
						t.Fatalf("pod of %s counted on %s", p.node, name)
					}
					sum.add(p.requests, 1)
				}
				if sum[corev1.ResourceCPU] != n.used[corev1.ResourceCPU] {
					t.Fatalf("%s counts %d, its pods ask for %d", name, n.used[corev1.ResourceCPU], sum[corev1.ResourceCPU])
				}
			}
		}
	})
}
