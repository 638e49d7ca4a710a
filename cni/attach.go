package cni

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mini-k8s/mini/internal/netns"
)

// linkPrefix begins the name of every host end of a pod's veth pair.
const linkPrefix = "pod"

// segment is the node's bridge and range: all that is needed to connect a pod.
type segment struct {
	Bridge      string       `json:"bridge"`
	PodCIDR     netip.Prefix `json:"podCIDR"`
	ClusterCIDR netip.Prefix `json:"clusterCIDR"`
	MTU         int          `json:"mtu"`
}

// attacher connects and disconnects sandboxes. Its methods may be called at the same time, by several processes.
type attacher struct {
	leases leaseFile
	// ports brings the hostPort rules into line with all leases; it is called with the lock of the lease file held.
	ports func(context.Context, []lease) error
}

// add connects a sandbox; called again, it completes what is missing and returns the same address.
func (a *attacher) add(ctx context.Context, seg segment, ifName string, pod Pod) (_ lease, retErr error) {
	want := lease{
		SandboxID: pod.SandboxID, IfName: ifName, NetNS: pod.NetNS,
		Pod: pod.Namespace + "/" + pod.Name, Ports: pod.Ports,
	}
	var got lease
	fresh := false
	err := a.leases.update(func(l *leases) (bool, error) {
		_, known := l.find(want.SandboxID, want.IfName)
		fresh = !known
		var err error
		got, err = l.take(seg.PodCIDR, want)
		return true, err
	})
	if err != nil {
		return lease{}, err
	}
	defer func() {
		if retErr != nil && fresh {
			retErr = errors.Join(retErr, a.del(context.WithoutCancel(ctx), pod.SandboxID, ifName))
		}
	}()
	if err := connect(seg, got); err != nil {
		return lease{}, err
	}
	if len(got.Ports) > 0 {
		if err := a.syncPorts(ctx); err != nil {
			return lease{}, err
		}
		forgetFlows(got.Ports)
	}
	return got, nil
}

// del disconnects a sandbox. The address is given back last, so that nobody gets it while a link or a rule still holds
// it, and so that a repeated call finds what an interrupted one has left to do.
func (a *attacher) del(ctx context.Context, sandboxID, ifName string) error {
	if err := removeLink(linkName(sandboxID, ifName)); err != nil {
		return err
	}
	var gone lease
	var found bool
	if err := a.leases.update(func(l *leases) (bool, error) {
		if gone, found = l.find(sandboxID, ifName); !found || len(gone.Ports) == 0 {
			return false, nil
		}
		blank := gone
		blank.Ports = nil
		return true, l.replace(blank)
	}); err != nil || !found {
		return err
	}
	if err := a.syncPorts(ctx); err != nil {
		return err
	}
	forgetFlows(gone.Ports)
	return a.leases.update(func(l *leases) (bool, error) { return l.remove(sandboxID, ifName), nil })
}

// prune disconnects every sandbox for which keep says no, and removes links that belong to no lease.
func (a *attacher) prune(ctx context.Context, keep func(lease) bool) error {
	l, err := a.leases.read()
	if err != nil {
		return err
	}
	var errs []error
	for _, it := range l.Items {
		if !keep(it) {
			errs = append(errs, a.del(ctx, it.SandboxID, it.IfName))
		}
	}
	// Listing under the lock keeps clear of an add that has its lease but not yet its link, or the other way round.
	errs = append(errs, a.leases.update(func(l *leases) (bool, error) {
		known := map[string]bool{}
		for _, it := range l.Items {
			known[linkName(it.SandboxID, it.IfName)] = true
		}
		links, err := netlink.LinkList()
		if err != nil {
			return false, fmt.Errorf("list links: %w", err)
		}
		var errs []error
		for _, link := range links {
			if name := link.Attrs().Name; isPodLink(link) && !known[name] {
				errs = append(errs, removeLink(name))
			}
		}
		return false, errors.Join(errs...)
	}))
	return errors.Join(errs...)
}

func (a *attacher) syncPorts(ctx context.Context) error {
	return a.leases.update(func(l *leases) (bool, error) { return false, a.ports(ctx, l.Items) })
}

// check says what is wrong with a connected sandbox.
func (a *attacher) check(seg segment, sandboxID, ifName string) error {
	l, err := a.leases.read()
	if err != nil {
		return err
	}
	it, ok := l.find(sandboxID, ifName)
	if !ok {
		return fmt.Errorf("sandbox %s has no address for %s", sandboxID, ifName)
	}
	return connected(seg, it)
}

