package core

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/store"
)

// defaultServiceCIDR is the ServiceCIDR of the server's own ranges.
const defaultServiceCIDR = "kubernetes"

// serviceRange is a range of cluster addresses.
type serviceRange struct {
	cidr netip.Prefix
	open bool // addresses are given out of it
}

// planRanges says which ranges there are: the server's own first, in their order, then those of ServiceCIDRs by name, each
// once. A ServiceCIDR gives out addresses while it is Ready and not being deleted (KEP-1880). The server's own ranges do so
// from the beginning, and only stop with the ServiceCIDR that stands for them. Ranges may overlap: what is taken is known by
// the address, not by the range it came from.
func planRanges(own []netip.Prefix, cidrs []*networkingv1.ServiceCIDR) []serviceRange {
	var out []serviceRange
	add := func(p netip.Prefix, open bool) {
		if i := slices.IndexFunc(out, func(r serviceRange) bool { return r.cidr == p }); i >= 0 {
			out[i].open = out[i].open || open
			return
		}
		out = append(out, serviceRange{p, open})
	}
	closed := map[netip.Prefix]bool{}
	for _, c := range cidrs {
		if c.Name != defaultServiceCIDR || c.DeletionTimestamp == nil && !meta.IsStatusConditionFalse(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady) {
			continue
		}
		for _, text := range c.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				closed[p.Masked()] = true
			}
		}
	}
	for _, p := range own {
		add(p.Masked(), !closed[p.Masked()])
	}
	sorted := slices.SortedFunc(slices.Values(cidrs), func(a, b *networkingv1.ServiceCIDR) int { return strings.Compare(a.Name, b.Name) })
	for _, c := range sorted {
		open := c.DeletionTimestamp == nil && meta.IsStatusConditionPresentAndEqual(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady, metav1.ConditionTrue)
		for _, text := range c.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				add(p.Masked(), open)
			}
		}
	}
	return out
}

// serviceRanges are the ranges as the cache knows them, or as etcd does. A ServiceCIDR that goes waits longer than a cache
// may be behind.
func (a *Allocators) serviceRanges(ctx context.Context, fresh bool) ([]serviceRange, error) {
	version := "0"
	if fresh {
		version = ""
	}
	list, err := a.deps.Collection("servicecidrs", networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR")).List(ctx, store.ListOptions{ResourceVersion: version})
	if err != nil {
		return nil, fmt.Errorf("listing servicecidrs: %w", err)
	}
	cidrs := make([]*networkingv1.ServiceCIDR, len(list.Items))
	for i, item := range list.Items {
		cidrs[i] = item.Object.(*networkingv1.ServiceCIDR)
	}
	return planRanges(a.deps.ServiceCIDRs, cidrs), nil
}

// inRange says whether an address may be asked for: it is a usable one of an open range.
func (a *Allocators) inRange(ctx context.Context, addr netip.Addr) (bool, error) {
	for _, fresh := range []bool{false, true} {
		ranges, err := a.serviceRanges(ctx, fresh)
		if err != nil || holds(ranges, addr, false) {
			return err == nil, err
		}
	}
	return false, nil
}

// holds says whether one of the ranges has the address as a usable one; closed ones count if closed is true.
func holds(ranges []serviceRange, addr netip.Addr, closed bool) bool {
	return slices.ContainsFunc(ranges, func(r serviceRange) bool {
		if !r.open && !closed {
			return false
		}
		pool := newAddressPool(r.cidr)
		return pool.contains(addr)
	})
}
