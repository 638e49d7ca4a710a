package proxy

import (
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"
)

// watchRanges registers for ServiceCIDRs, whose ranges ClusterIPs are given out of besides the configured one (KEP-1880).
func (p *Proxy) watchRanges() error {
	if !p.cfg.ServiceCIDR.IsValid() {
		return nil
	}
	cidrs := p.cfg.Informers.Networking().V1().ServiceCIDRs()
	p.cidrs = cidrs.Lister()
	moved := func() {
		p.mu.Lock()
		p.moved = true
		p.mu.Unlock()
		select {
		case p.changed <- struct{}{}:
		default:
		}
	}
	reg, err := cidrs.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { moved() },
		UpdateFunc: func(old, now any) {
			o, ok := old.(*networkingv1.ServiceCIDR)
			n, ok2 := now.(*networkingv1.ServiceCIDR)
			if !ok || !ok2 || !slices.Equal(o.Spec.CIDRs, n.Spec.CIDRs) {
				moved()
			}
		},
		DeleteFunc: func(any) { moved() },
	})
	if err != nil {
		return err
	}
	p.synced = append(p.synced, reg.HasSynced)
	return nil
}

// ranges are those of ClusterIPs as they are now.
func (p *Proxy) ranges() []netip.Prefix {
	if p.cidrs == nil {
		return nil
	}
	cidrs, _ := p.cidrs.List(labels.Everything()) // a lister's cache cannot fail
	return planRanges(p.cfg.ServiceCIDR.Masked(), p.cfg.ClusterCIDR, p.cfg.NodeIP, cidrs)
}

// planRanges returns the configured range and then the IPv4 ranges of ServiceCIDRs, sorted, without those inside another. A
// range that has pods or the node in it is left out: dropping what no Service has would cut them off, and Services in it work
// all the same wherever the node has a route there.
func planRanges(configured, pods netip.Prefix, node netip.Addr, cidrs []*networkingv1.ServiceCIDR) []netip.Prefix {
	var more []netip.Prefix
	for _, c := range cidrs {
		for _, text := range c.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Is4() && !p.Overlaps(pods) && !p.Contains(node) {
				more = append(more, p.Masked())
			}
		}
	}
	slices.SortFunc(more, func(a, b netip.Prefix) int { // the larger first
		if a.Bits() != b.Bits() {
			return a.Bits() - b.Bits()
		}
		return a.Addr().Compare(b.Addr())
	})
	out := []netip.Prefix{configured}
	for _, p := range more {
		if !slices.ContainsFunc(out, func(o netip.Prefix) bool { return o.Bits() <= p.Bits() && o.Contains(p.Addr()) }) {
			out = append(out, p)
		}
	}
	return out
}
