package proxy

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
)

const (
	// chainPrefix begins the name of every chain of this package.
	chainPrefix = "MINI-P-"

	servicesChain    = chainPrefix + "SERVICES"
	postroutingChain = chainPrefix + "POSTROUTING"
	nodePortsChain   = chainPrefix + "NODEPORTS"
	rejectChain      = chainPrefix + "REJECT"
	rejectPortsChain = chainPrefix + "REJECTPORTS"
	forwardChain     = chainPrefix + "FORWARD"
	inputChain       = chainPrefix + "INPUT"

	// mark is the bit, the same as upstream's, of packets whose source is to be masqueraded.
	mark = "0x4000/0x4000"
	// markTarget sets it.
	markTarget = "-j MARK --set-xmark " + mark
)

// binding leads from an address or a node port to what is to happen.
type binding struct {
	Key   uint32 // the address, or the port
	Proto string // "" for addresses: their rules match the protocol themselves
	Rules []string
}

// flow is what conntrack knows the clients of a UDP port by: an address and port, or a node port on any address.
type flow struct {
	IP   netip.Addr // the zero Addr is any
	Port uint16
}

// fragment is what one Service contributes to the rule set.
type fragment struct {
	Chains      map[string][]string // of the nat table
	Addrs       []binding           // nat, by destination address
	Ports       []binding           // nat, by node port
	RejectAddrs []binding           // filter, by destination address
	RejectPorts []binding           // filter, by node port
	UDP         map[flow][]netip.AddrPort
}

// render makes the fragment of a Service from its ports.
func render(ports []servicePort, clusterCIDR netip.Prefix, nodePorts bool) *fragment {
	f := &fragment{Chains: map[string][]string{}, UDP: map[flow][]netip.AddrPort{}}
	for i := range ports {
		p := ports[i]
		if !nodePorts {
			p.NodePort = 0
		}
		f.addPort(&p, clusterCIDR.String())
	}
	return f
}

func (f *fragment) addPort(p *servicePort, cluster string) {
	match := func(ip netip.Addr) string {
		return fmt.Sprintf("-d %s/32 -p %s -m %s --dport %d", ip, p.Protocol, p.Protocol, p.Port)
	}
	portMatch := fmt.Sprintf("-p %s -m %s --dport %d", p.Protocol, p.Protocol, p.NodePort)
	note := fmt.Sprintf("-m comment --comment %q", p.Name)
	svc, loc, ext := chainName("SVC-", p), chainName("LOC-", p), chainName("EXT-", p)

	var useSvc, useLoc, useExt bool
	to := func(ip netip.Addr, rules ...string) {
		f.Addrs = append(f.Addrs, binding{Key: key(ip), Rules: rules})
	}
	// The kernel sends a client few ICMP errors a second, and none at all looks like a dead network; resets it always sends.
	reject := "REJECT"
	if p.Protocol == "tcp" {
		reject += " --reject-with tcp-reset"
	}
	refuse := func(ip netip.Addr, target string) {
		f.RejectAddrs = append(f.RejectAddrs, binding{Key: key(ip), Rules: []string{match(ip) + " " + note + " -j " + target}})
	}

	// From inside, by ClusterIP.
	var masq []string
	for _, ip := range p.ClusterIPs {
		switch {
		case len(p.All) == 0 && (!p.InternalLocal || len(p.Local) == 0):
			refuse(ip, reject)
		case p.InternalLocal && len(p.Local) == 0:
			refuse(ip, "DROP")
		case p.InternalLocal:
			useLoc = true
			to(ip, match(ip)+" "+note+" -j "+loc)
		default:
			useSvc = true
			to(ip, match(ip)+" "+note+" -j "+svc)
		}
		masq = append(masq, "! -s "+cluster+" "+match(ip)+" "+markTarget)
	}

	// From outside.
	noExternal := ""
	switch {
	case len(p.All) == 0 && len(p.Local) == 0:
		noExternal = reject
	case p.ExternalLocal && len(p.Local) == 0:
		noExternal = "DROP" // a load balancer shall try another node
	}
	if noExternal != reject {
		// Under the Local policy pods and the node itself still reach all endpoints.
		for _, ip := range p.External {
			useExt = true
			to(ip, match(ip)+" "+note+" -j "+ext)
		}
		for _, ip := range p.Guarded {
			useExt = true
			var rules []string
			for _, src := range p.Sources {
				rules = append(rules, "-s "+src.String()+" "+match(ip)+" "+note+" -j "+ext)
			}
			to(ip, rules...)
		}
		if p.NodePort != 0 {
			useExt = true
			f.Ports = append(f.Ports, binding{Key: uint32(p.NodePort), Proto: p.Protocol, Rules: []string{portMatch + " " + note + " -j " + ext}})
		}
	}
	if noExternal != "" {
		for _, ip := range p.External {
			refuse(ip, noExternal)
		}
		if p.NodePort != 0 {
			f.RejectPorts = append(f.RejectPorts, binding{Key: uint32(p.NodePort), Proto: p.Protocol, Rules: []string{portMatch + " " + note + " -j " + noExternal}})
		}
	}
	for _, ip := range p.Guarded {
		// What came from an allowed source has another destination by now.
		if noExternal == reject {
			refuse(ip, reject)
		} else {
			refuse(ip, "DROP")
		}
	}

	if useExt {
		useSvc = true
		if p.ExternalLocal {
			useLoc = len(p.Local) > 0
			rules := []string{
				"-s " + cluster + " -j " + svc,
				"-m addrtype --src-type LOCAL " + markTarget,
				"-m addrtype --src-type LOCAL -j " + svc,
			}
			if useLoc {
				rules = append(rules, "-j "+loc)
			}
			f.Chains[ext] = rules
			useLoc = useLoc || p.InternalLocal && len(p.Local) > 0
		} else {
			f.Chains[ext] = []string{markTarget, "-j " + svc}
			useLoc = p.InternalLocal && len(p.Local) > 0
		}
	}
	if useSvc {
		f.Chains[svc] = append(append([]string{}, masq...), f.balance(p, p.All)...)
	}
	if useLoc {
		var rules []string
		if p.InternalLocal {
			rules = append(rules, masq...)
		}
		f.Chains[loc] = append(rules, f.balance(p, p.Local)...)
	}
	f.addFlows(p)
}

