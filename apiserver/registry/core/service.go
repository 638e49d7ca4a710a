package core

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/mini-k8s/mini/apiserver/registry"
)

// Service is the row of services. Its cluster addresses and node ports come from allocators.
func Service(deps registry.Deps, allocators *Allocators) registry.Resource {
	families := serviceFamilies(deps.ServiceCIDRs)
	status := registry.Strategy{
		PrepareForUpdate: registry.PrepareUpdate(func(s, old *corev1.Service) { s.Spec = old.Spec }),
		ValidateUpdate:   registry.ValidateUpdate(validateServiceStatusUpdate),
	}
	return registry.Resource{
		GVK: corev1.SchemeGroupVersion.WithKind("Service"), Name: "services", Singular: "service", ShortNames: []string{"svc"}, Categories: []string{"all"},
		Namespaced: true, Key: "services/specs",
		Default: registry.Defaulter(defaultService),
		Strategy: registry.Strategy{
			PrepareForCreate: registry.Prepare(func(s *corev1.Service) {
				s.Status = corev1.ServiceStatus{}
				normalizeClusterIPs(s, nil)
				families.fill(s, nil)
			}),
			PrepareForUpdate: registry.PrepareUpdate(func(s, old *corev1.Service) {
				s.Status = old.Status
				keepAllocated(s, old)
				normalizeClusterIPs(s, old)
				dropTypeDependent(s, old)
				families.fill(s, old)
				if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
					s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
				}
			}),
			Validate:            registry.Validate(families.validate),
			ValidateUpdate:      registry.ValidateUpdate(families.validateUpdate),
			Allocate:            allocators.allocateService,
			ReturnDeleted:       true,
			CreateOnUpdate:      true,
			UnconditionalUpdate: true,
		},
		Fields: registry.Select(func(s *corev1.Service) fields.Set {
			return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
		}),
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Column("Type", "How the service is reached"),
				registry.Column("Cluster-IP", "The service's address inside the cluster"),
				registry.Column("External-IP", "The service's addresses outside the cluster"),
				registry.Column("Port(s)", "The service's ports"),
				registry.AgeColumn(),
				registry.Wide(registry.Column("Selector", "The labels of the pods behind the service")),
			},
			Cells: registry.Cells(serviceCells),
		},
		Status: &status,
		Subresources: []registry.Subresource{{
			Name: "proxy", Kind: corev1.SchemeGroupVersion.WithKind("ServiceProxyOptions"), Verbs: []string{"create", "delete", "get", "patch", "update"},
		}},
	}
}

