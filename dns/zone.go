package dns

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/mini-k8s/mini/internal/endpointslices"
)

const (
	// ttl is in seconds, of answers that there are and of those that there are none: a Service may appear at any moment.
	ttl = 5
	// schemaVersion is the version of the DNS specification, which dns-version tells.
	schemaVersion = "1.1.0"

	byClusterIP  = "mini-cluster-ip"
	byEndpointIP = "mini-endpoint-ip"
)

// zone answers for the cluster domain and for the reverse names of the cluster's addresses.
type zone struct {
	domain   string         // cluster.local.
	address  netip.Addr     // of the server itself
	reverse  []netip.Prefix // ranges whose reverse names nobody else knows
	services cache.Indexer
	slices   cache.Indexer
}

// reply is an answer, but for its header.
type reply struct {
	Rcode  int
	Answer []dns.RR
	Extra  []dns.RR
	// Chase is the target of a CNAME that ends the answer and has yet to be resolved; "" if there is none.
	Chase string
}

// covers says whether the zone answers a name, which must be in lower case and fully qualified.
func (z *zone) covers(name string) bool {
	if dns.IsSubDomain(z.domain, name) {
		return true
	}
	ip, ok := reverseAddr(name)
	if !ok {
		return false
	}
	return slices.ContainsFunc(z.reverse, func(p netip.Prefix) bool { return p.Contains(ip) }) || len(z.pointers(name, ip)) > 0
}

// answer answers a question about a name that the zone covers. The names of what it returns are spelt as the question is.
func (z *zone) answer(q dns.Question) reply {
	name := strings.ToLower(q.Name)
	if ip, ok := reverseAddr(name); ok && !dns.IsSubDomain(z.domain, name) {
		names := z.pointers(q.Name, ip)
		if len(names) == 0 {
			return reply{Rcode: dns.RcodeNameError}
		}
		if q.Qtype != dns.TypePTR && q.Qtype != dns.TypeANY {
			return reply{}
		}
		return reply{Answer: names}
	}
	labels := dns.SplitDomainName(strings.TrimSuffix(name, z.domain))
	n := len(labels)
	switch {
	case n == 0:
		return z.apex(q)
	case n == 1 && labels[0] == "dns-version":
		if q.Qtype != dns.TypeTXT && q.Qtype != dns.TypeANY {
			return reply{}
		}
		return reply{Answer: []dns.RR{&dns.TXT{Hdr: header(q.Name, dns.TypeTXT), Txt: []string{schemaVersion}}}}
	case n == 1 && labels[0] == "dns":
		return reply{}
	case n == 2 && labels[1] == "dns" && labels[0] == "ns":
		return addresses(q, []netip.Addr{z.address})
	case labels[n-1] == "svc":
		return z.serviceName(q, labels[:n-1])
	case labels[n-1] == "pod":
		return z.podName(q, labels[:n-1])
	}
	return reply{Rcode: dns.RcodeNameError}
}

func (z *zone) apex(q dns.Question) reply {
	switch q.Qtype {
	case dns.TypeSOA:
		return reply{Answer: []dns.RR{z.soa()}}
	case dns.TypeNS:
		ns := "ns.dns." + z.domain
		return reply{
			Answer: []dns.RR{&dns.NS{Hdr: header(q.Name, dns.TypeNS), Ns: ns}},
			Extra:  []dns.RR{address(ns, z.address)},
		}
	}
	return reply{}
}

// soa is the authority of answers without records; its last field is how long these may be remembered (RFC 2308).
func (z *zone) soa() dns.RR {
	return &dns.SOA{
		Hdr: header(z.domain, dns.TypeSOA), Ns: "ns.dns." + z.domain, Mbox: "hostmaster." + z.domain,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl,
	}
}

// podName answers a-b-c-d.NAMESPACE.pod, for any address: like upstream's default it does not look for the pod.
func (z *zone) podName(q dns.Question, labels []string) reply {
	if len(labels) <= 1 {
		return reply{}
	}
	if len(labels) > 2 {
		return reply{Rcode: dns.RcodeNameError}
	}
	text := strings.ReplaceAll(labels[0], "-", ".")
	if strings.Count(labels[0], "-") != 3 {
		text = strings.ReplaceAll(labels[0], "-", ":")
	}
	ip, err := netip.ParseAddr(text)
	if err != nil || ip.Zone() != "" {
		return reply{Rcode: dns.RcodeNameError}
	}
	return addresses(q, []netip.Addr{ip})
}

