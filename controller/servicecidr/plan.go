package servicecidr

import (
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The finalizer and the label's value are upstream's.
const (
	finalizer = "networking.k8s.io/service-cidr-finalizer"
	allocator = "ipallocator.k8s.io"
)

// ready and terminating are what the condition Ready says.
var (
	ready = metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: "Kubernetes Service CIDR is ready",
	}
	terminating = metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionFalse, Reason: networkingv1.ServiceCIDRReasonTerminating,
		Message: "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
	}
)

// changes are the next step of a ServiceCIDR: a finalizer to be added or taken away, and a condition to be set.
type changes struct {
	protect, release bool
	condition        *metav1.Condition
}

// plan decides for one of all ServiceCIDRs; addresses are those that the allocator gave out.
func plan(c *networkingv1.ServiceCIDR, all []*networkingv1.ServiceCIDR, addresses []netip.Addr) changes {
	has := slices.Contains(c.Finalizers, finalizer)
	switch {
	case c.DeletionTimestamp == nil:
		return changes{protect: !has, condition: unlessSet(c, ready)}
	case !has:
		return changes{}
	case free(c, all, addresses):
		return changes{release: true}
	}
	return changes{condition: unlessSet(c, terminating)}
}

func unlessSet(c *networkingv1.ServiceCIDR, want metav1.Condition) *metav1.Condition {
	for _, have := range c.Status.Conditions {
		if have.Type == want.Type && have.Status == want.Status && have.Reason == want.Reason && have.Message == want.Message {
			return nil
		}
	}
	return &want
}

// free says whether no address would be left without a ServiceCIDR if c went.
func free(c *networkingv1.ServiceCIDR, all []*networkingv1.ServiceCIDR, addresses []netip.Addr) bool {
	var others []netip.Prefix
	for _, o := range all {
		if o.Name != c.Name {
			others = append(others, prefixes(o)...)
		}
	}
	own := prefixes(c)
	inOthers := func(p netip.Prefix) bool {
		return slices.ContainsFunc(others, func(o netip.Prefix) bool { return o.Bits() <= p.Bits() && o.Contains(p.Addr()) })
	}
	if !slices.ContainsFunc(own, func(p netip.Prefix) bool { return !inOthers(p) }) {
		return true
	}
	return !slices.ContainsFunc(addresses, func(a netip.Addr) bool { return contains(own, a) && !contains(others, a) })
}

func prefixes(c *networkingv1.ServiceCIDR) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range c.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

func contains(ranges []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) })
}

// overlap says whether the two have addresses in common.
func overlap(a, b *networkingv1.ServiceCIDR) bool {
	for _, p := range prefixes(a) {
		if slices.ContainsFunc(prefixes(b), p.Overlaps) {
			return true
		}
	}
	return false
}