func defaultService(s *corev1.Service) {
	spec := &s.Spec
	fill(&spec.SessionAffinity, corev1.ServiceAffinityNone)
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		spec.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		if c := spec.SessionAffinityConfig; c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			timeout := corev1.DefaultClientIPServiceAffinitySeconds
			spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &timeout}}
		}
	}
	fill(&spec.Type, corev1.ServiceTypeClusterIP)
	for i := range spec.Ports {
		p := &spec.Ports[i]
		fill(&p.Protocol, corev1.ProtocolTCP)
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if externallyAccessible(s) {
		fill(&spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if spec.Type != corev1.ServiceTypeExternalName {
		set(&spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		set(&spec.AllocateLoadBalancerNodePorts, true)
		for i := range s.Status.LoadBalancer.Ingress {
			if ingress := &s.Status.LoadBalancer.Ingress[i]; ingress.IP != "" {
				set(&ingress.IPMode, corev1.LoadBalancerIPModeVIP)
			}
		}
	}
}

func externallyAccessible(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer || s.Spec.Type == corev1.ServiceTypeNodePort ||
		(s.Spec.Type == corev1.ServiceTypeClusterIP && len(s.Spec.ExternalIPs) > 0)
}

// needsClusterIP says that a service of this type has an address or is explicitly headless.
func needsClusterIP(s *corev1.Service) bool {
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		return true
	}
	return false
}

func headless(s *corev1.Service) bool {
	return s.Spec.ClusterIP == corev1.ClusterIPNone || (len(s.Spec.ClusterIPs) > 0 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone)
}

// needsNodePort says that the service's ports are opened on every node.
func needsNodePort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort ||
		(s.Spec.Type == corev1.ServiceTypeLoadBalancer && (s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts))
}

func needsHealthCheckPort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// keepAllocated lets a client leave out what was allocated before: PUTting back a manifest changes nothing.
func keepAllocated(s, old *corev1.Service) {
	if needsClusterIP(old) && needsClusterIP(s) && s.Spec.ClusterIP == "" && len(s.Spec.ClusterIPs) == 0 {
		s.Spec.ClusterIP = old.Spec.ClusterIP
		s.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
	}
	if needsNodePort(old) && needsNodePort(s) {
		type id struct {
			protocol corev1.Protocol
			port     int32
		}
		was, used := map[id]int32{}, sets.New[id]()
		for _, p := range old.Spec.Ports {
			was[id{p.Protocol, p.Port}] = p.NodePort
		}
		type nodeID struct {
			protocol corev1.Protocol
			port     int32
		}
		taken := sets.New[nodeID]()
		for _, p := range s.Spec.Ports {
			if p.NodePort != 0 {
				taken.Insert(nodeID{p.Protocol, p.NodePort})
			}
		}
		for i := range s.Spec.Ports {
			p := &s.Spec.Ports[i]
			key := id{p.Protocol, p.Port}
			if port := was[key]; p.NodePort == 0 && port != 0 && !used.Has(key) && !taken.Has(nodeID{p.Protocol, port}) {
				p.NodePort = port
				used.Insert(key)
			}
		}
	}
	if needsHealthCheckPort(old) && needsHealthCheckPort(s) && s.Spec.HealthCheckNodePort == 0 {
		s.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
}

// normalizeClusterIPs keeps clusterIP equal to the first of clusterIPs for clients that know only the older field.
func normalizeClusterIPs(s, old *corev1.Service) {
	if old == nil {
		if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0 {
			s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		}
		return // clusterIPs without clusterIP is an error that validation reports
	}
	single := s.Spec.ClusterIP != old.Spec.ClusterIP
	plural := !slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs)
	switch {
	case single && !plural && s.Spec.ClusterIP == "":
		s.Spec.ClusterIPs = nil
	case single && !plural && len(old.Spec.ClusterIPs) < 2:
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	case single && !plural:
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	case !single && plural && len(s.Spec.ClusterIPs) == 0:
		// An older client dropped the list it does not know.
		if s.Spec.ClusterIP != "" {
			s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		}
	}
}

// dropTypeDependent clears what the old type needed and the new one does not, where the client left it as it was:
// changing only `type` must work.
func dropTypeDependent(s, old *corev1.Service) {
	if needsClusterIP(old) && !needsClusterIP(s) && s.Spec.ClusterIP == old.Spec.ClusterIP && slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) {
		s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil
		s.Spec.IPFamilies, s.Spec.IPFamilyPolicy = nil, nil
	}
	if needsNodePort(old) && !needsNodePort(s) && !nodePortsChanged(s, old) {
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].NodePort = 0
		}
	}
	if needsHealthCheckPort(old) && !needsHealthCheckPort(s) && s.Spec.HealthCheckNodePort == old.Spec.HealthCheckNodePort {
		s.Spec.HealthCheckNodePort = 0
	}
	wasBalanced := old.Spec.Type == corev1.ServiceTypeLoadBalancer
	balanced := s.Spec.Type == corev1.ServiceTypeLoadBalancer
	if wasBalanced && !balanced {
		if equal(s.Spec.AllocateLoadBalancerNodePorts, old.Spec.AllocateLoadBalancerNodePorts) {
			s.Spec.AllocateLoadBalancerNodePorts = nil
		}
		if equal(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
			s.Spec.LoadBalancerClass = nil
		}
	}
	if externallyAccessible(old) && !externallyAccessible(s) && s.Spec.ExternalTrafficPolicy == old.Spec.ExternalTrafficPolicy {
		s.Spec.ExternalTrafficPolicy = ""
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName && old.Spec.Type != corev1.ServiceTypeExternalName && equal(s.Spec.InternalTrafficPolicy, old.Spec.InternalTrafficPolicy) {
		s.Spec.InternalTrafficPolicy = nil
	}
}

func equal[T comparable](a, b *T) bool {
	return (a == nil) == (b == nil) && (a == nil || *a == *b)
}

func nodePortsChanged(s, old *corev1.Service) bool {
	return !slices.EqualFunc(s.Spec.Ports, old.Spec.Ports, func(a, b corev1.ServicePort) bool { return a.NodePort == b.NodePort })
}

