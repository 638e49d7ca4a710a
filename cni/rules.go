package cni

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mini-k8s/mini/internal/iptables"
)

const (
	// chainPrefix begins the name of every chain of this package.
	chainPrefix = "MINI-N-"
	// proxyPrefix begins the names of package proxy's chains: a Service without endpoints must be rejected before we
	// accept what pods send.
	proxyPrefix = "MINI-P-"

	postroutingChain = chainPrefix + "POSTROUTING"
	hostPortChain    = chainPrefix + "HOSTPORT"
	forwardChain     = chainPrefix + "FORWARD"
	inputChain       = chainPrefix + "INPUT"

	// masqueradeMark marks packets of hostPort connections whose source must become the bridge's address: those that a
	// pod sends to its own hostPort, and those from 127.0.0.1.
	masqueradeMark = "0x2000/0x2000"
)

var anchors = []iptables.Anchor{
	{Table: "nat", Chain: "PREROUTING", Rule: []string{"-m", "addrtype", "--dst-type", "LOCAL", "-j", hostPortChain}},
	{Table: "nat", Chain: "OUTPUT", Rule: []string{"-m", "addrtype", "--dst-type", "LOCAL", "-j", hostPortChain}},
	{Table: "nat", Chain: "POSTROUTING", Rule: []string{"-j", postroutingChain}},
	{Table: "filter", Chain: "INPUT", Rule: []string{"-j", inputChain}},
	{Table: "filter", Chain: "FORWARD", Rule: []string{"-j", forwardChain}, Behind: proxyPrefix},
}

// chains renders the rules of a node from its network and all its leases.
func chains(n network, ls []lease, masquerade string) iptables.Chains {
	seg := n.Segment
	postrouting := []string{
		"-m mark --mark " + masqueradeMark + " -j " + masquerade,
		fmt.Sprintf("! -s %s -j RETURN", seg.PodCIDR),
		fmt.Sprintf("-d %s -j RETURN", seg.ClusterCIDR),
		"-d 224.0.0.0/4 -j RETURN",
	}
	for _, ip := range n.Nodes {
		postrouting = append(postrouting, fmt.Sprintf("-d %s/32 -j RETURN", ip))
	}
	postrouting = append(postrouting, "-j "+masquerade)
	return iptables.Chains{
		"nat": {
			postroutingChain: postrouting,
			hostPortChain:    hostPortRules(ls),
		},
		"filter": {
			forwardChain: {
				fmt.Sprintf("-s %s -j ACCEPT", seg.ClusterCIDR),
				fmt.Sprintf("-d %s -j ACCEPT", seg.ClusterCIDR),
			},
			// route_localnet on the bridge, which hostPorts on 127.0.0.1 need, would let pods speak to what listens on
			// the node's loopback only.
			inputChain: {
				fmt.Sprintf("-i %s -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP", seg.Bridge),
			},
		},
	}
}

// hostPortRules renders the hostPorts of all leases, in the order of the leases' addresses.
func hostPortRules(ls []lease) []string {
	ls = slices.Clone(ls)
	slices.SortFunc(ls, func(a, b lease) int { return a.IP.Compare(b.IP) })
	var rules []string
	for _, l := range ls {
		for _, p := range l.Ports {
			proto := strings.ToLower(p.Protocol)
			if proto == "" {
				proto = "tcp"
			}
			match := fmt.Sprintf("-p %s -m %s --dport %d", proto, proto, p.HostPort)
			if p.HostIP != "" && p.HostIP != "0.0.0.0" {
				match = fmt.Sprintf("-d %s/32 %s", p.HostIP, match)
			}
			rules = append(rules,
				fmt.Sprintf("-s %s/32 %s -j MARK --set-xmark %s", l.IP, match, masqueradeMark),
				fmt.Sprintf("-s 127.0.0.0/8 %s -j MARK --set-xmark %s", match, masqueradeMark),
				fmt.Sprintf("%s -j DNAT --to-destination %s:%d", match, l.IP, p.ContainerPort))
		}
	}
	return rules
}

// validPorts checks what ends up in rules.
func validPorts(ports []PortMapping) error {
	for _, p := range ports {
		switch strings.ToLower(p.Protocol) {
		case "", "tcp", "udp", "sctp":
		default:
			return fmt.Errorf("hostPort %d: protocol %q is none of tcp, udp, sctp", p.HostPort, p.Protocol)
		}
		if p.HostPort < 1 || p.HostPort > 65535 || p.ContainerPort < 1 || p.ContainerPort > 65535 {
			return fmt.Errorf("hostPort %d to %d: not a port", p.HostPort, p.ContainerPort)
		}
		if p.HostIP != "" {
			if ip, err := netip.ParseAddr(p.HostIP); err != nil || !ip.Is4() {
				return fmt.Errorf("hostPort %d: hostIP %q is not an IPv4 address", p.HostPort, p.HostIP)
			}
		}
	}
	return nil
}

// portMatch selects the conntrack entries of connections to UDP hostPorts. Such an entry lives as long as packets come,
// and keeps sending them to where the port led when the first one came.
type portMatch map[uint16]bool

func (m portMatch) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	return flow.Forward.Protocol == unix.IPPROTO_UDP && m[flow.Forward.DstPort]
}

// forgetFlows deletes the conntrack entries of UDP hostPorts. It is a clean-up: that it failed changes nothing for new
// connections, so there is nobody to tell.
func forgetFlows(ports []PortMapping) {
	m := portMatch{}
	for _, p := range ports {
		if strings.EqualFold(p.Protocol, "udp") {
			m[uint16(p.HostPort)] = true
		}
	}
	if len(m) > 0 {
		_, _ = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, m)
	}
}
