package core

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	kubeletPort        = 10250
	maxAffinitySeconds = 86400
	forLoadBalancers   = "may only be used when `type` is 'LoadBalancer'"
	unchangeable       = "may not change once set"
	onePerFamily       = "may specify no more than one IP for each IP family"
	notForExternalName = "may not be set for ExternalName services"
)

// validate checks a Service on a cluster with these families, before its addresses are allocated.
func (f ipFamilies) validate(s *corev1.Service) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&s.ObjectMeta, true, apivalidation.NameIsDNS1035Label, field.NewPath("metadata"))
	return append(errs, f.validateSpec(s)...)
}

func (f ipFamilies) validateSpec(s *corev1.Service) field.ErrorList {
	spec, path := &s.Spec, field.NewPath("spec")
	errs := oneOf(path.Child("type"), spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)
	if len(spec.Ports) == 0 && !headless(s) && spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(path.Child("ports"), ""))
	}
	none := func(kind string) {
		if headless(s) {
			errs = append(errs, field.Invalid(path.Child("clusterIPs").Index(0), corev1.ClusterIPNone, fmt.Sprintf("may not be set to 'None' for %s services", kind)))
		}
	}
	switch spec.Type {
	case corev1.ServiceTypeLoadBalancer:
		for i, p := range spec.Ports {
			if p.Port == kubeletPort {
				errs = append(errs, field.Invalid(path.Child("ports").Index(i), p.Port, fmt.Sprintf("may not expose port %v externally since it is used by kubelet", kubeletPort)))
			}
		}
		none("LoadBalancer")
	case corev1.ServiceTypeNodePort:
		none("NodePort")
	case corev1.ServiceTypeExternalName:
		if name := strings.TrimSuffix(spec.ExternalName, "."); name == "" {
			errs = append(errs, field.Required(path.Child("externalName"), ""))
		} else {
			errs = append(errs, invalid(path.Child("externalName"), name, validation.IsDNS1123Subdomain(name))...)
		}
	}
	errs = append(errs, validateServicePorts(s, path.Child("ports"))...)
	errs = append(errs, metav1validation.ValidateLabels(spec.Selector, path.Child("selector"))...)
	errs = append(errs, validateSessionAffinity(spec, path)...)
	for i, ip := range spec.ExternalIPs {
		at := path.Child("externalIPs").Index(i)
		errs = append(errs, validation.IsValidIPForLegacyField(at, ip, false, nil)...)
		errs = append(errs, ValidateEndpointIP(ip, at)...)
	}
	errs = append(errs, validateLoadBalancerFields(spec, path)...)
	errs = append(errs, validateTrafficPolicies(s, path)...)
	errs = append(errs, validateClusterIPs(s, path)...)
	return append(errs, f.validateFamilies(s, path)...)
}

func validateServicePorts(s *corev1.Service, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	type endpoint struct {
		protocol corev1.Protocol
		port     int32
	}
	names, ports, nodePorts := sets.New[string](), sets.New[endpoint](), sets.New[endpoint]()
	for i := range s.Spec.Ports {
		p, at := &s.Spec.Ports[i], path.Index(i)
		if p.Name == "" {
			if len(s.Spec.Ports) > 1 {
				errs = append(errs, field.Required(at.Child("name"), ""))
			}
		} else {
			errs = append(errs, invalid(at.Child("name"), p.Name, validation.IsDNS1123Label(p.Name))...)
			if names.Has(p.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
			}
			names.Insert(p.Name)
		}
		errs = append(errs, invalid(at.Child("port"), p.Port, validation.IsValidPortNum(int(p.Port)))...)
		errs = append(errs, oneOf(at.Child("protocol"), p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		errs = append(errs, validatePort(p.TargetPort, at.Child("targetPort"))...)
		if p.AppProtocol != nil {
			errs = append(errs, invalid(at.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol))...)
		}
		if id := (endpoint{p.Protocol, p.Port}); ports.Has(id) {
			errs = append(errs, field.Duplicate(at, corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}))
		} else {
			ports.Insert(id)
		}
		if p.NodePort == 0 {
			continue
		}
		switch s.Spec.Type {
		case corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName:
			errs = append(errs, field.Forbidden(at.Child("nodePort"), fmt.Sprintf("may not be used when `type` is '%s'", s.Spec.Type)))
		}
		if id := (endpoint{p.Protocol, p.NodePort}); nodePorts.Has(id) {
			errs = append(errs, field.Duplicate(at.Child("nodePort"), p.NodePort))
		} else {
			nodePorts.Insert(id)
		}
	}
	return errs
}

