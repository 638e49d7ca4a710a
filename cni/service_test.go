package cni

import (
	"context"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	clusterdns "github.com/mini-k8s/mini/dns"
	"github.com/mini-k8s/mini/internal/netns/netnstest"
	"github.com/mini-k8s/mini/internal/sysctl"
	"github.com/mini-k8s/mini/proxy"
)

// TestServicesOverTheBridge puts the pod network, the proxy and the DNS together on one node, which is the test's own
// namespace, with another node behind a tunnel. Services between pods of one bridge are the hard case: the answer must
// pass the node although it could go straight over the bridge.
func TestServicesOverTheBridge(t *testing.T) {
	netnstest.NeedRoot(t)
	far, router := netnstest.Namespace(t), netnstest.Namespace(t)
	netnstest.Link(t, netnstest.End{Name: "uplink", Addr: prefix("192.168.56.2/24")}, netnstest.End{NS: router, Name: "a", Addr: prefix("192.168.56.1/24")})
	netnstest.Link(t, netnstest.End{NS: far, Name: "uplink", Addr: prefix("192.168.57.2/24")}, netnstest.End{NS: router, Name: "b", Addr: prefix("192.168.57.1/24")})
	netnstest.Route(t, "", netip.Prefix{}, addr("192.168.56.1"))
	netnstest.Route(t, far, netip.Prefix{}, addr("192.168.57.1"))
	netnstest.Do(t, router, func() error { return sysctl.Write("net/ipv4/ip_forward", "1") })
	objA, objB := nodeObject("a", "192.168.56.2", "10.42.0.0/24"), nodeObject("b", "192.168.57.2", "10.42.1.0/24")
	farNode := newTestNode(t, far, "b", "192.168.57.2", objA, objB)

	port, proto, name := int32(80), corev1.ProtocolTCP, ""
	service := func(svc, ip string, nodePort int32) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: svc}, Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, ClusterIP: ip, Ports: []corev1.ServicePort{{Port: port, NodePort: nodePort, Protocol: proto}},
		}}
	}
	slice := func(svc string, ips ...string) *discoveryv1.EndpointSlice {
		s := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: svc, Labels: map[string]string{discoveryv1.LabelServiceName: svc}},
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &proto}},
		}
		for _, ip := range ips {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}})
		}
		return s
	}
	factory := informers.NewSharedInformerFactory(fake.NewClientset(objA, objB,
		service("near", "10.43.0.1", 30001), slice("near", "10.42.0.2"),
		service("far", "10.43.0.2", 30002), slice("far", "10.42.1.2"),
		service("host", "10.43.0.3", 30003), slice("host", "192.168.57.2"),
	), 0)
	ctx, cancel := context.WithCancel(context.Background())
	dir := t.TempDir()
	netCfg := Config{
		DataDir: filepath.Join(dir, "cni"), NodeName: "a", NodeIP: addr("192.168.56.2"), ClusterCIDR: prefix("10.42.0.0/16"),
		Informers: factory, Logger: testLogger(t),
	}
	network, err := New(netCfg)
	if err != nil {
		t.Fatal(err)
	}
	dnsIP := addr("10.43.0.10")
	proxyCfg := proxy.Config{
		NodeName: "a", ClusterCIDR: prefix("10.42.0.0/16"), SkipIPs: []netip.Addr{dnsIP}, DataDir: filepath.Join(dir, "proxy"),
		Informers: factory, Logger: testLogger(t),
	}
	services, err := proxy.New(proxyCfg)
	if err != nil {
		t.Fatal(err)
	}
	names, err := clusterdns.New(clusterdns.Config{Address: dnsIP, Domain: "cluster.local", Informers: factory, Logger: testLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	done := make(chan error, 3)
	for _, run := range []func(context.Context) error{network.Run, services.Run, names.Run} {
		go func() { done <- run(ctx) }()
	}
	defer func() {
		cancel()
		for range 3 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if err := Clean(context.Background(), netCfg); err != nil {
			t.Error(err)
		}
		if err := proxy.Clean(context.Background(), proxyCfg); err != nil {
			t.Error(err)
		}
	}()
	for what, ready := range map[string]<-chan struct{}{"network": network.Ready(), "proxy": services.Ready(), "dns": names.Ready()} {
		select {
		case <-ready:
		case <-time.After(20 * time.Second):
			t.Fatal(what, "is not ready")
		}
	}
	pod := func(id string) string {
		ns := netnstest.Namespace(t)
		if _, err := network.Add(ctx, Pod{SandboxID: id, Namespace: "ns", Name: id, NetNS: ns}); err != nil {
			t.Fatal(err)
		}
		return ns
	}
	one, two := pod("one"), pod("two")
	there, _ := farNode.pod("there")
	for _, ns := range []string{one, there, far} {
		serve(t, ns, "tcp", ":80")
	}
	wantCall(t, "pod to a Service on its own bridge", two, "tcp", "10.43.0.1:80", "10.42.0.3")
	wantCall(t, "pod to itself by a Service", one, "tcp", "10.43.0.1:80", "10.42.0.1")
	wantCall(t, "pod to itself by its node port", one, "tcp", "192.168.56.2:30001", "10.42.0.1")
	wantCall(t, "pod to a Service behind the tunnel", two, "tcp", "10.43.0.2:80", "10.42.0.3")
	wantCall(t, "pod to a Service of a hostNetwork pod", two, "tcp", "10.43.0.3:80", "10.42.0.3")
	wantCall(t, "node to a Service on its bridge", "", "tcp", "10.43.0.1:80", "10.42.0.1")
	wantCall(t, "node to a Service behind the tunnel", "", "tcp", "10.43.0.2:80", "10.42.0.0")
	wantCall(t, "outside to a node port", router, "tcp", "192.168.56.2:30001", "10.42.0.1")
	wantCall(t, "outside to a node port for a pod of another node", router, "tcp", "192.168.56.2:30002", "10.42.0.0")
	wantCall(t, "another node to a node port", far, "tcp", "192.168.56.2:30002", "10.42.0.0")
	wantCall(t, "localhost to a node port behind the tunnel", "", "tcp", "127.0.0.1:30002", "10.42.0.0")
	for _, ns := range []string{one, ""} {
		err := netnsDo(ns, func() error {
			client := dns.Client{Timeout: time.Second}
			msg, _, err := client.Exchange(new(dns.Msg).SetQuestion("near.ns.svc.cluster.local.", dns.TypeA), "10.43.0.10:53")
			if err == nil && (len(msg.Answer) != 1 || msg.Answer[0].(*dns.A).A.String() != "10.43.0.1") {
				t.Errorf("DNS answers %s", msg)
			}
			return err
		})
		if err != nil {
			t.Errorf("DNS from %q: %v", ns, err)
		}
	}
}
