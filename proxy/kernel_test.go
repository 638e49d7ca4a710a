package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/mini-k8s/mini/internal/netns"
	"github.com/mini-k8s/mini/internal/netns/netnstest"
	"github.com/mini-k8s/mini/internal/sysctl"
)

// world is a node, which is the test's own namespace, three pods behind it and a neighbour outside.
type world struct {
	t       *testing.T
	pods    []string
	outside string
	client  *fake.Clientset
}

func podIP(i int) string { return fmt.Sprintf("10.42.0.%d", 4*i+2) }

func newWorld(t *testing.T, iptables string, objects ...runtime.Object) *world {
	t.Helper()
	netnstest.NeedRoot(t)
	w := &world{t: t, outside: netnstest.Namespace(t), client: fake.NewClientset(objects...)}
	netnstest.Link(t, netnstest.End{Name: "uplink", Addr: prefix("192.168.60.1/24")}, netnstest.End{NS: w.outside, Name: "eth0", Addr: prefix("192.168.60.2/24")})
	netnstest.Route(t, w.outside, netip.Prefix{}, addr("192.168.60.1"))
	if err := sysctl.Write("net/ipv4/ip_forward", "1"); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		ns := netnstest.Namespace(t)
		netnstest.Link(t,
			netnstest.End{Name: fmt.Sprintf("pod%d", i), Addr: netip.PrefixFrom(addr(podIP(i)).Prev(), 30)},
			netnstest.End{NS: ns, Name: "eth0", Addr: netip.PrefixFrom(addr(podIP(i)), 30)})
		netnstest.Route(t, ns, netip.Prefix{}, addr(podIP(i)).Prev())
		w.pods = append(w.pods, ns)
		w.serve(ns, fmt.Sprint(i))
	}
	factory := informers.NewSharedInformerFactory(w.client, 0)
	cfg := Config{
		NodeName: "node", NodeIP: addr("192.168.60.1"), ClusterCIDR: cluster, ServiceCIDR: prefix("10.43.0.0/16"), DataDir: filepath.Join(t.TempDir(), "proxy"), Informers: factory,
		IPTables: iptables, Logger: testLogger(t),
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	before := save(t, iptables)
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := Clean(context.Background(), cfg); err != nil {
			t.Error(err)
		}
		if out, err := exec.Command("ip", "route", "show", "10.43.0.0/16").Output(); err != nil || len(out) > 0 {
			t.Errorf("Clean left the route: %s, %v", out, err)
		}
		if after := save(t, iptables); after != before {
			t.Errorf("Clean left rules:\n%s", after)
		}
	})
	select {
	case <-p.Ready():
	case err := <-done:
		done <- err
		t.Fatal("Run returned before it was ready:", err)
	case <-time.After(20 * time.Second):
		t.Fatal("not ready after 20 s")
	}
	return w
}

// save is the node's rules without counters, dates and empty built-in tables.
func save(t *testing.T, iptables string) string {
	t.Helper()
	if iptables == "" {
		iptables = "iptables"
	}
	var out strings.Builder
	for _, table := range []string{"nat", "filter"} {
		text, err := exec.Command(iptables+"-save", "-t", table).Output()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "-A") || strings.HasPrefix(line, ":MINI") {
				out.WriteString(line)
			}
		}
	}
	return out.String()
}

// serve answers every TCP connection and UDP packet on port 8080 with name and the caller's address.
func (w *world) serve(ns, name string) {
	netnstest.Do(w.t, ns, func() error {
		l, err := net.Listen("tcp4", ":8080")
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp4", ":8080")
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { l.Close(); u.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintln(conn, name, conn.RemoteAddr().(*net.TCPAddr).IP)
				conn.Close()
			}
		}()
		go func() {
			buf := make([]byte, 100)
			for {
				_, from, err := u.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = u.WriteTo([]byte(name+" "+from.(*net.UDPAddr).IP.String()+"\n"), from)
			}
		}()
		return nil
	})
}