// serviceFamilies are the IP families of the cluster's services, the default first. Empty means IPv4.
type ipFamilies []corev1.IPFamily

func serviceFamilies(cidrs []netip.Prefix) ipFamilies {
	var f ipFamilies
	for _, c := range cidrs {
		f = append(f, familyOf(c.Addr()))
	}
	if len(f) == 0 {
		return ipFamilies{corev1.IPv4Protocol}
	}
	return f
}

func familyOf(a netip.Addr) corev1.IPFamily {
	if a.Unmap().Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

func otherFamily(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// fill completes ipFamilyPolicy and ipFamilies from each other, the addresses asked for and the cluster's families
// (KEP-563). Combinations that contradict each other are left for validation.
func (f ipFamilies) fill(s, old *corev1.Service) {
	spec := &s.Spec
	if !needsClusterIP(s) {
		return
	}
	if headless(s) && len(spec.Selector) == 0 {
		if len(spec.IPFamilies) == 0 {
			spec.IPFamilies = []corev1.IPFamily{f[0]}
			if spec.IPFamilyPolicy == nil || *spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
				spec.IPFamilies = append(spec.IPFamilies, otherFamily(f[0]))
			}
		}
		if len(spec.IPFamilies) > 1 {
			set(&spec.IPFamilyPolicy, corev1.IPFamilyPolicyRequireDualStack)
		}
		set(&spec.IPFamilyPolicy, corev1.IPFamilyPolicySingleStack)
		return
	}
	downgrade := old != nil && len(old.Spec.IPFamilies) == 2 && spec.IPFamilyPolicy != nil && *spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
	if downgrade && slices.Equal(spec.IPFamilies, old.Spec.IPFamilies) && slices.Equal(spec.ClusterIPs, old.Spec.ClusterIPs) {
		spec.IPFamilies = spec.IPFamilies[:1]
		if len(spec.ClusterIPs) > 1 {
			spec.ClusterIPs = spec.ClusterIPs[:1]
		}
	}
	if spec.IPFamilyPolicy == nil && len(spec.ClusterIPs) < 2 && len(spec.IPFamilies) < 2 {
		set(&spec.IPFamilyPolicy, corev1.IPFamilyPolicySingleStack)
	}
	for i, ip := range spec.ClusterIPs {
		addr, err := netip.ParseAddr(ip)
		if err != nil {
			break // headless, or an error of its own
		}
		if i == len(spec.IPFamilies) {
			spec.IPFamilies = append(spec.IPFamilies, familyOf(addr))
		}
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{f[0]}
	}
	dual := spec.IPFamilyPolicy != nil && *spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack
	if dual && len(f) == 2 && len(spec.IPFamilies) == 1 {
		spec.IPFamilies = append(spec.IPFamilies, otherFamily(spec.IPFamilies[0]))
	}
}

func serviceCells(s *corev1.Service) []any {
	clusterIP := registry.None
	if len(s.Spec.ClusterIPs) > 0 {
		clusterIP = s.Spec.ClusterIPs[0]
	} else if s.Spec.ClusterIP != "" {
		clusterIP = s.Spec.ClusterIP
	}
	ports := make([]string, len(s.Spec.Ports))
	for i, p := range s.Spec.Ports {
		ports[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort > 0 {
			ports[i] = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
	}
	return []any{
		s.Name, string(s.Spec.Type), clusterIP, externalIP(s), orNone(strings.Join(ports, ",")), registry.Age(s.CreationTimestamp),
		FormatLabels(s.Spec.Selector),
	}
}

// FormatLabels writes labels the way kubectl's tables do: sorted, or "<none>".
func FormatLabels(m map[string]string) string {
	return orNone(labels.Set(m).String())
}

func externalIP(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return orNone(strings.Join(s.Spec.ExternalIPs, ","))
	case corev1.ServiceTypeLoadBalancer:
		ingress := sets.New[string]()
		for _, i := range s.Status.LoadBalancer.Ingress {
			if i.IP != "" {
				ingress.Insert(i.IP)
			} else if i.Hostname != "" {
				ingress.Insert(i.Hostname)
			}
		}
		all := append(sets.List(ingress), s.Spec.ExternalIPs...)
		if len(all) == 0 {
			return "<pending>"
		}
		return strings.Join(all, ",")
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	}
	return registry.Unknown
}
