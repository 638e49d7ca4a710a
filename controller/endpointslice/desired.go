package endpointslice

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/mini-k8s/mini/controller/podstate"
)

// group is the endpoints that share one list of ports, and therefore slices.
type group struct {
	ports     []discoveryv1.EndpointPort
	endpoints []discoveryv1.Endpoint
}

// families returns the address types the Service has slices for.
func families(svc *corev1.Service) []discoveryv1.AddressType {
	var out []discoveryv1.AddressType
	for _, f := range svc.Spec.IPFamilies {
		out = append(out, addressType(f))
	}
	if len(out) == 0 {
		out = append(out, addressType(podstate.Family(svc.Spec.ClusterIP)))
	}
	return out
}

func addressType(f corev1.IPFamily) discoveryv1.AddressType {
	if f == corev1.IPv6Protocol {
		return discoveryv1.AddressTypeIPv6
	}
	return discoveryv1.AddressTypeIPv4
}

// desired returns the endpoints of one family, grouped by ports, in a stable order. zone returns a node's zone, "" if unknown.
func desired(svc *corev1.Service, pods []*corev1.Pod, family discoveryv1.AddressType, zone func(node string) string) []group {
	groups := map[string]*group{}
	for _, pod := range pods {
		ip := podstate.IP(pod, corev1.IPFamily(family))
		if ip == "" || podstate.Terminal(pod) {
			continue
		}
		ports := portsOf(svc, pod)
		key := portsKey(ports)
		if groups[key] == nil {
			groups[key] = &group{ports: ports}
		}
		groups[key].endpoints = append(groups[key].endpoints, endpointOf(svc, pod, ip, zone))
	}
	out := make([]group, 0, len(groups))
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		g := groups[key]
		slices.SortStableFunc(g.endpoints, func(a, b discoveryv1.Endpoint) int { return strings.Compare(endpointKey(&a), endpointKey(&b)) })
		out = append(out, *g)
	}
	return out
}

func endpointOf(svc *corev1.Service, pod *corev1.Pod, ip string, zone func(string) string) discoveryv1.Endpoint {
	serving := podstate.Ready(pod)
	terminating := pod.DeletionTimestamp != nil
	ready := svc.Spec.PublishNotReadyAddresses || (serving && !terminating)
	e := discoveryv1.Endpoint{
		Addresses:  []string{ip},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
	if pod.Spec.NodeName != "" {
		e.NodeName = &pod.Spec.NodeName
		if z := zone(pod.Spec.NodeName); z != "" {
			e.Zone = &z
		}
	}
	if h := podstate.Hostname(pod, svc); h != "" {
		e.Hostname = &h
	}
	return e
}

// portsOf resolves the Service's ports on the pod; a port whose name the pod does not have is left out. Never nil.
func portsOf(svc *corev1.Service, pod *corev1.Pod) []discoveryv1.EndpointPort {
	out := []discoveryv1.EndpointPort{}
	for i := range svc.Spec.Ports {
		sp := &svc.Spec.Ports[i]
		if number, ok := podstate.Port(pod, sp); ok {
			out = append(out, discoveryv1.EndpointPort{Name: &sp.Name, Protocol: &sp.Protocol, Port: &number, AppProtocol: sp.AppProtocol})
		}
	}
	return out
}

// portsKey is equal for equal sets of ports, whatever their order.
func portsKey(ports []discoveryv1.EndpointPort) string {
	keys := make([]string, 0, len(ports))
	for _, p := range ports {
		number := "-"
		if p.Port != nil {
			number = strconv.Itoa(int(*p.Port))
		}
		keys = append(keys, strings.Join([]string{deref(p.Name), deref(p.Protocol), number, deref(p.AppProtocol)}, "|"))
	}
	slices.Sort(keys)
	return strings.Join(keys, ",")
}

// endpointKey names an endpoint over changes of its state: what it targets, else its address.
func endpointKey(e *discoveryv1.Endpoint) string {
	if r := e.TargetRef; r != nil && r.UID != "" {
		return r.Kind + "/" + r.Namespace + "/" + r.Name + "/" + string(r.UID)
	}
	return strings.Join(e.Addresses, ",")
}

func deref[S ~string](s *S) string {
	if s == nil {
		return ""
	}
	return string(*s)
}