// serviceName answers [[ENDPOINT | _PORT._PROTOCOL.] SERVICE.] NAMESPACE, all of .svc.
func (z *zone) serviceName(q dns.Question, labels []string) reply {
	n := len(labels)
	switch {
	case n == 0:
		return reply{}
	case n == 1:
		if keys, err := z.services.IndexKeys(cache.NamespaceIndex, labels[0]); err != nil || len(keys) == 0 {
			return reply{Rcode: dns.RcodeNameError}
		}
		return reply{}
	case n > 4:
		return reply{Rcode: dns.RcodeNameError}
	}
	object, ok, err := z.services.GetByKey(labels[n-1] + "/" + labels[n-2])
	if err != nil || !ok {
		return reply{Rcode: dns.RcodeNameError}
	}
	svc := object.(*corev1.Service)
	switch {
	case n == 2 && svc.Spec.Type == corev1.ServiceTypeExternalName:
		return external(q, svc)
	case n == 2:
		return z.service(q, svc)
	case n == 3 && (labels[0] == "_tcp" || labels[0] == "_udp" || labels[0] == "_sctp"):
		return reply{} // the name has no records, but names below it may
	case n == 3:
		return z.endpoint(q, svc, labels[0])
	}
	return z.portName(q, svc, labels[0], labels[1])
}

func external(q dns.Question, svc *corev1.Service) reply {
	target := dns.CanonicalName(svc.Spec.ExternalName)
	if _, ok := dns.IsDomainName(target); !ok || target == "." {
		return reply{}
	}
	out := reply{Answer: []dns.RR{&dns.CNAME{Hdr: header(q.Name, dns.TypeCNAME), Target: target}}}
	if q.Qtype != dns.TypeCNAME && q.Qtype != dns.TypeANY {
		out.Chase = target
	}
	return out
}

// host is an endpoint as DNS sees it.
type host struct {
	Name string // a label: the endpoint's hostname, or its address with dashes
	IP   netip.Addr
	Port []discoveryv1.EndpointPort
}

