package cni

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// vxlanOverhead is what the tunnel adds to a packet: IPv4, UDP and VXLAN headers and the inner Ethernet header.
const vxlanOverhead = 50

// uplink is the interface that holds the node's address.
type uplink struct {
	Index  int
	MTU    int
	Prefix netip.Prefix // the node's address with the length of its subnet
	Held   bool         // the interface really holds the address: behind a NAT it does not
}

// peer is another node.
type peer struct {
	Name    string
	IP      netip.Addr
	PodCIDR netip.Prefix
}

// snapshot is all that plan decides from.
type snapshot struct {
	Bridge      string
	ClusterCIDR netip.Prefix
	PodCIDR     netip.Prefix // of this node
	Uplink      uplink
	Peers       []peer
}

// route is a way to another node's pods, or to that node's address for what our pods send.
type route struct {
	Dst    netip.Prefix
	Via    netip.Addr
	Src    netip.Addr // of what the node itself sends; invalid leaves it to the kernel
	Tunnel bool       // through the VXLAN device rather than the uplink
	Table  int
}

// tunnelEnd is the forwarding entry for one node behind the tunnel.
type tunnelEnd struct {
	Inner netip.Addr // of the far device
	Outer netip.Addr // of the far node
}

// network is what a node's kernel must hold besides the pods' own links.
type network struct {
	Segment    segment      `json:"segment"`
	Nodes      []netip.Addr `json:"nodes"` // addresses of all other nodes, in order
	Routes     []route      `json:"-"`
	Tunnel     bool         `json:"-"`
	TunnelEnds []tunnelEnd  `json:"-"`
}

const (
	mainTable = 254
	// tunnelTable holds, for what pods send only, the routes to the addresses of nodes behind the tunnel. The node itself
	// must keep reaching them directly, or the tunnel would carry itself.
	tunnelTable = 109
)

// plan decides what the node's kernel must hold. A node whose address is in the uplink's subnet gets a plain route, any
// other is reached through the tunnel. Peers whose podCIDR overlaps ours or an earlier one's are left out: a wrong route
// would do more harm than none.
func plan(s snapshot) network {
	n := network{Segment: segment{
		Bridge: s.Bridge, PodCIDR: s.PodCIDR.Masked(), ClusterCIDR: s.ClusterCIDR.Masked(), MTU: s.Uplink.MTU,
	}}
	peers := slices.Clone(s.Peers)
	slices.SortFunc(peers, func(a, b peer) int {
		if c := a.IP.Compare(b.IP); c != 0 {
			return c
		}
		return a.PodCIDR.Addr().Compare(b.PodCIDR.Addr())
	})
	taken := []netip.Prefix{s.PodCIDR}
	// The node is known to pods by one address everywhere; they answer it through the tunnel by tunnelTable.
	var src netip.Addr
	if s.Uplink.Held {
		src = s.Uplink.Prefix.Addr()
	}
	for _, p := range peers {
		if p.IP == s.Uplink.Prefix.Addr() {
			continue
		}
		if !slices.Contains(n.Nodes, p.IP) {
			n.Nodes = append(n.Nodes, p.IP)
		}
		if !p.PodCIDR.IsValid() || slices.ContainsFunc(taken, p.PodCIDR.Overlaps) {
			continue
		}
		taken = append(taken, p.PodCIDR)
		if s.Uplink.Prefix.Contains(p.IP) {
			n.Routes = append(n.Routes, route{Dst: p.PodCIDR.Masked(), Via: p.IP, Table: mainTable})
			continue
		}
		n.Tunnel = true
		inner := p.PodCIDR.Masked().Addr()
		n.TunnelEnds = append(n.TunnelEnds, tunnelEnd{Inner: inner, Outer: p.IP})
		n.Routes = append(n.Routes,
			route{Dst: p.PodCIDR.Masked(), Via: inner, Src: src, Tunnel: true, Table: mainTable},
			route{Dst: netip.PrefixFrom(p.IP, 32), Via: inner, Tunnel: true, Table: tunnelTable})
	}
	if n.Tunnel {
		n.Segment.MTU -= vxlanOverhead
	}
	return n
}

// peerOf reads a Node. ok is false if it has no IPv4 InternalIP yet.
func peerOf(node *corev1.Node) (p peer, ok bool) {
	p.Name = node.Name
	for _, a := range node.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP && ip.Is4() {
			p.IP = ip
			break
		}
	}
	p.PodCIDR = podCIDR(node)
	return p, p.IP.IsValid()
}

// podCIDR is the node's IPv4 range, or the zero Prefix.
func podCIDR(node *corev1.Node) netip.Prefix {
	for _, s := range append([]string{node.Spec.PodCIDR}, node.Spec.PodCIDRs...) {
		if p, err := netip.ParsePrefix(s); err == nil && p.Addr().Is4() && p.Bits() <= 30 {
			return p.Masked()
		}
	}
	return netip.Prefix{}
}
