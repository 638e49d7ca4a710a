// Package netnstest gives tests that touch the network a world of their own: Main runs the test binary again inside a new
// network and mount namespace, so that whatever a test makes there is gone with the process, and nothing reaches the
// machine's own network. Namespace and Link make the pods and nodes of a test.
package netnstest

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mini-k8s/mini/internal/netns"
)

const inside = "MINI_NETNSTEST_INSIDE"

// Main is for TestMain. Without root the tests run in the namespace they are in; those that need more call NeedRoot.
func Main(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(inside) != "" {
		if os.Getenv(inside) != "" {
			if err := prepare(); err != nil {
				fmt.Fprintln(os.Stderr, "netnstest:", err)
				os.Exit(2)
			}
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "netnstest:", err)
		os.Exit(2)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

func prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// NeedRoot skips a test that is not inside a namespace of its own.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Getenv(inside) == "" {
		t.Skip("needs root")
	}
}

var names struct {
	sync.Mutex
	n int
}

// Namespace makes a network namespace with lo up, and removes it after the test. It returns its path.
func Namespace(t testing.TB) string {
	t.Helper()
	NeedRoot(t)
	names.Lock()
	names.n++
	path := filepath.Join(t.TempDir(), fmt.Sprintf("ns%d", names.n))
	names.Unlock()
	if err := netns.Create(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(path); err != nil {
			t.Error(err)
		}
	})
	Do(t, path, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return path
}

// Do runs fn in the namespace at path, or in the test's own if path is "".
func Do(t testing.TB, path string, fn func() error) {
	t.Helper()
	var err error
	if path == "" {
		err = fn()
	} else {
		err = netns.Do(path, fn)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// End is one end of a Link: the namespace ("" is the test's own), the interface's name and its address.
type End struct {
	NS, Name string
	Addr     netip.Prefix
}

// Link connects two namespaces with a veth pair, both ends up. It goes with the namespaces, or after the test.
func Link(t testing.TB, a, b End) {
	t.Helper()
	Do(t, a.NS, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = a.Name
		veth := netlink.NewVeth(attrs)
		veth.PeerName = b.Name
		if b.NS != "" {
			ns, err := os.Open(b.NS)
			if err != nil {
				return err
			}
			defer ns.Close()
			veth.PeerNamespace = netlink.NsFd(int(ns.Fd()))
		}
		return netlink.LinkAdd(veth)
	})
	for _, end := range []End{a, b} {
		Do(t, end.NS, func() error {
			link, err := netlink.LinkByName(end.Name)
			if err != nil {
				return err
			}
			if end.Addr.IsValid() {
				addr, err := netlink.ParseAddr(end.Addr.String())
				if err != nil {
					return err
				}
				if err := netlink.AddrAdd(link, addr); err != nil {
					return err
				}
			}
			return netlink.LinkSetUp(link)
		})
	}
	for _, end := range []End{a, b} {
		Do(t, end.NS, func() error { return waitUp(end.Name) })
	}
	if a.NS == "" {
		t.Cleanup(func() {
			if link, err := netlink.LinkByName(a.Name); err == nil {
				if err := netlink.LinkDel(link); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// waitUp waits for the kernel to notice the carrier, which it does in its own time.
func waitUp(name string) error {
	for start := time.Now(); ; time.Sleep(2 * time.Millisecond) {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Since(start) > 10*time.Second {
			return fmt.Errorf("%s is still %s after 10 s", name, link.Attrs().OperState)
		}
	}
}

// Route adds a route in a namespace; dst "" is the default route.
func Route(t testing.TB, ns string, dst netip.Prefix, via netip.Addr) {
	t.Helper()
	Do(t, ns, func() error {
		route := &netlink.Route{Gw: via.AsSlice()}
		if dst.IsValid() {
			addr, err := netlink.ParseIPNet(dst.String())
			if err != nil {
				return err
			}
			route.Dst = addr
		}
		return netlink.RouteAdd(route)
	})
}
