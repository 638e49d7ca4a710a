package scheduler

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	scheduling "k8s.io/component-helpers/scheduling/corev1"
)

// filtersFor are the filters for one pod in kube-scheduler's order, what they need of the whole view computed.
func filtersFor(v view, p *podInfo) []filter {
	filters := []filter{
		unschedulable(p.pod), nodeName(p.pod), untolerated(p.pod), nodeAffinity(p.pod), ports(p), fits(p),
	}
	if f := topologySpread(v, p); f != nil {
		filters = append(filters, f)
	}
	return append(filters, podAffinity(v, p)...)
}

func unschedulable(pod *corev1.Pod) filter {
	taint := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	tolerated := tolerates(pod, &taint)
	return func(n *nodeInfo) *refusal {
		if n.node.Spec.Unschedulable && !tolerated {
			return refuse(nodeChange, "node(s) were unschedulable")
		}
		return nil
	}
}

func tolerates(pod *corev1.Pod, taint *corev1.Taint) bool {
	return scheduling.TolerationsTolerateTaint(klog.Logger{}, pod.Spec.Tolerations, taint, false)
}

func nodeName(pod *corev1.Pod) filter {
	want := pod.Spec.NodeName
	return func(n *nodeInfo) *refusal {
		if want != "" && want != n.node.Name {
			return refuse(0, "node(s) didn't match the requested node name")
		}
		return nil
	}
}

func untolerated(pod *corev1.Pod) filter {
	hard := func(t *corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	}
	return func(n *nodeInfo) *refusal {
		t, found := scheduling.FindMatchingUntoleratedTaint(klog.Logger{}, n.node.Spec.Taints, pod.Spec.Tolerations, hard, false)
		if found {
			return refuse(nodeChange, fmt.Sprintf("node(s) had untolerated taint {%s: %s}", t.Key, t.Value))
		}
		return nil
	}
}

func nodeAffinity(pod *corev1.Pod) filter {
	required := nodeaffinity.GetRequiredNodeAffinity(pod)
	return func(n *nodeInfo) *refusal {
		if ok, err := required.Match(n.node); err != nil || !ok {
			return refuse(nodeChange, "node(s) didn't match Pod's node affinity/selector")
		}
		return nil
	}
}

func ports(p *podInfo) filter {
	return func(n *nodeInfo) *refusal {
		if len(p.ports) == 0 {
			return nil
		}
		for _, other := range n.pods {
			for _, theirs := range other.ports {
				if slices.ContainsFunc(p.ports, theirs.collides) {
					return refuse(nodeChange|podGone, "node(s) didn't have free ports for the requested pod ports")
				}
			}
		}
		return nil
	}
}

func (a hostPort) collides(b hostPort) bool {
	wild := func(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }
	return a.port == b.port && a.protocol == b.protocol && (a.ip == b.ip || wild(a.ip) || wild(b.ip))
}

func fits(p *podInfo) filter {
	return func(n *nodeInfo) *refusal {
		var short []string
		if room, limited := n.allocatable[corev1.ResourcePods]; limited && int64(len(n.pods))+1 > room {
			short = append(short, "Too many pods")
		}
		for name, want := range p.requests {
			if want > 0 && n.used[name]+want > n.allocatable[name] {
				short = append(short, "Insufficient "+string(name))
			}
		}
		if short == nil {
			return nil
		}
		slices.Sort(short)
		return refuse(nodeChange|podGone, short...)
	}
}