// hosts lists the endpoints of a Service that may be told, ordered and each once by name and address.
func (z *zone) hosts(svc *corev1.Service) []host {
	eps, err := endpointslices.Of(z.slices, svc.Namespace+"/"+svc.Name)
	if err != nil {
		return nil
	}
	var out []host
	for _, slice := range eps {
		for i := range slice.Endpoints {
			ep := &slice.Endpoints[i]
			if ep.Conditions.Ready != nil && !*ep.Conditions.Ready && !svc.Spec.PublishNotReadyAddresses {
				continue
			}
			for _, a := range ep.Addresses {
				if ip, err := netip.ParseAddr(a); err == nil {
					out = append(out, host{hostLabel(ep, ip), ip, slice.Ports})
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b host) int { return cmp.Or(a.IP.Compare(b.IP), cmp.Compare(a.Name, b.Name)) })
	return out
}

func hostLabel(ep *discoveryv1.Endpoint, ip netip.Addr) string {
	if ep.Hostname != nil && *ep.Hostname != "" {
		return *ep.Hostname
	}
	return strings.NewReplacer(".", "-", ":", "-").Replace(ip.String())
}

func (z *zone) service(q dns.Question, svc *corev1.Service) reply {
	if q.Qtype == dns.TypeSRV {
		return z.ports(q, svc, func(string, corev1.Protocol) bool { return true })
	}
	var ips []netip.Addr
	if headless(svc) {
		for _, h := range z.hosts(svc) {
			ips = append(ips, h.IP)
		}
	} else {
		ips = clusterIPs(svc)
	}
	return addresses(q, ips)
}

func (z *zone) endpoint(q dns.Question, svc *corev1.Service, label string) reply {
	var ips []netip.Addr
	for _, h := range z.hosts(svc) {
		if strings.EqualFold(h.Name, label) {
			ips = append(ips, h.IP)
		}
	}
	if len(ips) == 0 {
		return reply{Rcode: dns.RcodeNameError}
	}
	return addresses(q, ips)
}

func (z *zone) portName(q dns.Question, svc *corev1.Service, port, proto string) reply {
	if !strings.HasPrefix(port, "_") || !strings.HasPrefix(proto, "_") {
		return reply{Rcode: dns.RcodeNameError}
	}
	out := z.ports(q, svc, func(name string, protocol corev1.Protocol) bool {
		return strings.EqualFold(name, port[1:]) && strings.EqualFold(string(protocol), proto[1:])
	})
	if len(out.Answer) == 0 {
		return reply{Rcode: dns.RcodeNameError}
	}
	if q.Qtype != dns.TypeSRV && q.Qtype != dns.TypeANY {
		return reply{}
	}
	return out
}

// ports answers SRV for the ports that wanted picks: one record with the Service's own name, or, if it is headless, one
// for every endpoint. The addresses of the targets come along.
func (z *zone) ports(q dns.Question, svc *corev1.Service, wanted func(string, corev1.Protocol) bool) reply {
	base := svc.Name + "." + svc.Namespace + ".svc." + z.domain
	var out reply
	add := func(port uint16, target string, ips ...netip.Addr) {
		out.Answer = append(out.Answer, &dns.SRV{Hdr: header(q.Name, dns.TypeSRV), Port: port, Target: target})
		for _, ip := range ips {
			rr := address(target, ip)
			if !slices.ContainsFunc(out.Extra, func(have dns.RR) bool { return dns.IsDuplicate(have, rr) }) {
				out.Extra = append(out.Extra, rr)
			}
		}
	}
	switch {
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		return out
	case headless(svc):
		for _, h := range z.hosts(svc) {
			for _, p := range h.Port {
				if p.Port != nil && wanted(deref(p.Name), cmp.Or(deref(p.Protocol), corev1.ProtocolTCP)) {
					add(uint16(*p.Port), h.Name+"."+base, h.IP)
				}
			}
		}
	default:
		for _, p := range svc.Spec.Ports {
			if wanted(p.Name, cmp.Or(p.Protocol, corev1.ProtocolTCP)) {
				add(uint16(p.Port), base, clusterIPs(svc)...)
			}
		}
	}
	for _, rr := range out.Answer {
		rr.(*dns.SRV).Weight = uint16(max(1, 100/len(out.Answer)))
	}
	return out
}

// pointers answers a reverse lookup: the Service that has the address, or the endpoints that do.
func (z *zone) pointers(name string, ip netip.Addr) []dns.RR {
	var out []dns.RR
	add := func(target string) {
		out = append(out, &dns.PTR{Hdr: header(name, dns.TypePTR), Ptr: target})
	}
	if found, err := z.services.ByIndex(byClusterIP, ip.String()); err == nil && len(found) > 0 {
		for _, o := range found {
			svc := o.(*corev1.Service)
			add(svc.Name + "." + svc.Namespace + ".svc." + z.domain)
		}
		return out
	}
	found, err := z.slices.ByIndex(byEndpointIP, ip.String())
	if err != nil {
		return nil
	}
	for _, o := range found {
		slice := o.(*discoveryv1.EndpointSlice)
		service := slice.Labels[discoveryv1.LabelServiceName]
		if service == "" {
			continue
		}
		for i := range slice.Endpoints {
			ep := &slice.Endpoints[i]
			if slices.Contains(ep.Addresses, ip.String()) {
				add(hostLabel(ep, ip) + "." + service + "." + slice.Namespace + ".svc." + z.domain)
			}
		}
	}
	slices.SortFunc(out, func(a, b dns.RR) int { return cmp.Compare(a.(*dns.PTR).Ptr, b.(*dns.PTR).Ptr) })
	return out
}

// addresses answers A or AAAA with those of ips that are of the kind asked for, each once.
func addresses(q dns.Question, ips []netip.Addr) reply {
	var out reply
	for i, ip := range ips {
		kind := dns.TypeA
		if !ip.Is4() {
			kind = dns.TypeAAAA
		}
		if (q.Qtype == kind || q.Qtype == dns.TypeANY) && !slices.Contains(ips[:i], ip) {
			out.Answer = append(out.Answer, address(q.Name, ip))
		}
	}
	return out
}

func address(name string, ip netip.Addr) dns.RR {
	if ip.Is4() {
		return &dns.A{Hdr: header(name, dns.TypeA), A: net.IP(ip.AsSlice())}
	}
	return &dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: net.IP(ip.AsSlice())}
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

func headless(svc *corev1.Service) bool { return svc.Spec.ClusterIP == corev1.ClusterIPNone }

func clusterIPs(svc *corev1.Service) []netip.Addr {
	all := svc.Spec.ClusterIPs
	if len(all) == 0 {
		all = []string{svc.Spec.ClusterIP}
	}
	var out []netip.Addr
	for _, s := range all {
		if ip, err := netip.ParseAddr(s); err == nil {
			out = append(out, ip)
		}
	}
	return out
}

// reverseAddr reads a name below in-addr.arpa or ip6.arpa.
func reverseAddr(name string) (netip.Addr, bool) {
	name = strings.ToLower(name)
	if labels, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		parts := strings.Split(labels, ".")
		slices.Reverse(parts)
		ip, err := netip.ParseAddr(strings.Join(parts, "."))
		return ip, err == nil && ip.Is4()
	}
	labels, ok := strings.CutSuffix(name, ".ip6.arpa.")
	if !ok || len(labels) != 63 {
		return netip.Addr{}, false
	}
	var text strings.Builder
	for i := 62; i >= 0; i -= 2 {
		text.WriteByte(labels[i])
		if i > 0 {
			if labels[i-1] != '.' {
				return netip.Addr{}, false
			}
			if (62-i)/2%4 == 3 {
				text.WriteByte(':')
			}
		}
	}
	ip, err := netip.ParseAddr(text.String())
	return ip, err == nil && ip.Zone() == ""
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
