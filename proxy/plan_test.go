package proxy

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	"pgregory.net/rapid"

	"github.com/mini-k8s/mini/internal/iptables"
)

var update = flag.Bool("update", false, "write the golden files anew")

var testFacts = facts{"MASQUERADE --random-fully", []netip.Prefix{prefix("10.43.0.0/16")}}

func fragments(svcs []*corev1.Service, eps []*discoveryv1.EndpointSlice) map[string]*fragment {
	out := map[string]*fragment{}
	for _, svc := range svcs {
		var own []*discoveryv1.EndpointSlice
		for _, s := range eps {
			if s.Labels[discoveryv1.LabelServiceName] == svc.Name {
				own = append(own, s)
			}
		}
		if ports := portsOf(svc, own, "node", []netip.Addr{addr("10.43.255.10")}); len(ports) > 0 {
			out[svc.Namespace+"/"+svc.Name] = render(ports, cluster, true)
		}
	}
	return out
}

func list[T any](items ...T) []T { return items }

// TestPacketFlow says from where to where packets go.
func TestPacketFlow(t *testing.T) {
	const (
		pod, node, outside, podA, podB, podC = "10.42.9.9", "192.168.1.1", "203.0.113.50", "10.42.0.2", "10.42.0.3", "10.42.1.4"
		vip, a, b, c                         = "10.43.0.1", podA + ":8080", podB + ":8080", podC + ":8080"
		masq                                 = " masquerade"
	)
	local := corev1.ServiceInternalTrafficPolicyLocal
	proxyMode := corev1.LoadBalancerIPModeProxy
	both := list(slice("s", "-1", 8080, ep{ip: podA, node: "node"}), slice("s", "-2", 8080, ep{ip: podC, node: "other"}))
	extLocal := func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }
	intLocal := func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = &local }
	external := func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"198.51.100.1"} }
	balancer := func(ranges ...string) func(*corev1.Service) {
		return func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeLoadBalancer
			s.Spec.LoadBalancerSourceRanges = ranges
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.2"}, {IP: "198.51.100.3", IPMode: &proxyMode}}
		}
	}
	to := func(src, dst string, port int) packet { return packet{src, dst, "tcp", port} }
	for _, tc := range []struct {
		name  string
		svc   *corev1.Service
		eps   []*discoveryv1.EndpointSlice
		flows map[packet]string
	}{
		{"ClusterIP", service("s", vip, 80, 0), both, map[packet]string{
			to(pod, vip, 80): a + ", " + c, to(node, vip, 80): a + masq + ", " + c + masq, to(outside, vip, 80): a + masq + ", " + c + masq,
			to(podA, vip, 80): a + masq + ", " + c, // itself, or the other
			to(pod, vip, 81):  "DROP", to(pod, "10.43.0.2", 80): "DROP", {pod, vip, "udp", 80}: "DROP",
			to(pod, "10.44.0.1", 80): "pass",
		}},
		{"without endpoints", service("s", vip, 80, 30080, external), nil, map[packet]string{
			to(pod, vip, 80): "REJECT", to(outside, node, 30080): "REJECT", to(outside, "198.51.100.1", 80): "REJECT",
			to(outside, node, 30081): "pass", to(pod, "192.168.1.2", 30080): "pass",
		}},
		{"not ready", service("s", vip, 80, 0), list(slice("s", "", 8080, ep{ip: podA, notReady: true})), map[packet]string{to(pod, vip, 80): "REJECT"}},
		{"terminating beside ready", service("s", vip, 80, 0),
			list(slice("s", "", 8080, ep{ip: podA, notReady: true, serving: true, terminating: true}, ep{ip: podB})), map[packet]string{to(pod, vip, 80): b}},
		{"terminating only", service("s", vip, 80, 0),
			list(slice("s", "", 8080, ep{ip: podA, notReady: true, serving: true, terminating: true}, ep{ip: podB, notReady: true, terminating: true})),
			map[packet]string{to(pod, vip, 80): a}},
		{"the same endpoint in two slices", service("s", vip, 80, 0), list(slice("s", "-1", 8080, ep{ip: podA}), slice("s", "-2", 8080, ep{ip: podA})),
			map[packet]string{to(pod, vip, 80): a}},
		{"node port", service("s", vip, 80, 30080), both, map[packet]string{
			to(outside, node, 30080): a + masq + ", " + c + masq, to(pod, node, 30080): a + masq + ", " + c + masq,
			to(node, "127.0.0.1", 30080): a + masq + ", " + c + masq, to(outside, "192.168.1.2", 30080): "pass",
		}},
		{"external and load balancer addresses", service("s", vip, 80, 0, external, balancer()), both, map[packet]string{
			to(outside, "198.51.100.1", 80): a + masq + ", " + c + masq, to(outside, "198.51.100.2", 80): a + masq + ", " + c + masq,
			to(outside, "198.51.100.3", 80): "pass",
		}},
		{"load balancer for some", service("s", vip, 80, 0, balancer("203.0.113.0/24")), both, map[packet]string{
			to(outside, "198.51.100.2", 80): a + masq + ", " + c + masq, to("8.8.8.8", "198.51.100.2", 80): "DROP", to(pod, vip, 80): a + ", " + c,
		}},
		{"external Local", service("s", vip, 80, 30080, extLocal, external), both, map[packet]string{
			to(outside, node, 30080): a, to(outside, "198.51.100.1", 80): a, to(pod, "198.51.100.1", 80): a + ", " + c,
			to(node, node, 30080): a + masq + ", " + c + masq, to(pod, vip, 80): a + ", " + c,
		}},
		{"external Local without local endpoints", service("s", vip, 80, 30080, extLocal, external), both[1:], map[packet]string{
			to(outside, node, 30080): "DROP", to(outside, "198.51.100.1", 80): "DROP", to(pod, "198.51.100.1", 80): c, to(pod, vip, 80): c,
		}},
		{"external Local, local one terminating", service("s", vip, 80, 30080, extLocal),
			list(slice("s", "", 8080, ep{ip: podA, node: "node", notReady: true, serving: true, terminating: true}, ep{ip: podC, node: "other"})),
			map[packet]string{to(outside, node, 30080): a, to(pod, vip, 80): c}},
		{"internal Local", service("s", vip, 80, 30080, intLocal), both, map[packet]string{
			to(pod, vip, 80): a, to(outside, node, 30080): a + masq + ", " + c + masq, to(node, vip, 80): a + masq,
		}},
		{"internal Local without local endpoints", service("s", vip, 80, 0, intLocal), both[1:], map[packet]string{to(pod, vip, 80): "DROP"}},
		{"internal and external Local", service("s", vip, 80, 30080, intLocal, extLocal), both, map[packet]string{
			to(pod, vip, 80): a, to(outside, node, 30080): a, to(pod, node, 30080): a + ", " + c,
		}},
		{"affinity", service("s", vip, 80, 0, func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }), both,
			map[packet]string{to(pod, vip, 80): a + ", " + c}},
		{"headless", service("s", "None", 80, 0), both, map[packet]string{to(pod, vip, 80): "DROP"}},
		{"another proxy's", service("s", vip, 80, 0, func(s *corev1.Service) {
			s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "x"}
		}), both, map[packet]string{to(pod, vip, 80): "DROP"}},
		{"the cluster DNS", service("s", "10.43.255.10", 53, 0), nil, map[packet]string{to(pod, "10.43.255.10", 53): "pass"}},
		{"named target port", service("s", vip, 80, 0, func(s *corev1.Service) {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "metrics", Port: 90, Protocol: corev1.ProtocolUDP})
		}), list(namedSlice("s", "", "metrics", corev1.ProtocolUDP, 9090, ep{ip: podA})), map[packet]string{
			to(pod, vip, 80): "REJECT", {pod, vip, "udp", 90}: podA + ":9090",
		}},
	} {
		t.Run(strings.NewReplacer(" ", "_", ",", "").Replace(tc.name), func(t *testing.T) {
			chains := assemble(fragments(list(tc.svc), tc.eps), testFacts)
			tr := &tracer{t: t, chains: chains, local: []string{node, "127.0.0.1", "10.43.255.10"}}
			for p, want := range tc.flows {
				if got := tr.trace(p); got != want {
					t.Errorf("from %s to %s:%d/%s: %s, want %s", p.src, p.dst, p.port, p.proto, got, want)
				}
			}
		})
	}
}

