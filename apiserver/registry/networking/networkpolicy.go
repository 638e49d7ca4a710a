package networking

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/mini-k8s/mini/apiserver/registry"
)

// NetworkPolicy is the row of networkpolicies.
func NetworkPolicy() registry.Resource {
	return registry.Resource{
		GVK: networkingv1.SchemeGroupVersion.WithKind("NetworkPolicy"), Name: "networkpolicies", Singular: "networkpolicy", ShortNames: []string{"netpol"}, Namespaced: true,
		Default: registry.Defaulter(defaultPolicy),
		Strategy: registry.Counted(registry.Strategy{
			Validate: registry.Validate(func(p *networkingv1.NetworkPolicy) field.ErrorList {
				return append(registry.ValidateMeta(p, true, apivalidation.NameIsDNSSubdomain), policyCheck{}.validate(&p.Spec, field.NewPath("spec"))...)
			}),
			ValidateUpdate: registry.ValidateUpdate(func(p, old *networkingv1.NetworkPolicy) field.ErrorList {
				c := policyCheck{
					selectors: metav1validation.LabelSelectorValidationOptions{
						AllowInvalidLabelValueInSelector: len(metav1validation.ValidateLabelSelector(&old.Spec.PodSelector, metav1validation.LabelSelectorValidationOptions{}, nil)) > 0,
					},
				}
				eachBlock(&old.Spec, nil, func(b *networkingv1.IPBlock, _ *field.Path) { c.had = append(append(c.had, b.CIDR), b.Except...) })
				return append(registry.ValidateMetaUpdate(p, old), c.validate(&p.Spec, field.NewPath("spec"))...)
			}),
			Warnings: registry.Warn(func(p, _ *networkingv1.NetworkPolicy) []string {
				var out []string
				eachBlock(&p.Spec, field.NewPath("spec"), func(b *networkingv1.IPBlock, path *field.Path) {
					out = append(out, validation.GetWarningsForCIDR(path.Child("cidr"), b.CIDR)...)
					for i, e := range b.Except {
						out = append(out, validation.GetWarningsForCIDR(path.Child("except").Index(i), e)...)
					}
				})
				return out
			}),
			UnconditionalUpdate: true,
		}, func(p *networkingv1.NetworkPolicy) any { return p.Spec }),
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(), registry.Column("Pod-Selector", "The pods that it is about"), registry.AgeColumn(),
			},
			Cells: registry.Cells(func(p *networkingv1.NetworkPolicy) []any {
				return []any{p.Name, metav1.FormatLabelSelector(&p.Spec.PodSelector), registry.Age(p.CreationTimestamp)}
			}),
		},
	}
}

