package podstate

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/cache"
)

// Condition returns the pod's condition of type t, nil if it has none.
func Condition(pod *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == t {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// Ready says whether the Ready condition is True.
func Ready(pod *corev1.Pod) bool {
	c := Condition(pod, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// Terminal says whether the pod has ended for good.
func Terminal(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// Active says whether the pod counts as a replica: neither ended nor being deleted.
func Active(pod *corev1.Pod) bool { return !Terminal(pod) && pod.DeletionTimestamp == nil }

// Available says whether the pod has been ready for minReady at the time now. If it is ready but not for long enough yet, wait
// is how long that still takes; otherwise wait is 0.
func Available(pod *corev1.Pod, minReady time.Duration, now time.Time) (ok bool, wait time.Duration) {
	c := Condition(pod, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue {
		return false, 0
	}
	if minReady <= 0 {
		return true, 0
	}
	if c.LastTransitionTime.IsZero() {
		return false, 0
	}
	if left := c.LastTransitionTime.Add(minReady).Sub(now); left > 0 {
		return false, left
	}
	return true, 0
}

// Port returns the port number that a Service port means on the pod: its target port, by number or by the name of a
// container's port of the same protocol. Sidecars count as containers. ok is false when the pod has no port of that name.
func Port(pod *corev1.Pod, port *corev1.ServicePort) (number int32, ok bool) {
	if port.TargetPort.Type == intstr.Int {
		return port.TargetPort.IntVal, true
	}
	named := func(c *corev1.Container) bool {
		for i := range c.Ports {
			if p := &c.Ports[i]; p.Name == port.TargetPort.StrVal && p.Protocol == port.Protocol {
				number = p.ContainerPort
				return true
			}
		}
		return false
	}
	for i := range pod.Spec.Containers {
		if named(&pod.Spec.Containers[i]) {
			return number, true
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways && named(c) {
			return number, true
		}
	}
	return 0, false
}

// Hostname returns the name under which the pod is known behind the Service, "" if it has none of its own there.
func Hostname(pod *corev1.Pod, svc *corev1.Service) string {
	if pod.Spec.Hostname != "" && pod.Spec.Subdomain == svc.Name && pod.Namespace == svc.Namespace {
		return pod.Spec.Hostname
	}
	return ""
}

// IP returns the pod's first address of the family, "" if it has none.
func IP(pod *corev1.Pod, family corev1.IPFamily) string {
	for _, ip := range pod.Status.PodIPs {
		if Family(ip.IP) == family {
			return ip.IP
		}
	}
	if len(pod.Status.PodIPs) == 0 && pod.Status.PodIP != "" && Family(pod.Status.PodIP) == family {
		return pod.Status.PodIP
	}
	return ""
}

// Family tells an address's family by its form; addresses in the API have been validated.
func Family(ip string) corev1.IPFamily {
	for i := range len(ip) {
		if ip[i] == ':' {
			return corev1.IPv6Protocol
		}
	}
	return corev1.IPv4Protocol
}

// EndpointChanged says whether anything about the pod changed that an endpoint of it would show. Labels are not looked at.
func EndpointChanged(old, pod *corev1.Pod) bool {
	if old.UID != pod.UID || Ready(old) != Ready(pod) || Terminal(old) != Terminal(pod) ||
		(old.DeletionTimestamp == nil) != (pod.DeletionTimestamp == nil) ||
		old.Spec.NodeName != pod.Spec.NodeName || old.Status.PodIP != pod.Status.PodIP ||
		old.Spec.Hostname != pod.Spec.Hostname || old.Spec.Subdomain != pod.Spec.Subdomain ||
		len(old.Status.PodIPs) != len(pod.Status.PodIPs) {
		return true
	}
	for i := range pod.Status.PodIPs {
		if old.Status.PodIPs[i].IP != pod.Status.PodIPs[i].IP {
			return true
		}
	}
	return false
}

// nodeIndex indexes pods by the node they are bound to.
const nodeIndex = "node"

// IndexByNode makes the pod informer answer OnNode. It may be called by each controller that needs it.
func IndexByNode(informer cache.SharedIndexInformer) error {
	if _, ok := informer.GetIndexer().GetIndexers()[nodeIndex]; ok {
		return nil
	}
	err := informer.AddIndexers(cache.Indexers{nodeIndex: func(obj any) ([]string, error) {
		if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
			return []string{pod.Spec.NodeName}, nil
		}
		return nil, nil
	}})
	if err != nil {
		return fmt.Errorf("index pods by node: %w", err)
	}
	return nil
}

// OnNode returns the pods bound to the node.
func OnNode(indexer cache.Indexer, node string) ([]*corev1.Pod, error) {
	objs, err := indexer.ByIndex(nodeIndex, node)
	if err != nil {
		return nil, err
	}
	out := make([]*corev1.Pod, 0, len(objs))
	for _, o := range objs {
		if pod, ok := o.(*corev1.Pod); ok {
			out = append(out, pod)
		}
	}
	return out, nil
}