func validateSessionAffinity(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	errs := oneOf(path.Child("sessionAffinity"), spec.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	at := path.Child("sessionAffinityConfig")
	c := spec.SessionAffinityConfig
	if spec.SessionAffinity == corev1.ServiceAffinityNone {
		if c != nil {
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("must not be set when session affinity is %s", corev1.ServiceAffinityNone)))
		}
		return errs
	}
	if spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return errs
	}
	if c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
		return append(errs, field.Required(at, fmt.Sprintf("when session affinity type is %s", corev1.ServiceAffinityClientIP)))
	}
	if t := *c.ClientIP.TimeoutSeconds; t <= 0 || t > maxAffinitySeconds {
		errs = append(errs, field.Invalid(at.Child("clientIP", "timeoutSeconds"), t, fmt.Sprintf("must be greater than 0 and less than %d", maxAffinitySeconds)))
	}
	return errs
}

func validateLoadBalancerFields(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	balanced := spec.Type == corev1.ServiceTypeLoadBalancer
	if len(spec.LoadBalancerSourceRanges) > 0 && !balanced {
		errs = append(errs, field.Forbidden(path.Child("loadBalancerSourceRanges"), forLoadBalancers))
	}
	for i, cidr := range spec.LoadBalancerSourceRanges {
		errs = append(errs, validation.IsValidCIDRForLegacyField(path.Child("loadBalancerSourceRanges").Index(i), strings.TrimSpace(cidr), false, nil)...)
	}
	if balanced && spec.AllocateLoadBalancerNodePorts == nil {
		errs = append(errs, field.Required(path.Child("allocateLoadBalancerNodePorts"), ""))
	}
	if !balanced && spec.AllocateLoadBalancerNodePorts != nil {
		errs = append(errs, field.Forbidden(path.Child("allocateLoadBalancerNodePorts"), forLoadBalancers))
	}
	if class := spec.LoadBalancerClass; class != nil {
		if !balanced {
			errs = append(errs, field.Forbidden(path.Child("loadBalancerClass"), forLoadBalancers))
		}
		errs = append(errs, invalid(path.Child("loadBalancerClass"), *class, validation.IsQualifiedName(*class))...)
	}
	return errs
}

