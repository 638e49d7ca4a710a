package proxy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stale selects conntrack entries of one UDP flow that lead where they should no longer lead.
type stale struct {
	Flow flow
	// Gone are endpoints that are no longer used.
	Gone []netip.AddrPort
	// Direct also selects entries that were never redirected: made while there was no endpoint.
	Direct bool
}

// staleFlows says which conntrack entries have to go when a Service's fragment becomes another. Only UDP is concerned: a
// TCP connection to a dead endpoint ends by itself, a UDP client that keeps its port keeps its entry alive.
func staleFlows(old, now *fragment) []stale {
	var out []stale
	if old == nil {
		old = &fragment{}
	}
	if now == nil {
		now = &fragment{}
	}
	for f, before := range old.UDP {
		var gone []netip.AddrPort
		for _, ep := range before {
			if !slices.Contains(now.UDP[f], ep) {
				gone = append(gone, ep)
			}
		}
		if len(gone) > 0 {
			out = append(out, stale{Flow: f, Gone: gone})
		}
	}
	for f, after := range now.UDP {
		if len(after) > 0 && len(old.UDP[f]) == 0 {
			out = append(out, stale{Flow: f, Direct: true})
		}
	}
	return out
}

// staleFilter is a netlink.CustomConntrackFilter.
type staleFilter []stale

func (s staleFilter) MatchConntrackFlow(ct *netlink.ConntrackFlow) bool {
	if ct.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	dst, ok := netip.AddrFromSlice(ct.Forward.DstIP)
	if !ok {
		return false
	}
	from, ok := netip.AddrFromSlice(ct.Reverse.SrcIP) // where it was sent to
	if !ok {
		return false
	}
	dst, target := dst.Unmap(), netip.AddrPortFrom(from.Unmap(), ct.Reverse.SrcPort)
	return slices.ContainsFunc(s, func(st stale) bool {
		if st.Flow.Port != ct.Forward.DstPort || st.Flow.IP.IsValid() && st.Flow.IP != dst {
			return false
		}
		if st.Direct && target == netip.AddrPortFrom(dst, ct.Forward.DstPort) {
			return true
		}
		return slices.Contains(st.Gone, target)
	})
}

func deleteFlows(flows []stale) error {
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, staleFilter(flows)); err != nil {
		return fmt.Errorf("delete conntrack entries: %w", err)
	}
	return nil
}