// call connects from a namespace and returns who answered, and to whom.
func (w *world) call(ns, network, to string) (server, client string, err error) {
	fn := func() error {
		conn, err := net.DialTimeout(network+"4", to, 20*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		server, client, err = exchange(conn)
		return err
	}
	if ns == "" {
		err = fn()
	} else {
		err = netns.Do(ns, fn)
	}
	return server, client, err
}

func exchange(conn net.Conn) (server, client string, err error) {
	udp := conn.RemoteAddr().Network() == "udp"
	patience := 20 * time.Second
	if udp {
		patience = 2 * time.Second // nobody sends a lost packet again
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", "", err
	}
	if udp {
		if _, err := conn.Write([]byte("x")); err != nil {
			return "", "", err
		}
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", "", err
	}
	server, client, _ = strings.Cut(strings.TrimSpace(line), " ")
	return server, client, nil
}

// answers calls n times and returns the set of servers, and of addresses they saw, as sorted text.
func (w *world) answers(what, ns, network, to string, n int) (servers, clients string) {
	w.t.Helper()
	s, c := map[string]bool{}, map[string]bool{}
	for range n {
		server, client, err := w.call(ns, network, to)
		if err != nil {
			w.t.Errorf("%s: %v", what, err)
			return "", ""
		}
		s[server], c[client] = true, true
	}
	return keys(s), keys(c)
}

func (w *world) want(what, ns, network, to, servers, clients string) {
	w.t.Helper()
	// The chance to miss one of three with 40 calls is below one in a million.
	gotServers, gotClients := w.answers(what, ns, network, to, 40)
	if gotServers != servers || clients != "" && gotClients != clients {
		w.t.Errorf("%s: %s answered, who saw %s; want %s, %s", what, gotServers, gotClients, servers, clients)
	}
}

func (w *world) refused(what, ns, network, to string) {
	w.t.Helper()
	if server, _, err := w.call(ns, network, to); !errors.Is(err, syscall.ECONNREFUSED) {
		w.t.Errorf("%s: %q, %v; want connection refused", what, server, err)
	}
}

func (w *world) setSlice(s *discoveryv1.EndpointSlice) {
	w.t.Helper()
	ctx := context.Background()
	s.ResourceVersion = fmt.Sprint(time.Now().UnixNano())
	if _, err := w.client.DiscoveryV1().EndpointSlices("ns").Update(ctx, s, metav1.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) eventually(what string, within time.Duration, ok func() bool) time.Duration {
	w.t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > within {
			w.t.Fatalf("%s: not within %s:\n%s", what, within, save(w.t, ""))
		}
		time.Sleep(time.Millisecond)
	}
	took := time.Since(start)
	w.t.Logf("%s: after %s", what, took.Round(time.Millisecond))
	return took
}

func TestKernel(t *testing.T) {
	for _, iptables := range []string{"iptables-nft", "iptables-legacy"} {
		t.Run(iptables, func(t *testing.T) { testKernel(t, iptables) })
	}
}

func testKernel(t *testing.T, iptables string) {
	udp := func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolUDP }
	affine := func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }
	external := func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"203.0.113.7"} }
	localOnly := func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }
	balanced := func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.HealthCheckNodePort = 30900
	}
	all := []ep{{ip: podIP(0), node: "node"}, {ip: podIP(1), node: "node"}, {ip: podIP(2), node: "other"}}
	w := newWorld(t, iptables,
		service("web", "10.43.0.1", 80, 30080, external), slice("web", "-a", 8080, all[:2]...), slice("web", "-b", 8080, all[2]),
		service("one", "10.43.0.2", 80, 0), slice("one", "", 8080, all[0]),
		service("none", "10.43.0.3", 80, 30083),
		service("sticky", "10.43.0.4", 80, 30084, affine), slice("sticky", "", 8080, all...),
		service("local", "10.43.0.5", 80, 30085, localOnly), slice("local", "", 8080, all...),
		service("dns", "10.43.0.6", 80, 30086, udp), namedSlice("dns", "", "", corev1.ProtocolUDP, 8080, all[0]),
		service("away", "10.43.0.7", 80, 30087, localOnly), slice("away", "", 8080, all[2]),
		service("balanced", "10.43.0.8", 80, 30088, localOnly, balanced), slice("balanced", "", 8080, all...),
	)
	node := ""
	w.want("pod to ClusterIP", w.pods[0], "tcp", "10.43.0.1:80", "0 1 2", "")
	w.want("node to ClusterIP", node, "tcp", "10.43.0.1:80", "0 1 2", "")
	w.want("outside to ClusterIP", w.outside, "tcp", "10.43.0.1:80", "0 1 2", "10.42.0.1 10.42.0.5 10.42.0.9")
	w.want("pod to pod by ClusterIP keeps its address", w.pods[1], "tcp", "10.43.0.2:80", "0", podIP(1))
	w.want("pod to itself by ClusterIP", w.pods[0], "tcp", "10.43.0.2:80", "0", "10.42.0.1")
	w.want("outside to node port", w.outside, "tcp", "192.168.60.1:30080", "0 1 2", "10.42.0.1 10.42.0.5 10.42.0.9")
	w.want("node to its node port", node, "tcp", "192.168.60.1:30080", "0 1 2", "")
	w.want("node to node port on localhost", node, "tcp", "127.0.0.1:30080", "0 1 2", "")
	w.want("pod to node port", w.pods[0], "tcp", "192.168.60.1:30080", "0 1 2", "")
	w.want("outside to external IP", w.outside, "tcp", "203.0.113.7:80", "0 1 2", "")
	w.want("pod to external IP", w.pods[1], "tcp", "203.0.113.7:80", "0 1 2", "")
	w.want("outside to a Local node port keeps its address", w.outside, "tcp", "192.168.60.1:30085", "0 1", "192.168.60.2")
	w.want("pod to a Local node port", w.pods[0], "tcp", "192.168.60.1:30085", "0 1 2", "")
	w.want("UDP to ClusterIP", w.pods[1], "udp", "10.43.0.6:80", "0", podIP(1))
	w.want("UDP to node port", w.outside, "udp", "192.168.60.1:30086", "0", "10.42.0.1")
	for _, ns := range []string{w.pods[0], node, w.outside} {
		w.refused("ClusterIP without endpoints", ns, "tcp", "10.43.0.3:80")
		w.refused("node port without endpoints", ns, "tcp", "192.168.60.1:30083")
	}
	if _, _, err := w.call(w.outside, "tcp", "192.168.60.1:30087"); !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
		t.Errorf("a Local node port without local endpoints: %v, want a timeout", err)
	}
	for _, ns := range []string{w.pods[0], node} {
		if _, _, err := w.call(ns, "tcp", "10.43.9.9:80"); !isTimeout(err) {
			t.Errorf("an address that no Service has: %v, want a timeout", err)
		}
	}
	for _, ns := range []string{w.pods[0], w.pods[1], w.outside} {
		if servers, _ := w.answers("affinity", ns, "tcp", "10.43.0.4:80", 20); len(servers) != 1 {
			t.Errorf("affinity: servers %q answered one client", servers)
		}
	}

	w.ranges()

	code, weight := w.health(30900)
	if code != 200 || weight != "2" {
		t.Errorf("health check of two local endpoints: %d, weight %s", code, weight)
	}
	w.setSlice(slice("balanced", "", 8080, all[2]))
	w.eventually("no local endpoint", 30*time.Second, func() bool { code, _ := w.health(30900); return code == 503 })

	// An endpoint that becomes ready is used at once, one that goes is not any more.
	w.setSlice(slice("one", "", 8080, all[1]))
	w.eventually("an endpoint changes", 30*time.Second, func() bool { s, _, _ := w.call(w.pods[2], "tcp", "10.43.0.2:80"); return s == "1" })
	w.setSlice(slice("one", "", 8080, ep{ip: podIP(1), notReady: true}))
	w.eventually("the last endpoint is not ready", 30*time.Second, func() bool {
		_, _, err := w.call(w.pods[2], "tcp", "10.43.0.2:80")
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	w.setSlice(slice("one", "", 8080, ep{ip: podIP(2), notReady: true, serving: true, terminating: true}))
	w.eventually("a terminating endpoint serves when nothing else does", 30*time.Second, func() bool {
		s, _, _ := w.call(w.pods[0], "tcp", "10.43.0.2:80")
		return s == "2"
	})

	// The route to Services comes back by itself when somebody deletes it.
	if out, err := exec.Command("ip", "route", "del", "10.43.0.0/16").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w.eventually("the deleted route is back", 30*time.Second, func() bool {
		out, err := exec.Command("ip", "route", "show", "10.43.0.0/16").Output()
		return err == nil && len(out) > 0
	})

	// A UDP client that keeps its socket moves on when its endpoint goes.
	netnstest.Do(t, w.outside, func() error {
		conn, err := net.Dial("udp4", "192.168.60.1:30086")
		if err != nil {
			return err
		}
		defer conn.Close()
		if s, _, err := exchange(conn); err != nil || s != "0" {
			t.Errorf("UDP: %s, %v", s, err)
		}
		w.setSlice(namedSlice("dns", "", "", corev1.ProtocolUDP, 8080, all[1]))
		w.eventually("a UDP flow moves", 30*time.Second, func() bool { s, _, _ := exchange(conn); return s == "1" })
		return nil
	})
	if iptables == "iptables-nft" {
		w.repairs(iptables)
	}
}

// health asks a health check port.
func (w *world) health(port int) (code int, weight string) {
	res, err := http.Get(fmt.Sprintf("http://192.168.60.1:%d/healthz", port))
	if err != nil {
		w.t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode, res.Header.Get("X-Load-Balancing-Endpoint-Weight")
}

// repairs damages the rules in several ways.
func (w *world) repairs(iptables string) {
	before := save(w.t, iptables)
	for _, damage := range []string{
		"-t nat -F MINI-P-SERVICES", "-t nat -D PREROUTING -j MINI-P-SERVICES", "-t nat -F", "-t filter -F MINI-P-REJECT",
	} {
		if out, err := exec.Command(iptables, strings.Fields(damage)...).CombinedOutput(); err != nil {
			w.t.Fatalf("%s: %v: %s", damage, err, out)
		}
	}
	if save(w.t, iptables) == before {
		w.t.Fatal("the damage did nothing")
	}
	w.eventually("damaged rules are back", 30*time.Second, func() bool { return len(save(w.t, iptables)) == len(before) })
	w.want("ClusterIP after the repair", w.pods[0], "tcp", "10.43.0.1:80", "0 1 2", "")
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// ranges: a Service in the range of a new ServiceCIDR is reached from the node, which has no default route; the rest of the
// range is dropped, and the route goes with it.
func (w *world) ranges() {
	w.t.Helper()
	ctx, cidrs := context.Background(), w.client.NetworkingV1().ServiceCIDRs()
	more := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.50.0.0/24"}}}
	if _, err := cidrs.Create(ctx, more, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	route := func() bool {
		out, err := exec.Command("ip", "route", "show", "10.50.0.0/24").Output()
		if err != nil {
			w.t.Fatal(err)
		}
		return len(out) > 0
	}
	w.eventually("a route to a new range", 30*time.Second, route)
	if _, err := w.client.CoreV1().Services("ns").Create(ctx, service("more", "10.50.0.1", 80, 0), metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.client.DiscoveryV1().EndpointSlices("ns").Create(ctx, slice("more", "", 8080, ep{ip: podIP(1)}), metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	w.eventually("the node reaches a Service of it", 30*time.Second, func() bool { s, _, _ := w.call("", "tcp", "10.50.0.1:80"); return s == "1" })
	if _, _, err := w.call("", "tcp", "10.50.0.9:80"); !isTimeout(err) {
		w.t.Errorf("an address of a new range that no Service has: %v, want a timeout", err)
	}
	if err := cidrs.Delete(ctx, "more", metav1.DeleteOptions{}); err != nil {
		w.t.Fatal(err)
	}
	w.eventually("the route goes with the range", 30*time.Second, func() bool { return !route() })
}
