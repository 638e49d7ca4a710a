package cni

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/mini-k8s/mini/internal/netns"
	"github.com/mini-k8s/mini/internal/netns/netnstest"
	"github.com/mini-k8s/mini/internal/sysctl"
)

func netnsDo(ns string, fn func() error) error {
	if ns == "" {
		return fn()
	}
	return netns.Do(ns, fn)
}

var (
	prefix = netip.MustParsePrefix
	addr   = netip.MustParseAddr
)

// state is what a node's kernel holds, as text.
func state(t *testing.T, ns string) string {
	t.Helper()
	var out strings.Builder
	netnstest.Do(t, ns, func() error {
		for _, cmd := range []string{"ip -br link", "ip -br -4 addr", "ip -4 route show table all", "ip rule", "iptables-save"} {
			args := strings.Fields(cmd)
			text, err := exec.Command(args[0], args[1:]...).Output()
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(text)) {
				if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ":") && !strings.HasPrefix(line, "*") && !strings.HasPrefix(line, "COMMIT") {
					out.WriteString(line)
				}
			}
		}
		for _, s := range []string{"net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables", "net/ipv4/conf/all/rp_filter"} {
			v, err := sysctl.Read(s)
			if err != nil {
				return err
			}
			out.WriteString(s + "=" + v + "\n")
		}
		return nil
	})
	return out.String()
}

