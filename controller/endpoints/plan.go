package endpoints

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/controller/podstate"
)

const (
	labelManagedBy = "endpoints.kubernetes.io/managed-by"
	managedBy      = "endpoint-controller"

	// maxAddresses bounds one object (KEP 752, "Endpoints truncation").
	maxAddresses = 1000
)

// plan returns the Endpoints that the Service should have, or nil when current (nil: there is none) is it already.
func plan(svc *corev1.Service, pods []*corev1.Pod, current *corev1.Endpoints) *corev1.Endpoints {
	subsets := pack(svc, pods)
	cut := truncate(subsets)
	var next *corev1.Endpoints
	if current == nil {
		next = &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: svc.Namespace, Name: svc.Name}}
	} else {
		next = current.DeepCopy()
	}
	next.Subsets = subsets
	next.Labels = maps.Clone(svc.Labels)
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	delete(next.Labels, corev1.IsHeadlessService)
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		next.Labels[corev1.IsHeadlessService] = ""
	}
	next.Labels[labelManagedBy] = managedBy
	if cut {
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, corev1.EndpointsOverCapacity, "truncated")
	} else {
		delete(next.Annotations, corev1.EndpointsOverCapacity)
	}
	if current != nil && equality.Semantic.DeepEqual(next.Subsets, current.Subsets) &&
		equality.Semantic.DeepEqual(next.Labels, current.Labels) && equality.Semantic.DeepEqual(next.Annotations, current.Annotations) {
		return nil
	}
	return next
}

// pack groups the pods' addresses by the ports they have.
func pack(svc *corev1.Service, pods []*corev1.Pod) []corev1.EndpointSubset {
	family := podstate.Family(svc.Spec.ClusterIP)
	if len(svc.Spec.IPFamilies) > 0 {
		family = svc.Spec.IPFamilies[0]
	}
	subsets := map[string]*corev1.EndpointSubset{}
	for _, pod := range pods {
		ip := podstate.IP(pod, family)
		if ip == "" || podstate.Terminal(pod) || (pod.DeletionTimestamp != nil && !svc.Spec.PublishNotReadyAddresses) {
			continue
		}
		ports := portsOf(svc, pod)
		if len(ports) == 0 && len(svc.Spec.Ports) > 0 {
			continue
		}
		key := portsKey(ports)
		if subsets[key] == nil {
			subsets[key] = &corev1.EndpointSubset{Ports: ports}
		}
		addr := corev1.EndpointAddress{
			IP: ip, Hostname: podstate.Hostname(pod, svc),
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		}
		if pod.Spec.NodeName != "" {
			addr.NodeName = &pod.Spec.NodeName
		}
		if s := subsets[key]; svc.Spec.PublishNotReadyAddresses || podstate.Ready(pod) {
			s.Addresses = append(s.Addresses, addr)
		} else {
			s.NotReadyAddresses = append(s.NotReadyAddresses, addr)
		}
	}
	byIP := func(a, b corev1.EndpointAddress) int {
		return cmp.Or(strings.Compare(a.IP, b.IP), strings.Compare(string(a.TargetRef.UID), string(b.TargetRef.UID)))
	}
	var out []corev1.EndpointSubset
	for _, key := range slices.Sorted(maps.Keys(subsets)) {
		s := subsets[key]
		slices.SortFunc(s.Addresses, byIP)
		slices.SortFunc(s.NotReadyAddresses, byIP)
		out = append(out, *s)
	}
	return out
}

func portsOf(svc *corev1.Service, pod *corev1.Pod) []corev1.EndpointPort {
	var out []corev1.EndpointPort
	for i := range svc.Spec.Ports {
		sp := &svc.Spec.Ports[i]
		if number, ok := podstate.Port(pod, sp); ok {
			out = append(out, corev1.EndpointPort{Name: sp.Name, Port: number, Protocol: sp.Protocol, AppProtocol: sp.AppProtocol})
		}
	}
	slices.SortFunc(out, func(a, b corev1.EndpointPort) int { return strings.Compare(portKey(a), portKey(b)) })
	return out
}

func portKey(p corev1.EndpointPort) string {
	key := p.Name + "|" + string(p.Protocol) + "|" + strconv.Itoa(int(p.Port))
	if p.AppProtocol != nil {
		key += "|" + *p.AppProtocol
	}
	return key
}

func portsKey(ports []corev1.EndpointPort) string {
	keys := make([]string, len(ports))
	for i, p := range ports {
		keys[i] = portKey(p)
	}
	return strings.Join(keys, ",")
}

// truncate cuts subsets to maxAddresses, ready ones first, and says whether it had to.
func truncate(subsets []corev1.EndpointSubset) bool {
	ready, total := 0, 0
	for _, s := range subsets {
		ready += len(s.Addresses)
		total += len(s.Addresses) + len(s.NotReadyAddresses)
	}
	if total <= maxAddresses {
		return false
	}
	left, spare := min(ready, maxAddresses), max(0, maxAddresses-ready)
	for i := range subsets {
		s := &subsets[i]
		s.Addresses = s.Addresses[:min(len(s.Addresses), left)]
		left -= len(s.Addresses)
		s.NotReadyAddresses = s.NotReadyAddresses[:min(len(s.NotReadyAddresses), spare)]
		spare -= len(s.NotReadyAddresses)
	}
	return true
}