func defaultPolicy(p *networkingv1.NetworkPolicy) {
	ports := func(ports []networkingv1.NetworkPolicyPort) {
		for i := range ports {
			if ports[i].Protocol == nil {
				ports[i].Protocol = ptr.To(corev1.ProtocolTCP)
			}
		}
	}
	for i := range p.Spec.Ingress {
		ports(p.Spec.Ingress[i].Ports)
	}
	for i := range p.Spec.Egress {
		ports(p.Spec.Egress[i].Ports)
	}
	if len(p.Spec.PolicyTypes) == 0 {
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(p.Spec.Egress) > 0 {
			p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
}

// eachBlock calls f with every block of addresses and its path.
func eachBlock(spec *networkingv1.NetworkPolicySpec, path *field.Path, f func(*networkingv1.IPBlock, *field.Path)) {
	peers := func(peers []networkingv1.NetworkPolicyPeer, path *field.Path) {
		for i := range peers {
			if b := peers[i].IPBlock; b != nil {
				f(b, path.Index(i).Child("ipBlock"))
			}
		}
	}
	for i := range spec.Ingress {
		peers(spec.Ingress[i].From, path.Child("ingress").Index(i).Child("from"))
	}
	for i := range spec.Egress {
		peers(spec.Egress[i].To, path.Child("egress").Index(i).Child("to"))
	}
}

// policyCheck judges a policy; on update the ranges that the old one had may stay as they are.
type policyCheck struct {
	selectors metav1validation.LabelSelectorValidationOptions
	had       []string
}

func (c policyCheck) validate(spec *networkingv1.NetworkPolicySpec, path *field.Path) field.ErrorList {
	errs := metav1validation.ValidateLabelSelector(&spec.PodSelector, c.selectors, path.Child("podSelector"))
	for i, rule := range spec.Ingress {
		errs = append(errs, c.rule(rule.Ports, rule.From, path.Child("ingress").Index(i), "from")...)
	}
	for i, rule := range spec.Egress {
		errs = append(errs, c.rule(rule.Ports, rule.To, path.Child("egress").Index(i), "to")...)
	}
	types := []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	if len(spec.PolicyTypes) > len(types) {
		return append(errs, field.Invalid(path.Child("policyTypes"), &spec.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range spec.PolicyTypes {
		if !slices.Contains(types, t) {
			errs = append(errs, field.NotSupported(path.Child("policyTypes").Index(i), t, types))
		}
	}
	return errs
}

func (c policyCheck) rule(ports []networkingv1.NetworkPolicyPort, peers []networkingv1.NetworkPolicyPeer, path *field.Path, peersField string) field.ErrorList {
	var errs field.ErrorList
	for i := range ports {
		errs = append(errs, validatePolicyPort(&ports[i], path.Child("ports").Index(i))...)
	}
	for i := range peers {
		errs = append(errs, c.peer(&peers[i], path.Child(peersField).Index(i))...)
	}
	return errs
}

func validatePolicyPort(p *networkingv1.NetworkPolicyPort, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p.Protocol != nil && !slices.Contains(protocols, *p.Protocol) {
		errs = append(errs, field.NotSupported(path.Child("protocol"), *p.Protocol, protocols))
	}
	end := path.Child("endPort")
	switch {
	case p.Port == nil:
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is not specified"))
		}
	case p.Port.Type == intstr.Int:
		errs = append(errs, registry.Invalid(path.Child("port"), p.Port.IntVal, validation.IsValidPortNum(int(p.Port.IntVal)))...)
		if p.EndPort != nil {
			if *p.EndPort < p.Port.IntVal {
				errs = append(errs, field.Invalid(end, p.Port.IntVal, "must be greater than or equal to `port`"))
			}
			errs = append(errs, registry.Invalid(end, *p.EndPort, validation.IsValidPortNum(int(*p.EndPort)))...)
		}
	default:
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is non-numeric"))
		}
		errs = append(errs, registry.Invalid(path.Child("port"), p.Port.StrVal, validation.IsValidPortName(p.Port.StrVal))...)
	}
	return errs
}

func (c policyCheck) peer(p *networkingv1.NetworkPolicyPeer, path *field.Path) field.ErrorList {
	errs := metav1validation.ValidateLabelSelector(p.PodSelector, c.selectors, path.Child("podSelector"))
	errs = append(errs, metav1validation.ValidateLabelSelector(p.NamespaceSelector, c.selectors, path.Child("namespaceSelector"))...)
	selects := p.PodSelector != nil || p.NamespaceSelector != nil
	if p.IPBlock != nil {
		errs = append(errs, c.block(p.IPBlock, path.Child("ipBlock"))...)
	}
	switch {
	case p.IPBlock == nil && !selects:
		errs = append(errs, field.Required(path, "must specify a peer"))
	case p.IPBlock != nil && selects:
		errs = append(errs, field.Forbidden(path, "may not specify both ipBlock and another peer"))
	}
	return errs
}

func (c policyCheck) block(b *networkingv1.IPBlock, path *field.Path) field.ErrorList {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(path.Child("cidr"), "")}
	}
	errs := validation.IsValidCIDRForLegacyField(path.Child("cidr"), b.CIDR, true, c.had)
	cidr, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return errs
	}
	for i, e := range b.Except {
		at := path.Child("except").Index(i)
		errs = append(errs, validation.IsValidCIDRForLegacyField(at, e, true, c.had)...)
		if except, err := netip.ParsePrefix(e); err == nil && (!cidr.Contains(except.Addr()) || cidr.Bits() >= except.Bits()) {
			errs = append(errs, field.Invalid(at, e, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}
