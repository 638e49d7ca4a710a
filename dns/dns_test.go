package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/mini-k8s/mini/internal/netns/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, nil))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

func service(name, ip string, edit func(*corev1.Service)) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{
			{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}, {Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP},
		}},
	}
	if edit != nil {
		edit(svc)
	}
	return svc
}

func slice(service, suffix string, eps ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	name, port, proto := "http", int32(8080), corev1.ProtocolTCP
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: service + suffix, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   eps,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &proto}},
	}
}

func endpoint(ip, hostname string, ready bool) discoveryv1.Endpoint {
	ep := discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
	if hostname != "" {
		ep.Hostname = &hostname
	}
	return ep
}

func testObjects() []runtime.Object {
	many := slice("many", "-a")
	for i := range 60 {
		many.Endpoints = append(many.Endpoints, endpoint(fmt.Sprintf("10.42.3.%d", i+1), "", true))
	}
	return []runtime.Object{
		service("web", "10.43.0.1", nil), slice("web", "-a", endpoint("10.42.0.9", "", true)),
		service("dual", "10.43.0.2", func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"10.43.0.2", "fd00::2"} }),
		service("db", "None", nil),
		slice("db", "-a", endpoint("10.42.0.3", "db-1", true), endpoint("10.42.0.2", "db-0", true), endpoint("10.42.0.4", "db-2", false)),
		slice("db", "-b", endpoint("10.42.1.5", "", true)),
		service("early", "None", func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }),
		slice("early", "-a", endpoint("10.42.0.7", "", false)),
		service("empty", "None", nil),
		service("many", "None", nil), many,
		service("alias", "", func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeExternalName
			s.Spec.ExternalName = "Example.COM"
		}),
		service("inside", "", func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeExternalName
			s.Spec.ExternalName = "web.ns.svc.cluster.local"
		}),
		service("circle", "", func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeExternalName
			s.Spec.ExternalName = "circle.ns.svc.cluster.local"
		}),
	}
}

