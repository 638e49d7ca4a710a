package proxy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// staleFlows returns the UDP flows of a Service that may have conntrack entries which lead to a wrong place when its
// fragment old has become now, each with the endpoints that it has now. Only UDP is concerned: a TCP connection to a dead
// endpoint ends by itself, a UDP client that keeps its port keeps its entry alive.
func staleFlows(old, now *fragment) map[flow][]netip.AddrPort {
	if old == nil {
		old = &fragment{}
	}
	if now == nil {
		now = &fragment{}
	}
	out := map[flow][]netip.AddrPort{}
	for f, before := range old.UDP {
		if slices.ContainsFunc(before, func(ep netip.AddrPort) bool { return !slices.Contains(now.UDP[f], ep) }) {
			out[f] = now.UDP[f]
		}
	}
	for f, after := range now.UDP {
		// An entry may have been made while there was no endpoint, or, if we know nothing of before, in another life.
		if len(after) > 0 && len(old.UDP[f]) == 0 {
			out[f] = after
		}
	}
	return out
}

// staleFilter picks the conntrack entries of UDP flows that lead to none of the flow's endpoints.
type staleFilter struct {
	flows  map[flow][]netip.AddrPort
	nodeIP netip.Addr
}

var _ netlink.CustomConntrackFilter = staleFilter{}

// MatchConntrackFlow says whether an entry is to be deleted.
func (s staleFilter) MatchConntrackFlow(ct *netlink.ConntrackFlow) bool {
	if ct.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	dst, ok := netip.AddrFromSlice(ct.Forward.DstIP)
	if !ok {
		return false
	}
	answers, ok := netip.AddrFromSlice(ct.Reverse.SrcIP)
	if !ok {
		return false
	}
	dst = dst.Unmap()
	to, target := netip.AddrPortFrom(dst, ct.Forward.DstPort), netip.AddrPortFrom(answers.Unmap(), ct.Reverse.SrcPort)
	endpoints, own := s.flows[flow{dst, to.Port()}]
	if !own {
		// By node port, on any address of the node: what goes to the same port of another machine is not ours.
		if endpoints, own = s.flows[flow{Port: to.Port()}]; !own || to == target && dst != s.nodeIP && !dst.IsLoopback() {
			return false
		}
	}
	if to == target {
		return len(endpoints) > 0 // made while nothing redirected it
	}
	return !slices.Contains(endpoints, target)
}

func deleteFlows(filter staleFilter) error {
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filter); err != nil {
		return fmt.Errorf("delete conntrack entries: %w", err)
	}
	return nil
}