func TestTwoNodesOnOneSubnet(t *testing.T) {
	a, b := netnstest.Namespace(t), netnstest.Namespace(t)
	netnstest.Link(t, netnstest.End{NS: a, Name: "uplink", Addr: prefix("192.168.50.1/24")}, netnstest.End{NS: b, Name: "uplink", Addr: prefix("192.168.50.2/24")})
	beforeA := state(t, a)
	objA, objB := nodeObject("a", "192.168.50.1", "10.42.0.0/24"), nodeObject("b", "192.168.50.2", "10.42.1.0/24")
	na, nb := newTestNode(t, a, "a", "192.168.50.1", objA, objB), newTestNode(t, b, "b", "192.168.50.2", objA, objB)
	pa1, ipA1 := na.pod("a1")
	pa2, ipA2 := na.pod("a2", PortMapping{HostPort: 8080, ContainerPort: 80, Protocol: "TCP"},
		PortMapping{HostPort: 8081, ContainerPort: 81, Protocol: "UDP"}, PortMapping{HostPort: 8082, ContainerPort: 80, Protocol: "tcp", HostIP: "127.0.0.1"})
	pb, ipB := nb.pod("b1")
	if ipA1 != addr("10.42.0.2") || ipA2 != addr("10.42.0.3") || ipB != addr("10.42.1.2") {
		t.Errorf("addresses are %s %s %s", ipA1, ipA2, ipB)
	}
	for _, ns := range []string{pa1, pa2, pb, a, b} {
		serve(t, ns, "tcp", ":80")
	}
	serve(t, pa2, "udp", ":81")
	serve(t, a, "tcp", "127.0.0.1:82")

	wantCall(t, "pod to pod on its node", pa1, "tcp", "10.42.0.3:80", "10.42.0.2")
	wantCall(t, "pod to pod on another node", pa1, "tcp", "10.42.1.2:80", "10.42.0.2")
	wantCall(t, "pod to its node", pa1, "tcp", "192.168.50.1:80", "10.42.0.2")
	wantCall(t, "pod to another node without NAT", pa1, "tcp", "192.168.50.2:80", "10.42.0.2")
	wantCall(t, "node to its pod", a, "tcp", "10.42.0.2:80", "10.42.0.1")
	wantCall(t, "node to pod of another node", b, "tcp", "10.42.0.2:80", "192.168.50.2")
	wantCall(t, "hostPort from another node", b, "tcp", "192.168.50.1:8080", "192.168.50.2")
	wantCall(t, "hostPort from another node's pod", pb, "tcp", "192.168.50.1:8080", "10.42.1.2")
	wantCall(t, "hostPort from a pod of the node", pa1, "tcp", "192.168.50.1:8080", "10.42.0.2")
	wantCall(t, "hostPort from the pod itself", pa2, "tcp", "192.168.50.1:8080", "10.42.0.1")
	wantCall(t, "hostPort from the node", a, "tcp", "192.168.50.1:8080", "192.168.50.1")
	wantCall(t, "hostPort on loopback", a, "tcp", "127.0.0.1:8080", "10.42.0.1")
	wantCall(t, "hostPort over UDP", b, "udp", "192.168.50.1:8081", "192.168.50.2")
	wantCall(t, "hostPort bound to loopback", a, "tcp", "127.0.0.1:8082", "10.42.0.1")
	if seen, err := call(t, b, "tcp", "192.168.50.1:8082"); err == nil {
		t.Errorf("hostPort bound to 127.0.0.1 answered from outside, to %s", seen)
	}
	netnstest.Do(t, pa1, func() error { return exec.Command("ip", "route", "add", "127.0.0.1", "dev", "eth0").Run() })

	// Adding again changes nothing.
	netnstest.Do(t, a, func() error {
		res, err := na.net.Add(context.Background(), Pod{SandboxID: "a1", NetNS: pa1})
		if err != nil || res.IPs[0] != ipA1 {
			t.Errorf("second Add: %v, %v", res, err)
		}
		return nil
	})
	// A pod that goes takes everything with it; its address rests.
	netnstest.Do(t, a, func() error {
		for range 2 {
			if err := na.net.Del(context.Background(), Pod{SandboxID: "a2"}); err != nil {
				return err
			}
		}
		if _, err := netlink.LinkByName(linkName("a2", "eth0")); !isLinkNotFound(err) {
			t.Errorf("the link of a deleted pod: %v", err)
		}
		return nil
	})
	if s := state(t, a); strings.Contains(s, "10.42.0.3") || strings.Contains(s, "8080") {
		t.Errorf("a deleted pod left something:\n%s", s)
	}
	if _, ip := na.pod("a3"); ip != addr("10.42.0.4") {
		t.Errorf("next address is %s, want 10.42.0.4", ip)
	}
	// After a crash: a link without a lease, and leases of sandboxes that are gone.
	netnstest.Do(t, a, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = linkName("crashed", "eth0")
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "crashed"}); err != nil {
			return err
		}
		return na.net.Prune(context.Background(), []string{"a1"})
	})
	l, err := na.net.attach.leases.read()
	if err != nil || len(l.Items) != 1 || l.Items[0].SandboxID != "a1" {
		t.Errorf("leases after Prune: %+v, %v", l, err)
	}
	if n := strings.Count(state(t, a), "\n"+linkPrefix); n != 1 {
		t.Errorf("%d pod links after Prune, want 1:\n%s", n, state(t, a))
	}
	// Everything goes.
	netnstest.Do(t, a, func() error { return Clean(context.Background(), na.net.cfg) })
	if d := cmp.Diff(beforeA, state(t, a)); d != "" {
		t.Errorf("Clean left something (-before +after):\n%s", d)
	}
	if files, _ := os.ReadDir(na.net.cfg.DataDir); len(files) != 0 {
		t.Errorf("Clean left files: %v", files)
	}
}