func newServer(t testing.TB, resolvConf string) *Server {
	t.Helper()
	factory := informers.NewSharedInformerFactory(fake.NewClientset(testObjects()...), 0)
	s, err := New(Config{
		Address: netip.MustParseAddr("10.43.0.10"), Domain: "cluster.local", Informers: factory, ResolvConf: resolvConf,
		Reverse: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}, Logger: testLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	return s
}

// text writes what a person would compare: the code, the answers, and what else comes along.
func text(msg *dns.Msg) string {
	out := []string{dns.RcodeToString[msg.Rcode]}
	for _, s := range []struct {
		mark string
		rrs  []dns.RR
	}{{"", msg.Answer}, {"auth ", msg.Ns}, {"extra ", msg.Extra}} {
		for _, rr := range s.rrs {
			if rr.Header().Rrtype == dns.TypeOPT {
				continue
			}
			if rr.Header().Rrtype == dns.TypeSOA {
				out = append(out, s.mark+"SOA")
				continue
			}
			fields := strings.SplitN(rr.String(), "\t", 5)
			out = append(out, fmt.Sprintf("%s%s %s %s", s.mark, fields[0], fields[3], fields[4]))
		}
	}
	return strings.Join(out, "\n")
}

func TestRespond(t *testing.T) {
	s := newServer(t, "")
	for _, tc := range []struct {
		name, kind string
		want       []string
	}{
		{"web.ns.svc.cluster.local.", "A", []string{"NOERROR", "web.ns.svc.cluster.local. A 10.43.0.1"}},
		{"WeB.ns.SVC.cluster.local.", "A", []string{"NOERROR", "WeB.ns.SVC.cluster.local. A 10.43.0.1"}},
		// A client asks for both and must learn that the name exists: NODATA, not NXDOMAIN.
		{"web.ns.svc.cluster.local.", "AAAA", []string{"NOERROR", "auth SOA"}},
		{"dual.ns.svc.cluster.local.", "AAAA", []string{"NOERROR", "dual.ns.svc.cluster.local. AAAA fd00::2"}},
		{"dual.ns.svc.cluster.local.", "ANY", []string{"NOERROR", "dual.ns.svc.cluster.local. A 10.43.0.2", "dual.ns.svc.cluster.local. AAAA fd00::2"}},
		{"web.other.svc.cluster.local.", "A", []string{"NXDOMAIN", "auth SOA"}},
		{"nothing.ns.svc.cluster.local.", "A", []string{"NXDOMAIN", "auth SOA"}},
		// What the search list of a pod makes of an outside name.
		{"example.com.ns.svc.cluster.local.", "A", []string{"NXDOMAIN", "auth SOA"}},
		{"www.example.com.ns.svc.cluster.local.", "A", []string{"NXDOMAIN", "auth SOA"}},
		{"example.com.cluster.local.", "A", []string{"NXDOMAIN", "auth SOA"}},
		{"ns.svc.cluster.local.", "A", []string{"NOERROR", "auth SOA"}},
		{"svc.cluster.local.", "A", []string{"NOERROR", "auth SOA"}},
		{"cluster.local.", "A", []string{"NOERROR", "auth SOA"}},
		{"cluster.local.", "SOA", []string{"NOERROR", "SOA"}},
		{"cluster.local.", "NS", []string{"NOERROR", "cluster.local. NS ns.dns.cluster.local.", "extra ns.dns.cluster.local. A 10.43.0.10"}},
		{"ns.dns.cluster.local.", "A", []string{"NOERROR", "ns.dns.cluster.local. A 10.43.0.10"}},
		{"dns-version.cluster.local.", "TXT", []string{"NOERROR", `dns-version.cluster.local. TXT "1.1.0"`}},
		{"_http._tcp.web.ns.svc.cluster.local.", "SRV", []string{"NOERROR",
			"_http._tcp.web.ns.svc.cluster.local. SRV 0 100 80 web.ns.svc.cluster.local.", "extra web.ns.svc.cluster.local. A 10.43.0.1"}},
		{"_http._udp.web.ns.svc.cluster.local.", "SRV", []string{"NXDOMAIN", "auth SOA"}},
		{"_http._tcp.web.ns.svc.cluster.local.", "A", []string{"NOERROR", "auth SOA"}},
		{"_tcp.web.ns.svc.cluster.local.", "SRV", []string{"NOERROR", "auth SOA"}},
		{"web.ns.svc.cluster.local.", "SRV", []string{"NOERROR",
			"web.ns.svc.cluster.local. SRV 0 50 80 web.ns.svc.cluster.local.", "web.ns.svc.cluster.local. SRV 0 50 53 web.ns.svc.cluster.local.",
			"extra web.ns.svc.cluster.local. A 10.43.0.1"}},
		{"db.ns.svc.cluster.local.", "A", []string{"NOERROR",
			"db.ns.svc.cluster.local. A 10.42.0.2", "db.ns.svc.cluster.local. A 10.42.0.3", "db.ns.svc.cluster.local. A 10.42.1.5"}},
		{"db-0.db.ns.svc.cluster.local.", "A", []string{"NOERROR", "db-0.db.ns.svc.cluster.local. A 10.42.0.2"}},
		{"db-2.db.ns.svc.cluster.local.", "A", []string{"NXDOMAIN", "auth SOA"}}, // not ready
		{"10-42-1-5.db.ns.svc.cluster.local.", "A", []string{"NOERROR", "10-42-1-5.db.ns.svc.cluster.local. A 10.42.1.5"}},
		{"_http._tcp.db.ns.svc.cluster.local.", "SRV", []string{"NOERROR",
			"_http._tcp.db.ns.svc.cluster.local. SRV 0 33 8080 db-0.db.ns.svc.cluster.local.",
			"_http._tcp.db.ns.svc.cluster.local. SRV 0 33 8080 db-1.db.ns.svc.cluster.local.",
			"_http._tcp.db.ns.svc.cluster.local. SRV 0 33 8080 10-42-1-5.db.ns.svc.cluster.local.",
			"extra db-0.db.ns.svc.cluster.local. A 10.42.0.2", "extra db-1.db.ns.svc.cluster.local. A 10.42.0.3",
			"extra 10-42-1-5.db.ns.svc.cluster.local. A 10.42.1.5"}},
		{"early.ns.svc.cluster.local.", "A", []string{"NOERROR", "early.ns.svc.cluster.local. A 10.42.0.7"}},
		{"empty.ns.svc.cluster.local.", "A", []string{"NOERROR", "auth SOA"}},
		{"alias.ns.svc.cluster.local.", "CNAME", []string{"NOERROR", "alias.ns.svc.cluster.local. CNAME example.com."}},
		// There are no resolvers, so the target cannot be had: an error, which a client tries again.
		{"alias.ns.svc.cluster.local.", "A", []string{"SERVFAIL", "alias.ns.svc.cluster.local. CNAME example.com."}},
		{"inside.ns.svc.cluster.local.", "A", []string{"NOERROR",
			"inside.ns.svc.cluster.local. CNAME web.ns.svc.cluster.local.", "web.ns.svc.cluster.local. A 10.43.0.1"}},
		{"10-42-0-9.ns.pod.cluster.local.", "A", []string{"NOERROR", "10-42-0-9.ns.pod.cluster.local. A 10.42.0.9"}},
		{"fd00--9.ns.pod.cluster.local.", "AAAA", []string{"NOERROR", "fd00--9.ns.pod.cluster.local. AAAA fd00::9"}},
		{"10-42-0-900.ns.pod.cluster.local.", "A", []string{"NXDOMAIN", "auth SOA"}},
		{"1.0.43.10.in-addr.arpa.", "PTR", []string{"NOERROR", "1.0.43.10.in-addr.arpa. PTR web.ns.svc.cluster.local."}},
		{"2.0.42.10.in-addr.arpa.", "PTR", []string{"NOERROR", "2.0.42.10.in-addr.arpa. PTR db-0.db.ns.svc.cluster.local."}},
		{"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", "PTR", []string{"NOERROR",
			"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa. PTR dual.ns.svc.cluster.local."}},
		{"9.9.43.10.in-addr.arpa.", "PTR", []string{"NXDOMAIN", "auth SOA"}},
		{"example.com.", "A", []string{"SERVFAIL"}},
	} {
		t.Run(tc.kind+"_"+strings.TrimSuffix(tc.name, "."), func(t *testing.T) {
			query := new(dns.Msg).SetQuestion(tc.name, dns.StringToType[tc.kind])
			got := s.respond(context.Background(), query)
			if d := cmp.Diff(strings.Join(tc.want, "\n"), text(got)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if got.Id != query.Id || !got.Response || got.Authoritative != (tc.name != "example.com.") {
				t.Errorf("header: %+v", got.MsgHdr)
			}
			for _, rr := range append(slices.Clone(got.Answer), got.Ns...) {
				if rr.Header().Ttl != ttl {
					t.Errorf("TTL of %s is not %d", rr, ttl)
				}
			}
		})
	}
	circle := s.respond(context.Background(), new(dns.Msg).SetQuestion("circle.ns.svc.cluster.local.", dns.TypeA))
	if circle.Rcode != dns.RcodeServerFailure {
		t.Errorf("a circle of names: %s", text(circle))
	}
	bad := new(dns.Msg).SetQuestion("web.ns.svc.cluster.local.", dns.TypeA)
	bad.SetEdns0(1232, false)
	bad.IsEdns0().SetVersion(1)
	if got := s.respond(context.Background(), bad); got.Rcode != dns.RcodeBadVers {
		t.Errorf("EDNS version 1: %s", text(got))
	}
}

// FuzzRespond feeds what a client can send: whatever unpacks must get a packable answer with its ID.
func FuzzRespond(f *testing.F) {
	for _, name := range []string{"web.ns.svc.cluster.local.", "_http._tcp.db.ns.svc.cluster.local.", "1-2-3-4.ns.pod.cluster.local.", "cluster.local.", `a\.b.svc.cluster.local.`, "1.0.43.10.in-addr.arpa."} {
		packed, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
	}
	s := newServer(f, "")
	f.Fuzz(func(t *testing.T, data []byte) {
		query := new(dns.Msg)
		if query.Unpack(data) != nil {
			return
		}
		got := s.respond(context.Background(), query)
		if got.Id != query.Id || !got.Response {
			t.Fatalf("header of the answer: %+v", got.MsgHdr)
		}
		got.Truncate(dns.MinMsgSize)
		packed, err := got.Pack()
		if err != nil {
			t.Fatalf("the answer to %v cannot be packed: %v", query, err)
		}
		if len(packed) > dns.MinMsgSize && len(query.Question) == 1 {
			t.Fatalf("the answer has %d bytes", len(packed))
		}
	})
}

// resolver is an upstream on port 53 of an address of the loopback net, with its count of queries.
func resolver(t *testing.T, ip string, handle func(w dns.ResponseWriter, q *dns.Msg)) *atomic.Int32 {
	t.Helper()
	netnstest.NeedRoot(t)
	var asked atomic.Int32
	conn, err := net.ListenPacket("udp4", ip+":53")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", ip+":53")
	if err != nil {
		t.Fatal(err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { asked.Add(1); handle(w, q) })
	for _, s := range []*dns.Server{{PacketConn: conn, Handler: handler}, {Listener: l, Handler: handler}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return &asked
}

func resolvConf(t *testing.T, servers ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	var out strings.Builder
	for _, s := range servers {
		fmt.Fprintln(&out, "nameserver", s)
	}
	if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func answering(records ...string) func(dns.ResponseWriter, *dns.Msg) {
	return func(w dns.ResponseWriter, q *dns.Msg) {
		msg := new(dns.Msg).SetReply(q)
		for _, r := range records {
			rr, err := dns.NewRR(r)
			if err != nil {
				panic(err)
			}
			if strings.Contains(r, "SOA") {
				msg.Rcode = dns.RcodeNameError
				msg.Ns = append(msg.Ns, rr)
			} else {
				msg.Answer = append(msg.Answer, rr)
			}
		}
		_ = w.WriteMsg(msg)
	}
}

func ask(s *Server, name string, kind uint16) string {
	return text(s.respond(context.Background(), new(dns.Msg).SetQuestion(name, kind)))
}

func TestForward(t *testing.T) {
	fail := func(w dns.ResponseWriter, q *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
	}
	t.Run("cache", func(t *testing.T) {
		asked := resolver(t, "127.0.0.11", answering("example.com. 60 IN A 192.0.2.1"))
		s := newServer(t, resolvConf(t, "127.0.0.11", "10.43.0.10"))
		for range 3 {
			if got := ask(s, "example.com.", dns.TypeA); got != "NOERROR\nexample.com. A 192.0.2.1" {
				t.Errorf("answer: %s", got)
			}
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times, want 1", n)
		}
		if got := ask(s, "alias.ns.svc.cluster.local.", dns.TypeA); got != "NOERROR\nalias.ns.svc.cluster.local. CNAME example.com.\nexample.com. A 192.0.2.1" {
			t.Errorf("ExternalName: %s", got)
		}
	})
	t.Run("negative", func(t *testing.T) {
		asked := resolver(t, "127.0.0.12", answering("com. 60 IN SOA a. b. 1 2 3 4 60"))
		s := newServer(t, resolvConf(t, "127.0.0.12"))
		for range 2 {
			if got := ask(s, "nothing.com.", dns.TypeA); got != "NXDOMAIN\nauth SOA" {
				t.Errorf("answer: %s", got)
			}
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times, want 1", n)
		}
	})
	t.Run("failover", func(t *testing.T) {
		broken := resolver(t, "127.0.0.13", fail)
		resolver(t, "127.0.0.14", answering("example.com. 0 IN A 192.0.2.4"))
		// Nobody listens on .15: the kernel says so at once.
		s := newServer(t, resolvConf(t, "127.0.0.15", "127.0.0.13", "127.0.0.14"))
		for range 3 {
			if got := ask(s, "example.com.", dns.TypeA); got != "NOERROR\nexample.com. A 192.0.2.4" {
				t.Errorf("answer: %s", got)
			}
		}
		if broken.Load() == 0 {
			t.Error("the failing resolver was never asked")
		}
		if down := s.forward.resolvers(time.Now()); down[len(down)-1] != "127.0.0.15:53" {
			t.Errorf("the order is %v, want the dead one last", down)
		}
	})
	t.Run("truncated", func(t *testing.T) {
		var records []string
		for i := range 200 {
			records = append(records, fmt.Sprintf("big.com. 9 IN A 192.0.2.%d", i))
		}
		full := answering(records...)
		resolver(t, "127.0.0.16", func(w dns.ResponseWriter, q *dns.Msg) {
			if w.LocalAddr().Network() == "udp" {
				msg := new(dns.Msg).SetReply(q)
				msg.Truncated = true
				_ = w.WriteMsg(msg)
				return
			}
			full(w, q)
		})
		s := newServer(t, resolvConf(t, "127.0.0.16"))
		if got := ask(s, "big.com.", dns.TypeA); strings.Count(got, " A ") != 200 {
			t.Errorf("%d records, want 200", strings.Count(got, " A "))
		}
	})
	t.Run("loop", func(t *testing.T) {
		s := newServer(t, resolvConf(t, "127.0.0.17"))
		asked := resolver(t, "127.0.0.17", func(w dns.ResponseWriter, q *dns.Msg) {
			msg := s.respond(context.Background(), q)
			_ = w.WriteMsg(msg)
		})
		if got := ask(s, "loop.com.", dns.TypeA); got != "SERVFAIL" {
			t.Errorf("answer: %s", got)
		}
		if n := asked.Load(); n > 4 {
			t.Errorf("a loop made %d queries", n)
		}
	})
}

func TestLifetime(t *testing.T) {
	for _, tc := range []struct {
		records []string
		rcode   int
		want    uint32
	}{
		{[]string{"a. 60 IN A 1.2.3.4", "a. 7 IN A 1.2.3.5"}, dns.RcodeSuccess, 7},
		{[]string{"a. 86400 IN A 1.2.3.4"}, dns.RcodeSuccess, maxTTL},
		{[]string{"a. 60 IN SOA a. b. 1 2 3 4 5"}, dns.RcodeNameError, 5},
		{nil, dns.RcodeNameError, 0},
		{[]string{"a. 60 IN A 1.2.3.4"}, dns.RcodeServerFailure, 0},
	} {
		msg := &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: tc.rcode}}
		for _, r := range tc.records {
			rr, err := dns.NewRR(r)
			if err != nil {
				t.Fatal(err)
			}
			msg.Answer = append(msg.Answer, rr)
		}
		if got := lifetime(msg); got != tc.want {
			t.Errorf("lifetime of %v is %d, want %d", tc.records, got, tc.want)
		}
	}
}

// TestServer asks the running server over the network.
func TestServer(t *testing.T) {
	netnstest.NeedRoot(t)
	s := newServer(t, "")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case err := <-done:
		t.Fatal("Run:", err)
	case <-time.After(30 * time.Second):
		t.Fatal("not ready")
	}
	query := func(network, name string, edns uint16) *dns.Msg {
		q := new(dns.Msg).SetQuestion(name, dns.TypeA)
		if edns > 0 {
			q.SetEdns0(edns, false)
		}
		c := dns.Client{Net: network, Timeout: time.Second, UDPSize: edns}
		msg, _, err := c.Exchange(q, "10.43.0.10:53")
		if err != nil {
			t.Fatalf("%s over %s: %v", name, network, err)
		}
		return msg
	}
	for _, network := range []string{"udp", "tcp"} {
		if got := text(query(network, "web.ns.svc.cluster.local.", 0)); got != "NOERROR\nweb.ns.svc.cluster.local. A 10.43.0.1" {
			t.Errorf("over %s: %s", network, got)
		}
	}
	if msg := query("udp", "many.ns.svc.cluster.local.", 0); !msg.Truncated || len(msg.Answer) == 60 {
		t.Errorf("60 records without EDNS: truncated %v, %d records", msg.Truncated, len(msg.Answer))
	}
	if msg := query("udp", "many.ns.svc.cluster.local.", 4096); msg.Truncated || len(msg.Answer) != 60 || msg.IsEdns0() == nil {
		t.Errorf("60 records with EDNS: truncated %v, %d records", msg.Truncated, len(msg.Answer))
	}
	if msg := query("tcp", "many.ns.svc.cluster.local.", 0); msg.Truncated || len(msg.Answer) != 60 {
		t.Errorf("60 records over TCP: truncated %v, %d records", msg.Truncated, len(msg.Answer))
	}
	addrs := func() string {
		out, err := exec.Command("ip", "-br", "addr", "show", "dev", "lo").Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if out, err := exec.Command("ip", "addr", "del", "10.43.0.10/32", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for start := time.Now(); !strings.Contains(addrs(), "10.43.0.10"); time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > 30*time.Second {
			t.Fatal("the address did not come back")
		}
	}
	query("udp", "web.ns.svc.cluster.local.", 0)
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("Run did not return")
	}
	if strings.Contains(addrs(), "10.43.0.10") {
		t.Error("the address stayed:", addrs())
	}
}

func TestPortTaken(t *testing.T) {
	netnstest.NeedRoot(t)
	other, err := net.ListenPacket("udp4", "0.0.0.0:53")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := newServer(t, "").Run(context.Background()); err == nil || !strings.Contains(err.Error(), "another DNS server") {
		t.Errorf("Run with the port taken: %v", err)
	}
	if out, _ := exec.Command("ip", "-br", "addr", "show", "dev", "lo").Output(); strings.Contains(string(out), "10.43.0.10") {
		t.Errorf("the address stayed: %s", out)
	}
}

func BenchmarkRespond(b *testing.B) {
	s := newServer(b, "")
	q := new(dns.Msg).SetQuestion("web.ns.svc.cluster.local.", dns.TypeA)
	b.ReportAllocs()
	for b.Loop() {
		s.respond(context.Background(), q)
	}
}