func validateTrafficPolicies(s *corev1.Service, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	spec := &s.Spec
	at := path.Child("externalTrafficPolicy")
	if externallyAccessible(s) {
		errs = append(errs, oneOf(at, spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
	} else if spec.ExternalTrafficPolicy != "" {
		errs = append(errs, field.Invalid(at, spec.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
	}
	if port := spec.HealthCheckNodePort; port != 0 {
		at := path.Child("healthCheckNodePort")
		if !needsHealthCheckPort(s) {
			errs = append(errs, field.Invalid(at, port, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
		}
		errs = append(errs, invalid(at, port, validation.IsValidPortNum(int(port)))...)
	}
	at = path.Child("internalTrafficPolicy")
	switch {
	case spec.InternalTrafficPolicy != nil:
		errs = append(errs, oneOf(at, *spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	case needsClusterIP(s):
		errs = append(errs, field.Required(at, ""))
	}
	if d := spec.TrafficDistribution; d != nil {
		errs = append(errs, oneOf(path.Child("trafficDistribution"), *d, corev1.ServiceTrafficDistributionPreferClose,
			corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)...)
	}
	return errs
}

func validateClusterIPs(s *corev1.Service, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	spec := &s.Spec
	at := path.Child("clusterIPs")
	if spec.Type == corev1.ServiceTypeExternalName {
		refuse := func(child string, set bool) {
			if set {
				errs = append(errs, field.Forbidden(path.Child(child), notForExternalName))
			}
		}
		refuse("clusterIPs", len(spec.ClusterIPs) > 0 || spec.ClusterIP != "")
		refuse("ipFamilies", len(spec.IPFamilies) > 0)
		refuse("ipFamilyPolicy", spec.IPFamilyPolicy != nil)
		return errs
	}
	if len(spec.ClusterIPs) == 0 {
		if spec.ClusterIP != "" {
			errs = append(errs, field.Required(at, ""))
		}
		return errs
	}
	switch {
	case spec.ClusterIP == "":
		errs = append(errs, field.Invalid(at, spec.ClusterIPs, "must be empty when `clusterIP` is not specified"))
	case spec.ClusterIP != spec.ClusterIPs[0]:
		errs = append(errs, field.Invalid(at, spec.ClusterIPs, "first value must match `clusterIP`"))
	}
	if spec.ClusterIPs[0] == corev1.ClusterIPNone {
		if len(spec.ClusterIPs) > 1 {
			errs = append(errs, field.Invalid(at, spec.ClusterIPs, "'None' must be the first and only value"))
		}
		return errs
	}
	for i, ip := range spec.ClusterIPs {
		errs = append(errs, validation.IsValidIPForLegacyField(at.Index(i), ip, false, nil)...)
		addr, err := netip.ParseAddr(ip)
		if err == nil && i < len(spec.IPFamilies) && familyOf(addr) != spec.IPFamilies[i] {
			errs = append(errs, field.Invalid(at.Index(i), ip, fmt.Sprintf("expected an %v value as indicated by `ipFamilies[%v]`", spec.IPFamilies[i], i)))
		}
	}
	if len(spec.ClusterIPs) > 2 {
		errs = append(errs, field.Invalid(at, spec.ClusterIPs, "may only hold up to 2 values"))
	}
	if len(spec.ClusterIPs) == 2 && sameFamily(spec.ClusterIPs[0], spec.ClusterIPs[1]) {
		errs = append(errs, field.Invalid(at, spec.ClusterIPs, onePerFamily))
	}
	return errs
}

func sameFamily(a, b string) bool {
	x, err1 := netip.ParseAddr(a)
	y, err2 := netip.ParseAddr(b)
	return err1 == nil && err2 == nil && familyOf(x) == familyOf(y)
}

// validateFamilies checks the families a service asks for, also against those that the cluster has.
func (f ipFamilies) validateFamilies(s *corev1.Service, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	spec := &s.Spec
	if !needsClusterIP(s) {
		return nil
	}
	if p := spec.IPFamilyPolicy; p != nil {
		errs = append(errs, oneOf(path.Child("ipFamilyPolicy"), *p, corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack)...)
	}
	at := path.Child("ipFamilies")
	seen := sets.New[corev1.IPFamily]()
	for i, family := range spec.IPFamilies {
		errs = append(errs, oneOf(at.Index(i), family, corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		if seen.Has(family) {
			errs = append(errs, field.Duplicate(at.Index(i), family))
		}
		seen.Insert(family)
	}
	if headless(s) && len(spec.Selector) == 0 {
		return errs
	}
	policy := path.Child("ipFamilyPolicy")
	single := spec.IPFamilyPolicy == nil || *spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
	const two = "must be 'RequireDualStack' or 'PreferDualStack' when multiple '%s' are specified"
	if single && len(spec.ClusterIPs) == 2 {
		errs = append(errs, field.Invalid(policy, spec.IPFamilyPolicy, fmt.Sprintf(two, "clusterIPs")))
	}
	if single && len(spec.IPFamilies) == 2 {
		errs = append(errs, field.Invalid(policy, spec.IPFamilyPolicy, fmt.Sprintf(two, "ipFamilies")))
	}
	if !single && *spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack && len(f) < 2 {
		errs = append(errs, field.Invalid(policy, spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, family := range spec.IPFamilies {
		if !slices.Contains(f, family) {
			errs = append(errs, field.Invalid(at.Index(i), family, "not configured on this cluster"))
		}
	}
	return errs
}

func (f ipFamilies) validateUpdate(s, old *corev1.Service) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&s.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	if apiequality.Semantic.DeepEqual(s.Spec, old.Spec) {
		return errs // what another server accepted must not keep labels and finalizers from changing
	}
	path := field.NewPath("spec")
	if needsClusterIP(s) && needsClusterIP(old) {
		errs = append(errs, keepsClusterIPs(s, old, path)...)
		if len(s.Spec.IPFamilies) > 0 && len(old.Spec.IPFamilies) > 0 && s.Spec.IPFamilies[0] != old.Spec.IPFamilies[0] {
			errs = append(errs, field.Invalid(path.Child("ipFamilies").Index(0), s.Spec.IPFamilies, unchangeable))
		}
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && old.Spec.Type == corev1.ServiceTypeLoadBalancer && !equal(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		errs = append(errs, field.Invalid(path.Child("loadBalancerClass"), s.Spec.LoadBalancerClass, unchangeable))
	}
	return append(errs, f.validateSpec(s)...)
}

// keepsClusterIPs: an address is for life. Only the second one may come and go, with the policy that says so.
func keepsClusterIPs(s, old *corev1.Service, path *field.Path) field.ErrorList {
	now, was := s.Spec.ClusterIPs, old.Spec.ClusterIPs
	at := path.Child("clusterIPs")
	switch {
	case len(was) == 0:
		return nil
	case len(now) == 0:
		return field.ErrorList{field.Invalid(at.Index(0), now, "primary clusterIP can not be unset")}
	}
	var errs field.ErrorList
	for i := range min(len(now), len(was)) {
		if now[i] != was[i] {
			errs = append(errs, field.Invalid(at.Index(i), now, unchangeable))
		}
	}
	if len(was) == 2 && len(now) == 1 && (s.Spec.IPFamilyPolicy == nil || *s.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack) {
		errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), s.Spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary clusterIP"))
	}
	return errs
}

func validateServiceStatusUpdate(s, old *corev1.Service) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&s.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	path := field.NewPath("status", "loadBalancer")
	ingress := s.Status.LoadBalancer.Ingress
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer && len(ingress) > 0 {
		errs = append(errs, field.Forbidden(path.Child("ingress"), "may only be used when `spec.type` is \"LoadBalancer\""))
	}
	for i, entry := range ingress {
		at := path.Child("ingress").Index(i)
		if entry.IP != "" {
			errs = append(errs, validation.IsValidIPForLegacyField(at.Child("ip"), entry.IP, false, nil)...)
			if entry.IPMode == nil {
				errs = append(errs, field.Required(at.Child("ipMode"), "must be specified when `ip` is set"))
			} else {
				errs = append(errs, oneOf(at.Child("ipMode"), *entry.IPMode, corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy)...)
			}
		} else if entry.IPMode != nil {
			errs = append(errs, field.Forbidden(at.Child("ipMode"), "may not be specified when `ip` is not set"))
		}
		if entry.Hostname != "" {
			errs = append(errs, invalid(at.Child("hostname"), entry.Hostname, validation.IsDNS1123Subdomain(entry.Hostname))...)
			if _, err := netip.ParseAddr(entry.Hostname); err == nil {
				errs = append(errs, field.Invalid(at.Child("hostname"), entry.Hostname, "must be a DNS name, not an IP address"))
			}
		}
	}
	return errs
}
