// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/mini-k8s/mini/kubelet/eviction"
)

// admit decides once whether a new pod may run here. A pod that may not is Failed, with a reason that its controller and
// its owner can read. What already ran before this process is admitted by recovery. p.mu is held.
func (k *Kubelet) admit(p *podState) {
	if isTerminal(p.pod.Status.Phase) {
		p.admitted = true
		return
	}
	var others []*corev1.Pod
	k.mu.Lock()
	all := k.podListLocked()
	k.mu.Unlock()
	for _, o := range all {
		if o == p {
			continue
		}
		if pod := o.counted(); pod != nil {
			others = append(others, pod)
		}
	}
	f := checkSysctls(p.pod, k.cfg.AllowedUnsafeSysctls)
	if k.shutdown.Load() {
		f = &failure{Reason: reasonShutdownRejects, Message: "Pod was rejected: " + messageShutdownRejects}
	}
	if msg := eviction.Refuse(p.pod, p.static.Load(), qosClass(p.pod), k.guard.short()); msg != "" && f == nil {
		f = &failure{Reason: eviction.Reason, Message: msg}
	}
	if f == nil {
		f = admission(p.pod, others, k.node.allocatable(), k.node.labels(), k.node.current())
	}
	p.admitted = true
	if f != nil {
		p.failure = f
		k.recorder.Event(p.pod, corev1.EventTypeWarning, f.Reason, f.Message)
	}
	p.publish()
}

// publish makes the pod count for the admission of others, which must not wait for this pod's lock.
func (p *podState) publish() {
	if p.failure == nil && !isTerminal(p.status.Phase) && !p.gone {
		p.counts.Store(p.allocatedPod())
	} else {
		p.counts.Store(nil)
	}
}

func (p *podState) counted() *corev1.Pod { return p.counts.Load() }

// admission is the decision itself: nil admits.
func admission(pod *corev1.Pod, others []*corev1.Pod, allocatable corev1.ResourceList, labels map[string]string, node *corev1.Node) *failure {
	if os := pod.Spec.OS; os != nil && os.Name != corev1.Linux {
		return &failure{Reason: "PodOSNotSupported", Message: "Failed to admit pod as the OS field doesn't match node OS"}
	}
	if f := fits(pod, others, allocatable); f != nil {
		return f
	}
	n := corev1.Node{}
	if node != nil {
		n = *node
	}
	n.Labels = labels
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(&n); err != nil || !ok {
		return &failure{Reason: "NodeAffinity", Message: "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}
	}
	if p := portConflict(pod, others); p != "" {
		return &failure{Reason: "NodePorts", Message: "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}
	}
	for _, t := range n.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute && !tolerated(pod, &t) {
			return &failure{Reason: "TaintToleration", Message: fmt.Sprintf("Pod was rejected: Predicate TaintToleration failed: node(s) had untolerated taint {%s: %s}", t.Key, t.Value)}
		}
	}
	return nil
}

func tolerated(pod *corev1.Pod, t *corev1.Taint) bool {
	for i := range pod.Spec.Tolerations {
		to := &pod.Spec.Tolerations[i]
		if to.Effect != "" && to.Effect != t.Effect || to.Key != "" && to.Key != t.Key {
			continue
		}
		if to.Operator == corev1.TolerationOpExists || to.Value == t.Value {
			return true
		}
	}
	return false
}

// fits compares the requests of all pods with what the node can give.
func fits(pod *corev1.Pod, others []*corev1.Pod, allocatable corev1.ResourceList) *failure {
	used := corev1.ResourceList{}
	for _, o := range others {
		for name, q := range resourcehelper.PodRequests(o, resourcehelper.PodResourcesOptions{}) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	if max, ok := allocatable[corev1.ResourcePods]; ok && int64(len(others)+1) > max.Value() {
		return outOf("pods", 1, int64(len(others)), max.Value())
	}
	for name, want := range resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{}) {
		if want.IsZero() {
			continue
		}
		have, ok := allocatable[name]
		if !ok && isExtended(name) {
			continue // of the cluster, not of a node: whoever schedules it keeps count
		}
		sum := used[name]
		sum.Add(want)
		if sum.Cmp(have) <= 0 {
			continue
		}
		u := used[name]
		if name == corev1.ResourceCPU {
			return outOf(string(name), want.MilliValue(), u.MilliValue(), have.MilliValue())
		}
		return outOf(string(name), want.Value(), u.Value(), have.Value())
	}
	return nil
}

func outOf(name string, want, used, have int64) *failure {
	return &failure{Reason: "OutOf" + name, short: fmt.Sprintf("%s, requested: %d, capacity: %d", name, want, have-used), Message: fmt.Sprintf("Pod was rejected: Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, want, used, have)}
}

// portConflict names a hostPort that another pod has.
func portConflict(pod *corev1.Pod, others []*corev1.Pod) string {
	type port struct {
		proto corev1.Protocol
		n     int32
	}
	taken := map[port][]string{}
	each := func(p *corev1.Pod, f func(port, string)) {
		for i := range p.Spec.Containers {
			for _, cp := range p.Spec.Containers[i].Ports {
				n, proto, ip := cp.HostPort, cp.Protocol, cp.HostIP
				if n == 0 {
					continue
				}
				if proto == "" {
					proto = corev1.ProtocolTCP
				}
				if ip == "" {
					ip = "0.0.0.0"
				}
				f(port{proto, n}, ip)
			}
		}
	}
	for _, o := range others {
		each(o, func(p port, ip string) { taken[p] = append(taken[p], ip) })
	}
	conflict := ""
	each(pod, func(p port, ip string) {
		for _, other := range taken[p] {
			if ip == other || ip == "0.0.0.0" || other == "0.0.0.0" {
				conflict = fmt.Sprintf("%s/%d", p.proto, p.n)
			}
		}
	})
	return conflict
}