// TestGolden keeps the text of a whole rule set, and of the changes that follow.
func TestGolden(t *testing.T) {
	svcs := list(service("web", "10.43.0.1", 80, 30080), service("sticky", "10.43.0.2", 443, 0, func(s *corev1.Service) {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	}))
	one, two := ep{ip: "10.42.0.2", node: "node"}, ep{ip: "10.42.1.3", node: "other"}
	var before iptables.Chains
	var out strings.Builder
	for _, step := range []struct {
		what string
		svcs []*corev1.Service
		eps  []*discoveryv1.EndpointSlice
	}{
		{"nothing", nil, nil},
		{"two Services, one with endpoints", svcs, list(slice("web", "", 8080, one, two))},
		{"the other has one", svcs, list(slice("web", "", 8080, one, two), slice("sticky", "", 8443, one))},
		{"an endpoint goes", svcs, list(slice("web", "", 8080, two), slice("sticky", "", 8443, one))},
		{"a Service goes", svcs[1:], list(slice("sticky", "", 8443, one))},
	} {
		after := assemble(fragments(step.svcs, step.eps), testFacts)
		text, _ := iptables.Diff(before, after, []string{"nat", "filter"})
		before = after
		fmt.Fprintf(&out, "# %s\n%s\n", step.what, text)
	}
	path := filepath.Join("testdata", "transitions.golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), out.String()); d != "" {
		t.Errorf("the rules changed; if that is meant, run the test with -update (-want +got):\n%s", d)
	}
}

