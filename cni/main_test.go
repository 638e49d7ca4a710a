package cni

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/mini-k8s/mini/internal/iptables"
	"github.com/mini-k8s/mini/internal/netns/netnstest"
)

func TestMain(m *testing.M) {
	if os.Getenv(asPlugin) != "" {
		os.Exit(PluginMain())
	}
	netnstest.Main(m)
}

func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, nil))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

func nodeObject(name, ip, cidr string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.NodeSpec{PodCIDR: cidr},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}},
	}
}

// testNode is a node in a namespace of its own, driven one round at a time.
type testNode struct {
	t     *testing.T
	ns    string
	net   *Node
	table *iptables.Table
}

func newTestNode(t *testing.T, ns, name, ip string, nodes ...*corev1.Node) *testNode {
	t.Helper()
	var objects []runtime.Object
	for _, n := range nodes {
		objects = append(objects, n)
	}
	factory := informers.NewSharedInformerFactory(fake.NewClientset(objects...), 0)
	n, err := New(Config{
		DataDir: filepath.Join(t.TempDir(), name), NodeName: name, NodeIP: netip.MustParseAddr(ip),
		ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16"), Informers: factory, Logger: testLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(t.Context().Done())
	factory.WaitForCacheSync(t.Context().Done())
	node := &testNode{t: t, ns: ns, net: n}
	netnstest.Do(t, ns, func() error {
		cmd, err := iptables.Find("")
		if err != nil {
			return err
		}
		n.cmd = cmd
		node.table = iptables.NewTable(iptables.Config{
			Command: cmd, Prefix: chainPrefix, Anchors: anchors, Refresh: n.wantedChains, Logger: testLogger(t),
		})
		return nil
	})
	node.sync()
	return node
}

func (n *testNode) sync() {
	n.t.Helper()
	netnstest.Do(n.t, n.ns, func() error {
		links, err := n.net.sync(context.Background(), n.table)
		if err == nil && links == nil {
			err = errors.New("the node has no podCIDR")
		}
		return err
	})
}

// pod connects a new namespace.
func (n *testNode) pod(name string, ports ...PortMapping) (ns string, ip netip.Addr) {
	n.t.Helper()
	ns = netnstest.Namespace(n.t)
	netnstest.Do(n.t, n.ns, func() error {
		res, err := n.net.Add(context.Background(), Pod{SandboxID: name, Namespace: "default", Name: name, NetNS: ns, Ports: ports})
		if err == nil {
			ip = res.IPs[0]
		}
		return err
	})
	return ns, ip
}

// serve answers every connection to addr in a namespace with the caller's address, until the test ends.
func serve(t *testing.T, ns, network, addr string) {
	t.Helper()
	netnstest.Do(t, ns, func() error {
		if network == "udp" {
			conn, err := net.ListenPacket("udp4", addr)
			if err != nil {
				return err
			}
			t.Cleanup(func() { conn.Close() })
			go func() {
				buf := make([]byte, 2000)
				for {
					_, from, err := conn.ReadFrom(buf)
					if err != nil {
						return
					}
					_, _ = conn.WriteTo([]byte(from.String()+"\n"), from)
				}
			}()
			return nil
		}
		l, err := net.Listen("tcp4", addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					fmt.Fprintln(conn, conn.RemoteAddr())
					_, _ = io.Copy(conn, conn)
				}()
			}
		}()
		return nil
	})
}

// call connects from a namespace and returns the IP that the server saw.
func call(t *testing.T, ns, network, addr string) (seen string, err error) {
	t.Helper()
	run := func() error {
		conn, err := net.DialTimeout(network+"4", addr, 20*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			return err
		}
		if network == "udp" {
			if _, err := conn.Write([]byte("x")); err != nil {
				return err
			}
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			return err
		}
		seen, _, err = net.SplitHostPort(strings.TrimSpace(line))
		return err
	}
	return seen, netnsDo(ns, run)
}

func wantCall(t *testing.T, what, ns, network, addr, seen string) {
	t.Helper()
	got, err := call(t, ns, network, addr)
	if err != nil {
		t.Errorf("%s: %v", what, err)
	} else if got != seen {
		t.Errorf("%s: the server saw %s, want %s", what, got, seen)
	}
}

var (
	createOptions metav1.CreateOptions
	updateOptions metav1.UpdateOptions
	deleteOptions metav1.DeleteOptions
)