// balance returns the rules that choose among eps, and adds the endpoints' chains.
func (f *fragment) balance(p *servicePort, eps []endpoint) []string {
	var rules []string
	if p.Affinity > 0 {
		for _, e := range eps {
			sep := endpointChain(p, e)
			rules = append(rules, fmt.Sprintf("-m recent --name %s --rcheck --seconds %d --reap -j %s", sep, p.Affinity, sep))
		}
	}
	for i, e := range eps {
		sep := endpointChain(p, e)
		chain := []string{"-s " + e.Addr.Addr().String() + "/32 " + markTarget} // a pod that reaches itself
		dnat := fmt.Sprintf("-p %s -m %s", p.Protocol, p.Protocol)
		if p.Affinity > 0 {
			dnat += " -m recent --name " + sep + " --set"
		}
		f.Chains[sep] = append(chain, dnat+" -j DNAT --to-destination "+e.Addr.String())
		if left := len(eps) - i; left > 1 {
			rules = append(rules, fmt.Sprintf("-m statistic --mode random --probability %s -j %s", probability(left), sep))
		} else {
			rules = append(rules, "-j "+sep)
		}
	}
	return rules
}

// probability is 1/n as iptables prints it.
func probability(n int) string { return strconv.FormatFloat(1/float64(n), 'f', 11, 64) }

func (f *fragment) addFlows(p *servicePort) {
	if p.Protocol != "udp" {
		return
	}
	var targets []netip.AddrPort
	for _, e := range distinct(append(append([]endpoint{}, p.All...), p.Local...)) {
		targets = append(targets, e.Addr)
	}
	for _, ips := range [][]netip.Addr{p.ClusterIPs, p.External, p.Guarded} {
		for _, ip := range ips {
			f.UDP[flow{IP: ip, Port: p.Port}] = targets
		}
	}
	if p.NodePort != 0 {
		f.UDP[flow{Port: p.NodePort}] = targets
	}
}

func chainName(kind string, p *servicePort) string {
	return chainPrefix + kind + digest(p.Name, p.Protocol)
}

func endpointChain(p *servicePort, e endpoint) string {
	return chainPrefix + "SEP-" + digest(p.Name, p.Protocol, e.Addr.String())
}

// digest is 80 bits as 16 letters and digits: chain names may have no more than 28 characters.
func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return base32.StdEncoding.EncodeToString(h.Sum(nil)[:10])
}

func key(ip netip.Addr) uint32 {
	b := ip.As4()
	return binary.BigEndian.Uint32(b[:])
}