// TestIncremental changes random Services step by step. Whatever the steps were, what the kernel then holds is what a
// fresh start would set, every client reaches exactly the ready endpoints, and passes few rules on the way.
func TestIncremental(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := &kernel{chains: iptables.Chains{}}
		var applied iptables.Chains
		svcs := map[string]*corev1.Service{}
		eps := map[string]*discoveryv1.EndpointSlice{}
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			for range rapid.IntRange(1, 40).Draw(t, "changes") {
				n := rapid.IntRange(0, 199).Draw(t, "service")
				name := fmt.Sprintf("s%d", n)
				if rapid.IntRange(0, 3).Draw(t, "delete") == 0 {
					delete(svcs, name)
					delete(eps, name)
					continue
				}
				nodePort := int32(0)
				if rapid.Bool().Draw(t, "nodePort") {
					nodePort = int32(30000 + n)
				}
				// Some addresses lie close together, some far apart.
				svcs[name] = service(name, fmt.Sprintf("10.43.%d.%d", n%5*n%200, n), 80, nodePort)
				var all []ep
				for i := range rapid.IntRange(0, 3).Draw(t, "endpoints") {
					all = append(all, ep{ip: fmt.Sprintf("10.42.%d.%d", n, i+2), notReady: rapid.Bool().Draw(t, "notReady")})
				}
				eps[name] = slice(name, "", 8080, all...)
			}
			wanted := assemble(fragments(slices.Collect(maps.Values(svcs)), slices.Collect(maps.Values(eps))), testFacts)
			text, _ := iptables.Diff(applied, wanted, []string{"nat", "filter"})
			if err := k.restore(text); err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
			applied = wanted
			if d := cmp.Diff(normal(wanted), normal(k.chains)); d != "" {
				t.Fatalf("the kernel differs from what is wanted (-want +got):\n%s", d)
			}
			if again, n := iptables.Diff(applied, assemble(fragments(slices.Collect(maps.Values(svcs)), slices.Collect(maps.Values(eps))), testFacts), []string{"nat", "filter"}); n != 0 {
				t.Fatalf("rendering again finds changes:\n%s", again)
			}
		}
		tr := &tracer{t: t, chains: k.chains, local: []string{"192.168.1.1"}}
		for name, svc := range svcs {
			var ready []string
			for _, e := range eps[name].Endpoints {
				if *e.Conditions.Ready {
					ready = append(ready, e.Addresses[0]+":8080")
				}
			}
			slices.Sort(ready)
			want := strings.Join(ready, ", ")
			if want == "" {
				want = "REJECT"
			}
			if got := tr.trace(packet{"10.42.250.1", svc.Spec.ClusterIP, "tcp", 80}); got != want {
				t.Fatalf("%s at %s: %s, want %s", name, svc.Spec.ClusterIP, got, want)
			}
			if tr.passed > 160 {
				t.Fatalf("%s at %s: %d rules on the way", name, svc.Spec.ClusterIP, tr.passed)
			}
			if p := svc.Spec.Ports[0].NodePort; p != 0 {
				want := strings.ReplaceAll(want, ":8080", ":8080 masquerade")
				if got := tr.trace(packet{"203.0.113.1", "192.168.1.1", "tcp", int(p)}); got != want {
					t.Fatalf("%s at port %d: %s, want %s", name, p, got, want)
				}
			}
		}
	})
}

