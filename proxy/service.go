package proxy

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// endpoint is where a connection can end.
type endpoint struct {
	Addr  netip.AddrPort
	Local bool // on this node
}

// servicePort is one port of a Service with everything that decides its rules.
type servicePort struct {
	Name       string // namespace/name:port, for people and for chain names
	Protocol   string // tcp, udp, sctp
	ClusterIPs []netip.Addr
	Port       uint16
	NodePort   uint16
	External   []netip.Addr // externalIPs and load balancer addresses open to everyone
	Guarded    []netip.Addr // load balancer addresses open to Sources only
	Sources    []netip.Prefix
	Affinity   int32 // seconds; 0 is none

	ExternalLocal, InternalLocal bool

	// All are the endpoints to choose from, Local those of them (or, if none of them is on this node, the terminating
	// ones) that are on this node.
	All, Local []endpoint
}

// served says whether the Service is this proxy's to serve.
func served(svc *corev1.Service) bool {
	if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == corev1.ClusterIPNone {
		return false
	}
	_, other := svc.Labels["service.kubernetes.io/service-proxy-name"]
	return !other
}

// portsOf reads a Service and its EndpointSlices.
func portsOf(svc *corev1.Service, eps []*discoveryv1.EndpointSlice, nodeName string, skip []netip.Addr) []servicePort {
	if svc == nil || !served(svc) {
		return nil
	}
	var ports []servicePort
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		sp := servicePort{
			Name:          svc.Namespace + "/" + svc.Name,
			Protocol:      protocol(p.Protocol),
			Port:          uint16(p.Port),
			NodePort:      uint16(p.NodePort),
			InternalLocal: svc.Spec.InternalTrafficPolicy != nil && *svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
			ExternalLocal: svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		}
		if p.Name != "" {
			sp.Name += ":" + p.Name
		}
		addAddresses(&sp, svc, skip)
		if svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
			sp.Affinity = corev1.DefaultClientIPServiceAffinitySeconds
			if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
				sp.Affinity = *c.ClientIP.TimeoutSeconds
			}
		}
		sp.All, sp.Local = endpointsOf(p, eps, nodeName)
		ports = append(ports, sp)
	}
	return ports
}

func addAddresses(sp *servicePort, svc *corev1.Service, skip []netip.Addr) {
	for _, s := range clusterIPs(svc) {
		if ip, ok := ipv4(s); ok && !slices.Contains(skip, ip) && !slices.Contains(sp.ClusterIPs, ip) {
			sp.ClusterIPs = append(sp.ClusterIPs, ip)
		}
	}
	for _, s := range svc.Spec.ExternalIPs {
		if ip, ok := ipv4(s); ok && !slices.Contains(sp.External, ip) {
			sp.External = append(sp.External, ip)
		}
	}
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	for _, s := range svc.Spec.LoadBalancerSourceRanges {
		if p, err := netip.ParsePrefix(s); err == nil && p.Addr().Is4() {
			sp.Sources = append(sp.Sources, p.Masked())
		}
	}
	for _, ing := range svc.Status.LoadBalancer.Ingress {
		ip, ok := ipv4(ing.IP)
		// KEP-1860: with mode Proxy the load balancer itself must see the packets.
		if !ok || ing.IPMode != nil && *ing.IPMode == corev1.LoadBalancerIPModeProxy || slices.Contains(sp.External, ip) {
			continue
		}
		if len(svc.Spec.LoadBalancerSourceRanges) > 0 {
			sp.Guarded = append(sp.Guarded, ip)
		} else {
			sp.External = append(sp.External, ip)
		}
	}
}

func clusterIPs(svc *corev1.Service) []string {
	if len(svc.Spec.ClusterIPs) > 0 {
		return svc.Spec.ClusterIPs
	}
	return []string{svc.Spec.ClusterIP}
}

// endpointsOf chooses among the endpoints of a port: the ready ones, or, if there is none, those that still serve while
// they terminate (KEP-1669). The choice is made for the cluster and for this node each by itself.
func endpointsOf(p *corev1.ServicePort, eps []*discoveryv1.EndpointSlice, nodeName string) (all, local []endpoint) {
	var ready, terminating []endpoint
	for _, slice := range eps {
		if slice.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		for i := range slice.Ports {
			sp := &slice.Ports[i]
			if sp.Port == nil || deref(sp.Name) != p.Name || protocol(deref(sp.Protocol)) != protocol(p.Protocol) {
				continue
			}
			for j := range slice.Endpoints {
				ep := &slice.Endpoints[j]
				if len(ep.Addresses) == 0 {
					continue
				}
				ip, ok := ipv4(ep.Addresses[0])
				if !ok {
					continue
				}
				e := endpoint{
					Addr:  netip.AddrPortFrom(ip, uint16(*sp.Port)),
					Local: nodeName != "" && deref(ep.NodeName) == nodeName,
				}
				c := ep.Conditions
				isReady := c.Ready == nil || *c.Ready
				serving := c.Serving != nil && *c.Serving || c.Serving == nil && isReady
				switch {
				case isReady:
					ready = append(ready, e)
				case serving && deref(c.Terminating):
					terminating = append(terminating, e)
				}
			}
		}
	}
	ready, terminating = distinct(ready), distinct(terminating)
	isLocal := func(eps []endpoint) []endpoint {
		var out []endpoint
		for _, e := range eps {
			if e.Local {
				out = append(out, e)
			}
		}
		return out
	}
	if all = ready; len(all) == 0 {
		all = terminating
	}
	if local = isLocal(ready); len(local) == 0 {
		local = isLocal(terminating)
	}
	return all, local
}

// distinct sorts by address and leaves one endpoint for each.
func distinct(eps []endpoint) []endpoint {
	slices.SortFunc(eps, func(a, b endpoint) int {
		if c := a.Addr.Compare(b.Addr); c != 0 {
			return c
		}
		if a.Local == b.Local {
			return 0
		}
		if a.Local {
			return -1
		}
		return 1
	})
	return slices.CompactFunc(eps, func(a, b endpoint) bool { return a.Addr == b.Addr })
}

func ipv4(s string) (netip.Addr, bool) {
	ip, err := netip.ParseAddr(s)
	return ip, err == nil && ip.Is4()
}

func protocol(p corev1.Protocol) string {
	switch p {
	case corev1.ProtocolUDP:
		return "udp"
	case corev1.ProtocolSCTP:
		return "sctp"
	}
	return "tcp"
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