// TestTunnel puts two nodes on different subnets, with a router between them that knows nothing of pods.
func TestTunnel(t *testing.T) {
	a, b, r := netnstest.Namespace(t), netnstest.Namespace(t), netnstest.Namespace(t)
	netnstest.Link(t, netnstest.End{NS: a, Name: "uplink", Addr: prefix("192.168.51.2/24")}, netnstest.End{NS: r, Name: "a", Addr: prefix("192.168.51.1/24")})
	netnstest.Link(t, netnstest.End{NS: b, Name: "uplink", Addr: prefix("192.168.52.2/24")}, netnstest.End{NS: r, Name: "b", Addr: prefix("192.168.52.1/24")})
	netnstest.Route(t, a, netip.Prefix{}, addr("192.168.51.1"))
	netnstest.Route(t, b, netip.Prefix{}, addr("192.168.52.1"))
	netnstest.Do(t, r, func() error { return sysctl.Write("net/ipv4/ip_forward", "1") })
	netnstest.Do(t, a, func() error { return sysctl.Write("net/ipv4/conf/all/rp_filter", "1") })
	before := state(t, a)
	objA, objB := nodeObject("a", "192.168.51.2", "10.42.0.0/24"), nodeObject("b", "192.168.52.2", "10.42.1.0/24")
	na, nb := newTestNode(t, a, "a", "192.168.51.2", objA, objB), newTestNode(t, b, "b", "192.168.52.2", objA, objB)
	pa, _ := na.pod("a1")
	pb, _ := nb.pod("b1", PortMapping{HostPort: 8080, ContainerPort: 80})
	for _, ns := range []string{pa, pb, a, b, r} {
		serve(t, ns, "tcp", ":80")
		serve(t, ns, "udp", ":81")
	}
	for _, net := range []struct{ proto, port string }{{"tcp", ":80"}, {"udp", ":81"}} {
		wantCall(t, "pod to pod", pa, net.proto, "10.42.1.2"+net.port, "10.42.0.2")
		wantCall(t, "pod to pod, back", pb, net.proto, "10.42.0.2"+net.port, "10.42.1.2")
		wantCall(t, "pod to the other node without NAT", pa, net.proto, "192.168.52.2"+net.port, "10.42.0.2")
		wantCall(t, "node to the other node's pod", a, net.proto, "10.42.1.2"+net.port, "192.168.51.2")
		wantCall(t, "node to node stays outside the tunnel", a, net.proto, "192.168.52.2"+net.port, "192.168.51.2")
		wantCall(t, "pod to the outside is masqueraded", pa, net.proto, "192.168.51.1"+net.port, "192.168.51.2")
	}
	wantCall(t, "hostPort through the tunnel", pa, "tcp", "192.168.52.2:8080", "10.42.0.2")
	netnstest.Do(t, pa, func() error {
		link, err := netlink.LinkByName("eth0")
		if err == nil && link.Attrs().MTU != 1450 {
			t.Errorf("MTU is %d, want 1450", link.Attrs().MTU)
		}
		return err
	})
	// Hand-made damage is repaired by the next round, which a notification starts.
	netnstest.Do(t, a, func() error {
		for _, cmd := range []string{
			"ip route del 10.42.1.0/24", "ip rule del priority 1090", "ip neigh del 10.42.1.0 dev " + tunnelName,
			"bridge fdb del " + hardwareAddr(addr("10.42.1.0")).String() + " dev " + tunnelName + " self",
		} {
			args := strings.Fields(cmd)
			if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", cmd, err, out)
			}
		}
		return nil
	})
	if _, err := call(t, pa, "tcp", "10.42.1.2:80"); err == nil {
		t.Error("the call succeeds without route and entries: the test tests nothing")
	}
	na.sync()
	wantCall(t, "pod to pod after the repair", pa, "tcp", "10.42.1.2:80", "10.42.0.2")
	wantCall(t, "pod to node after the repair", pa, "tcp", "192.168.52.2:80", "10.42.0.2")
	netnstest.Do(t, a, func() error { return Clean(context.Background(), na.net.cfg) })
	if d := cmp.Diff(before, state(t, a)); d != "" {
		t.Errorf("Clean left something (-before +after):\n%s", d)
	}
}