// normal makes empty chains and tables comparable.
func normal(c iptables.Chains) map[string]map[string]string {
	out := map[string]map[string]string{}
	for table, chains := range c {
		out[table] = map[string]string{}
		for name, rules := range chains {
			out[table][name] = strings.Join(rules, "\n")
		}
	}
	return out
}

// many makes n Services of two endpoints each.
func many(n int) ([]*corev1.Service, []*discoveryv1.EndpointSlice) {
	var svcs []*corev1.Service
	var eps []*discoveryv1.EndpointSlice
	for i := range n {
		name := fmt.Sprintf("s%d", i)
		// Multiplying scatters the addresses as a random allocator does.
		at := uint16(i+1) * 40503
		svcs = append(svcs, service(name, fmt.Sprintf("10.43.%d.%d", at>>8, at&255), 80, 0))
		eps = append(eps, slice(name, "", 8080, ep{ip: fmt.Sprintf("10.42.%d.%d", i/200, i%200+2)}, ep{ip: fmt.Sprintf("10.42.%d.%d", i/200+100, i%200+2)}))
	}
	return svcs, eps
}

// TestDepth bounds the rules that a first packet passes.
func TestDepth(t *testing.T) {
	for _, tc := range []struct{ services, most int }{{10, 16}, {1000, 50}, {10000, 70}} {
		svcs, eps := many(tc.services)
		frags := map[string]*fragment{}
		for i, svc := range svcs {
			frags["ns/"+svc.Name] = render(portsOf(svc, eps[i:i+1], "", nil), cluster, true)
		}
		tr := &tracer{t: t, chains: assemble(frags, testFacts)}
		worst, sum := 0, 0
		for _, svc := range svcs {
			tr.trace(packet{"10.42.250.1", svc.Spec.ClusterIP, "tcp", 80})
			worst = max(worst, tr.passed)
			sum += tr.passed
		}
		t.Logf("%d Services: at most %d rules, %d on average", tc.services, worst, sum/len(svcs))
		if worst > tc.most {
			t.Errorf("%d Services: %d rules on the longest way, want at most %d", tc.services, worst, tc.most)
		}
	}
}

