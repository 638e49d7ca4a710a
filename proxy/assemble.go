package proxy

import (
	"net/netip"

	"github.com/mini-k8s/mini/internal/iptables"
)

var anchors = []iptables.Anchor{
	{Table: "nat", Chain: "PREROUTING", Rule: []string{"-j", servicesChain}},
	{Table: "nat", Chain: "OUTPUT", Rule: []string{"-j", servicesChain}},
	{Table: "nat", Chain: "POSTROUTING", Rule: []string{"-j", postroutingChain}},
	// Each goes in front of the one before it.
	{Table: "filter", Chain: "FORWARD", Rule: []string{"-j", forwardChain}},
	{Table: "filter", Chain: "FORWARD", Rule: []string{"-m", "conntrack", "--ctstate", "NEW", "-j", rejectChain}},
	{Table: "filter", Chain: "INPUT", Rule: []string{"-j", inputChain}},
	{Table: "filter", Chain: "INPUT", Rule: []string{"-m", "conntrack", "--ctstate", "NEW", "-j", rejectChain}},
	{Table: "filter", Chain: "OUTPUT", Rule: []string{"-m", "conntrack", "--ctstate", "NEW", "-j", rejectChain}},
}

// facts are what the rule set depends on besides Services.
type facts struct {
	Masquerade   string         // the target
	ServiceCIDRs []netip.Prefix // none if they are not known
}

// assemble joins the fragments of all Services into the whole rule set.
func assemble(fragments map[string]*fragment, n facts) iptables.Chains {
	nat := map[string][]string{
		servicesChain: nil,
		postroutingChain: {
			"-m mark ! --mark " + mark + " -j RETURN",
			// Off again, so that a packet which meets another such rule (a tunnel's) is not caught twice.
			"-j MARK --xor-mark 0x4000",
			"-j " + n.Masquerade,
		},
	}
	filter := map[string][]string{
		rejectChain: nil,
		forwardChain: {
			// An answer that conntrack cannot place would leave with a pod's address, and the client would reset the
			// connection.
			"-m conntrack --ctstate INVALID -j DROP",
			"-m mark --mark " + mark + " -j ACCEPT",
			"-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		},
		inputChain: {
			// route_localnet, which node ports on 127.0.0.1 need, would let neighbours speak to the node's loopback.
			"! -i lo -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
		},
	}
	var addrs, rejectAddrs []binding
	ports, rejectPorts := map[string][]binding{}, map[string][]binding{}
	for _, f := range fragments {
		for name, rules := range f.Chains {
			nat[name] = rules
		}
		addrs = append(addrs, f.Addrs...)
		rejectAddrs = append(rejectAddrs, f.RejectAddrs...)
		for _, b := range f.Ports {
			ports[b.Proto] = append(ports[b.Proto], b)
		}
		for _, b := range f.RejectPorts {
			rejectPorts[b.Proto] = append(rejectPorts[b.Proto], b)
		}
	}
	layOut(nat, servicesChain, nodePortsChain, "A-", "", addrs, ports)
	layOut(filter, rejectChain, rejectPortsChain, "RA-", "R", rejectAddrs, rejectPorts)
	for _, cidr := range n.ServiceCIDRs {
		// Nobody has such an address, but the node the cluster DNS's. It is dropped rather than rejected, so that a client
		// that is faster than the rules of a new Service tries again.
		filter[rejectChain] = append(filter[rejectChain], "-d "+cidr.String()+" -m addrtype ! --dst-type LOCAL -j DROP")
	}
	return iptables.Chains{"nat": nat, "filter": filter}
}

// layOut makes the trees of a table: addresses below root, node ports, last, below portsRoot. infix and portInfix name
// their chains.
func layOut(out map[string][]string, root, portsRoot, infix, portInfix string, addrs []binding, ports map[string][]binding) {
	if len(addrs) > 0 {
		addrTree(out, infix).add(root, sorted(addrs))
	}
	if len(ports) == 0 {
		return
	}
	out[root] = append(out[root], "-m addrtype --dst-type LOCAL -j "+portsRoot)
	for _, p := range []struct{ proto, infix string }{{"tcp", "PT-"}, {"udp", "PU-"}, {"sctp", "PS-"}} {
		if len(ports[p.proto]) > 0 {
			portTree(out, portInfix+p.infix, p.proto).add(portsRoot, sorted(ports[p.proto]))
		}
	}
}