// TestRun runs the real loop in the test's own namespace: the node gets its podCIDR late, another node appears and
// moves, and rules, routes and the bridge are damaged by hand.
func TestRun(t *testing.T) {
	netnstest.NeedRoot(t)
	outside := netnstest.Namespace(t)
	netnstest.Link(t, netnstest.End{Name: "uplink", Addr: prefix("192.168.53.1/24")}, netnstest.End{NS: outside, Name: "uplink", Addr: prefix("192.168.53.2/24")})
	netnstest.Route(t, outside, prefix("10.42.7.0/24"), addr("192.168.53.1"))
	own := nodeObject("a", "192.168.53.1", "")
	client := fake.NewClientset(own)
	factory := informers.NewSharedInformerFactory(client, 0)
	cfg := Config{
		DataDir: filepath.Join(t.TempDir(), "cni"), NodeName: "a", NodeIP: addr("192.168.53.1"),
		ClusterCIDR: prefix("10.42.0.0/16"), Informers: factory, Logger: testLogger(t),
	}
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := Clean(context.Background(), cfg); err != nil {
			t.Error(err)
		}
	}()
	factory.Start(ctx.Done())
	pod := netnstest.Namespace(t)
	short, cancelShort := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancelShort()
	if _, err := n.Add(short, Pod{SandboxID: "s", NetNS: pod}); err == nil || !strings.Contains(err.Error(), "not ready") {
		t.Fatalf("Add before the node has a podCIDR: %v", err)
	}
	own = own.DeepCopy()
	own.Spec.PodCIDR = "10.42.7.0/24"
	if _, err := client.CoreV1().Nodes().Update(ctx, own, updateOptions); err != nil {
		t.Fatal(err)
	}
	res, err := n.Add(ctx, Pod{SandboxID: "s", NetNS: pod})
	if err != nil || res.IPs[0] != addr("10.42.7.2") {
		t.Fatalf("Add: %v %v", res, err)
	}
	if _, err := client.CoreV1().Nodes().Create(ctx, nodeObject("b", "192.168.53.2", "10.42.8.0/24"), createOptions); err != nil {
		t.Fatal(err)
	}
	route := "10.42.8.0/24 via 192.168.53.2 dev uplink proto 109"
	eventually(t, 30*time.Second, "the route to a new node", func() bool { return strings.Contains(state(t, ""), route) })
	run(t, "ip route del 10.42.8.0/24")
	eventually(t, 30*time.Second, "a deleted route", func() bool { return strings.Contains(state(t, ""), route) })
	run(t, "ip link set uplink down")
	run(t, "ip link set uplink up")
	eventually(t, 30*time.Second, "routes after the uplink went down", func() bool { return strings.Contains(state(t, ""), route) })
	run(t, "ip addr del 10.42.7.1/24 dev mini0")
	run(t, "ip link set mini0 down")
	serve(t, outside, "tcp", ":80")
	eventually(t, 30*time.Second, "the bridge's address", func() bool { _, err := call(t, pod, "tcp", "192.168.53.2:80"); return err == nil })
	moved := nodeObject("b", "192.168.99.2", "10.42.8.0/24")
	if _, err := client.CoreV1().Nodes().Update(ctx, moved, updateOptions); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "a route through the tunnel", func() bool {
		return strings.Contains(state(t, ""), "10.42.8.0/24 via 10.42.8.0 dev mini.vxlan proto 109 src 192.168.53.1 onlink")
	})
	// The pods' links follow the route, one after the other.
	eventually(t, 30*time.Second, "the MTU of a running pod", func() bool {
		var mtu int
		netnstest.Do(t, pod, func() error {
			link, err := netlink.LinkByName("eth0")
			if err == nil {
				mtu = link.Attrs().MTU
			}
			return err
		})
		return mtu == 1450
	})
	if err := client.CoreV1().Nodes().Delete(ctx, "b", deleteOptions); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the removal of route and tunnel", func() bool {
		s := state(t, "")
		return !strings.Contains(s, "10.42.8.0") && !strings.Contains(s, tunnelName)
	})
	run(t, "iptables -t nat -F MINI-N-POSTROUTING")
	run(t, "iptables -D FORWARD -j MINI-N-FORWARD")
	eventually(t, 30*time.Second, "deleted rules", func() bool {
		s := state(t, "")
		return strings.Contains(s, "MINI-N-POSTROUTING -d 10.42.0.0/16 -j RETURN") && strings.Contains(s, "-A FORWARD -j MINI-N-FORWARD")
	})
}

func run(t *testing.T, command string) {
	t.Helper()
	args := strings.Fields(command)
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
}

func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > within {
			t.Fatalf("%s: not within %s; the node has:\n%s", what, within, state(t, ""))
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("%s: after %s", what, time.Since(start).Round(time.Millisecond))
}