func TestStaleFlows(t *testing.T) {
	svc := func(eps ...ep) *fragment {
		s := service("dns", "10.43.0.1", 53, 30053, func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolUDP })
		return render(portsOf(s, list(namedSlice("dns", "", "", corev1.ProtocolUDP, 5353, eps...)), "", nil), cluster, true)
	}
	one, two := ep{ip: "10.42.0.2"}, ep{ip: "10.42.0.3"}
	at := func(s ...string) (out []netip.AddrPort) {
		for _, a := range s {
			out = append(out, netip.MustParseAddrPort(a))
		}
		return out
	}
	vip, port := flow{addr("10.43.0.1"), 53}, flow{netip.Addr{}, 30053}
	for _, tc := range []struct {
		name     string
		old, now *fragment
		want     map[flow][]netip.AddrPort
	}{
		{"nothing_changes", svc(one), svc(one), map[flow][]netip.AddrPort{}},
		{"one_more", svc(one), svc(one, two), map[flow][]netip.AddrPort{}},
		{"one_goes", svc(one, two), svc(two), map[flow][]netip.AddrPort{vip: at("10.42.0.3:5353"), port: at("10.42.0.3:5353")}},
		{"the_Service_goes", svc(one), nil, map[flow][]netip.AddrPort{vip: nil, port: nil}},
		{"the_first_comes", svc(), svc(one), map[flow][]netip.AddrPort{vip: at("10.42.0.2:5353"), port: at("10.42.0.2:5353")}},
		{"after_a_restart", nil, svc(one), map[flow][]netip.AddrPort{vip: at("10.42.0.2:5353"), port: at("10.42.0.2:5353")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := staleFlows(tc.old, tc.now); fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
	filter := staleFilter{map[flow][]netip.AddrPort{
		vip: at("10.42.0.3:5353"), port: at("10.42.0.3:5353"), {addr("10.43.0.2"), 53}: nil,
	}, addr("192.168.1.1")}
	for _, tc := range []struct {
		name, dst, answers string
		proto              uint8
		want               bool
	}{
		{"to_an_endpoint", "10.43.0.1:53", "10.42.0.3:5353", unix.IPPROTO_UDP, false},
		{"to_one_that_is_gone", "10.43.0.1:53", "10.42.0.2:5353", unix.IPPROTO_UDP, true},
		{"never_redirected", "10.43.0.1:53", "10.43.0.1:53", unix.IPPROTO_UDP, true},
		{"never_redirected_and_no_endpoints", "10.43.0.2:53", "10.43.0.2:53", unix.IPPROTO_UDP, false},
		{"Service_without_endpoints", "10.43.0.2:53", "10.42.0.9:53", unix.IPPROTO_UDP, true},
		{"TCP", "10.43.0.1:53", "10.42.0.2:5353", unix.IPPROTO_TCP, false},
		{"other_port", "10.43.0.1:54", "10.42.0.2:5353", unix.IPPROTO_UDP, false},
		{"by_node_port", "192.168.1.1:30053", "10.42.0.2:5353", unix.IPPROTO_UDP, true},
		{"by_node_port_never_redirected", "192.168.1.1:30053", "192.168.1.1:30053", unix.IPPROTO_UDP, true},
		{"the_same_port_of_another_machine", "8.8.8.8:30053", "8.8.8.8:30053", unix.IPPROTO_UDP, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dst, answers := netip.MustParseAddrPort(tc.dst), netip.MustParseAddrPort(tc.answers)
			ct := &netlink.ConntrackFlow{
				Forward: netlink.IPTuple{Protocol: tc.proto, DstIP: dst.Addr().AsSlice(), DstPort: dst.Port()},
				Reverse: netlink.IPTuple{Protocol: tc.proto, SrcIP: answers.Addr().AsSlice(), SrcPort: answers.Port()},
			}
			if got := filter.MatchConntrackFlow(ct); got != tc.want {
				t.Errorf("deleted: %v, want %v", got, tc.want)
			}
		})
	}
}

func BenchmarkAssemble(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			svcs, eps := many(n)
			frags := map[string]*fragment{}
			for i, svc := range svcs {
				frags["ns/"+svc.Name] = render(portsOf(svc, eps[i:i+1], "", nil), cluster, true)
			}
			before := assemble(frags, testFacts)
			b.ReportAllocs()
			for b.Loop() {
				frags["ns/s0"] = render(portsOf(svcs[0], eps[:1], "", nil), cluster, true)
				iptables.Diff(before, assemble(frags, testFacts), []string{"nat", "filter"})
			}
		})
	}
}

// TestRefused has a kernel that refuses some Services: all others are served, and those as soon as it takes them.
func TestRefused(t *testing.T) {
	objects := []runtime.Object{}
	for _, n := range []string{"a", "b", "bad1", "c", "bad2"} {
		objects = append(objects, service(n, fmt.Sprintf("10.43.0.%d", len(objects)+1), 80, 0))
	}
	factory := informers.NewSharedInformerFactory(fake.NewClientset(objects...), 0)
	p, err := New(Config{NodeName: "node", ClusterCIDR: cluster, DataDir: t.TempDir(), Informers: factory, Logger: testLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(t.Context().Done())
	cache.WaitForCacheSync(t.Context().Done(), p.synced...)
	refuse := true
	apply := func(f map[string]*fragment) error {
		if refuse && (f["ns/bad1"] != nil || f["ns/bad2"] != nil) {
			return errors.New("no such protocol")
		}
		return nil
	}
	err = p.sync(apply)
	if err == nil || !strings.Contains(err.Error(), "ns/bad1") || !strings.Contains(err.Error(), "ns/bad2") || strings.Contains(err.Error(), "ns/a") {
		t.Errorf("sync: %v", err)
	}
	if got := strings.Join(slices.Sorted(maps.Keys(p.fragments)), " "); got != "ns/a ns/b ns/c" {
		t.Errorf("served: %s", got)
	}
	// Another change meanwhile goes through.
	p.touch("ns/a")
	delete(p.fragments, "ns/a")
	if err := p.sync(apply); err != nil || p.fragments["ns/a"] == nil {
		t.Errorf("a change beside refused Services: %v", err)
	}
	refuse = false
	p.retryFailed()
	if err := p.sync(apply); err != nil || len(p.fragments) != 5 {
		t.Errorf("second sync: %v, %d served", err, len(p.fragments))
	}
}