// connect makes the veth pair of a lease unless it is there and whole.
func connect(seg segment, l lease) error {
	if connected(seg, l) == nil {
		return nil
	}
	bridge, err := netlink.LinkByName(seg.Bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", seg.Bridge, err)
	}
	ns, err := os.Open(l.NetNS)
	if err != nil {
		return fmt.Errorf("open the pod's network namespace: %w", err)
	}
	defer ns.Close()
	name := linkName(l.SandboxID, l.IfName)
	if err := removeLink(name); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	attrs.MTU = seg.MTU
	attrs.MasterIndex = bridge.Attrs().Index
	veth := netlink.NewVeth(attrs)
	veth.PeerName = l.IfName
	veth.PeerNamespace = netlink.NsFd(int(ns.Fd()))
	veth.PeerHardwareAddr = hardwareAddr(l.IP)
	veth.PeerMTU = uint32(seg.MTU)
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("create veth %s: %w", name, err)
	}
	// A pod must be able to reach itself through a Service: the bridge sends the packet back out of the port it came from.
	if err := netlink.LinkSetHairpin(veth, true); err != nil {
		return fmt.Errorf("set hairpin on %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return netns.Do(l.NetNS, func() error { return configurePod(seg, l) })
}

// configurePod runs inside the pod's network namespace.
func configurePod(seg segment, l lease) error {
	if lo, err := netlink.LinkByName("lo"); err == nil {
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("set lo up: %w", err)
		}
	}
	link, err := netlink.LinkByName(l.IfName)
	if err != nil {
		return fmt.Errorf("find %s in the pod: %w", l.IfName, err)
	}
	addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(l.IP, seg.PodCIDR.Bits()))}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("give %s to %s: %w", l.IP, l.IfName, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", l.IfName, err)
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway(seg.PodCIDR).AsSlice()}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("set the pod's default route: %w", err)
	}
	return nil
}

// connected returns nil if both ends of the lease's veth pair are there, and configured.
func connected(seg segment, l lease) error {
	bridge, err := netlink.LinkByName(seg.Bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", seg.Bridge, err)
	}
	name := linkName(l.SandboxID, l.IfName)
	host, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if host.Attrs().MasterIndex != bridge.Attrs().Index || host.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("%s is not up on bridge %s", name, seg.Bridge)
	}
	return netns.Do(l.NetNS, func() error {
		link, err := netlink.LinkByName(l.IfName)
		if err != nil {
			return fmt.Errorf("find %s in the pod: %w", l.IfName, err)
		}
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
		if err != nil {
			return fmt.Errorf("list addresses of %s: %w", l.IfName, err)
		}
		for _, a := range addrs {
			if a.IP.Equal(l.IP.AsSlice()) {
				return hasDefaultRoute(link, gateway(seg.PodCIDR))
			}
		}
		return fmt.Errorf("%s does not have %s", l.IfName, l.IP)
	})
}

func hasDefaultRoute(link netlink.Link, gw netip.Addr) error {
	routes, err := netlink.RouteList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if (r.Dst == nil || r.Dst.IP.IsUnspecified()) && r.Gw.Equal(gw.AsSlice()) {
			return nil
		}
	}
	return fmt.Errorf("no default route through %s", gw)
}

// setMTU changes the MTU of connected sandboxes; one that is going away is no error.
func setMTU(l lease, mtu int) error {
	link, err := netlink.LinkByName(linkName(l.SandboxID, l.IfName))
	if err != nil {
		return nil
	}
	if err := netlink.LinkSetMTU(link, mtu); err != nil {
		return err
	}
	err = netns.Do(l.NetNS, func() error {
		link, err := netlink.LinkByName(l.IfName)
		if err != nil {
			return nil
		}
		return netlink.LinkSetMTU(link, mtu)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// removeLink deletes a link, and with it the other end of a veth pair.
func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		if isLinkNotFound(err) {
			return nil
		}
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}

func isLinkNotFound(err error) bool {
	_, ok := errors.AsType[netlink.LinkNotFoundError](err)
	return ok || errors.Is(err, unix.ENODEV)
}

func isPodLink(link netlink.Link) bool {
	name := link.Attrs().Name
	return link.Type() == "veth" && len(name) == len(linkPrefix)+12 && strings.HasPrefix(name, linkPrefix)
}

// linkName is the host end of a sandbox's veth pair: it follows from the sandbox, so that it can be found and removed
// also when nothing else is known.
func linkName(sandboxID, ifName string) string {
	sum := sha256.Sum256([]byte(sandboxID + "/" + ifName))
	return linkPrefix + hex.EncodeToString(sum[:6])
}

// hardwareAddr follows from the address, so that an ARP entry for an address stays true when another pod gets it.
func hardwareAddr(ip netip.Addr) net.HardwareAddr {
	b := ip.As4()
	return net.HardwareAddr{0x0a, 0x58, b[0], b[1], b[2], b[3]}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// networkPath is the file in which Run leaves the network for the plugin.
func networkPath(dataDir string) string { return filepath.Join(dataDir, "network.json") }
