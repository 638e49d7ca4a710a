package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// routeProtocol marks the routes and rules of this package, so that they can be told from anyone else's.
	routeProtocol = 109
	rulePriority  = 1090

	tunnelName = "mini.vxlan"
	tunnelID   = 109
	tunnelPort = 8472 // Linux's own default, and what firewalls of such clusters commonly let through
)

// reconcile makes the kernel hold n, and returns the indexes of the links it uses. It changes only what differs.
func reconcile(n network, up uplink) (links []int, err error) {
	bridge, err := ensureBridge(n.Segment)
	if err != nil {
		return nil, err
	}
	links = []int{up.Index, bridge}
	tunnel := 0
	if n.Tunnel {
		if tunnel, err = ensureTunnel(n, up); err != nil {
			return nil, err
		}
		links = append(links, tunnel)
		if err := syncTunnelEnds(n.TunnelEnds, tunnel); err != nil {
			return nil, err
		}
	}
	if err := syncRoutes(n.Routes, up.Index, tunnel); err != nil {
		return nil, err
	}
	if err := syncRule(n); err != nil {
		return nil, err
	}
	if !n.Tunnel {
		if err := removeLink(tunnelName); err != nil {
			return nil, err
		}
	}
	return links, nil
}

// findUplink returns the interface that holds ip, or else the one of the default route: behind a NAT a node does not
// know its own address.
func findUplink(ip netip.Addr) (uplink, error) {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return uplink{}, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if a.IP.Equal(ip.AsSlice()) {
			ones, _ := a.Mask.Size()
			return uplinkOf(a.LinkIndex, netip.PrefixFrom(ip, ones), true)
		}
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return uplink{}, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			return uplinkOf(r.LinkIndex, netip.PrefixFrom(ip, 32), false)
		}
	}
	return uplink{}, fmt.Errorf("no interface holds the node's address %s, and there is no default route", ip)
}

func uplinkOf(index int, prefix netip.Prefix, held bool) (uplink, error) {
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return uplink{}, fmt.Errorf("find the uplink: %w", err)
	}
	return uplink{Index: index, MTU: link.Attrs().MTU, Prefix: prefix, Held: held}, nil
}

func ensureBridge(seg segment) (int, error) {
	gw := gateway(seg.PodCIDR)
	link, err := netlink.LinkByName(seg.Bridge)
	if isLinkNotFound(err) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = seg.Bridge
		attrs.MTU = seg.MTU
		// Without an address of its own a bridge takes its lowest port's, which changes as pods come and go.
		attrs.HardwareAddr = hardwareAddr(gw)
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return 0, fmt.Errorf("create bridge %s: %w", seg.Bridge, err)
		}
		link, err = netlink.LinkByName(seg.Bridge)
	}
	if err != nil {
		return 0, fmt.Errorf("find bridge %s: %w", seg.Bridge, err)
	}
	if link.Type() != "bridge" {
		return 0, fmt.Errorf("link %s is a %s, not a bridge: remove it or choose another name", seg.Bridge, link.Type())
	}
	if err := ensureAddr(link, netip.PrefixFrom(gw, seg.PodCIDR.Bits())); err != nil {
		return 0, err
	}
	if link.Attrs().MTU != seg.MTU {
		if err := netlink.LinkSetMTU(link, seg.MTU); err != nil {
			return 0, fmt.Errorf("set MTU %d of %s: %w", seg.MTU, seg.Bridge, err)
		}
	}
	return link.Attrs().Index, ensureUp(link)
}

// ensureAddr makes addr the only IPv4 address of a link of ours.
func ensureAddr(link netlink.Link, addr netip.Prefix) error {
	have, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
	}
	want := ipNet(addr)
	found := false
	for _, a := range have {
		if a.IPNet.String() == want.String() {
			found = true
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("take %s from %s: %w", a.IPNet, link.Attrs().Name, err)
		}
	}
	if found {
		return nil
	}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: want}); err != nil {
		return fmt.Errorf("give %s to %s: %w", addr, link.Attrs().Name, err)
	}
	return nil
}

func ensureUp(link netlink.Link) error {
	if link.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", link.Attrs().Name, err)
	}
	return nil
}

func ensureTunnel(n network, up uplink) (int, error) {
	want := tunnelLink(n.Segment, up)
	link, err := netlink.LinkByName(tunnelName)
	if err == nil && !sameTunnel(link, want) {
		if err := removeLink(tunnelName); err != nil {
			return 0, err
		}
		link, err = netlink.LinkByName(tunnelName)
	}
	if isLinkNotFound(err) {
		if err := netlink.LinkAdd(want); err != nil {
			return 0, fmt.Errorf("create %s: %w", tunnelName, err)
		}
		// Some network cards and kernels get the outer checksum of what they are asked to finish wrong, and the far side
		// drops it; computing it here costs little.
		if err := disableTxChecksum(tunnelName); err != nil {
			return 0, err
		}
		link, err = netlink.LinkByName(tunnelName)
	}
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", tunnelName, err)
	}
	// The network address of our podCIDR: the far side answers it through the tunnel like any address of the range.
	if err := ensureAddr(link, netip.PrefixFrom(n.Segment.PodCIDR.Addr(), 32)); err != nil {
		return 0, err
	}
	return link.Attrs().Index, ensureUp(link)
}

func tunnelLink(seg segment, up uplink) *netlink.Vxlan {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = tunnelName
	attrs.MTU = seg.MTU
	attrs.HardwareAddr = hardwareAddr(seg.PodCIDR.Addr())
	return &netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: tunnelID, VtepDevIndex: up.Index,
		SrcAddr: tunnelSource(up), Port: tunnelPort, Learning: false,
	}
}

func tunnelSource(up uplink) net.IP {
	if !up.Held {
		return nil
	}
	return up.Prefix.Addr().AsSlice()
}

func sameTunnel(link netlink.Link, want *netlink.Vxlan) bool {
	have, ok := link.(*netlink.Vxlan)
	return ok && have.VxlanId == want.VxlanId && have.VtepDevIndex == want.VtepDevIndex && have.Port == want.Port &&
		have.SrcAddr.Equal(want.SrcAddr) && !have.Learning && have.MTU == want.MTU &&
		slices.Equal(have.HardwareAddr, want.HardwareAddr)
}

// syncTunnelEnds makes the device's ARP and forwarding entries exactly ends.
func syncTunnelEnds(ends []tunnelEnd, index int) error {
	type entry struct{ ip, mac string }
	wanted := map[entry]netlink.Neigh{}
	for _, e := range ends {
		mac := hardwareAddr(e.Inner)
		wanted[entry{e.Inner.String(), mac.String()}] = netlink.Neigh{
			LinkIndex: index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST,
			IP: e.Inner.AsSlice(), HardwareAddr: mac,
		}
		wanted[entry{"fdb " + e.Outer.String(), mac.String()}] = netlink.Neigh{
			LinkIndex: index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF,
			IP: e.Outer.AsSlice(), HardwareAddr: mac,
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_BRIDGE} {
		have, err := netlink.NeighList(index, family)
		if err != nil {
			return fmt.Errorf("list entries of %s: %w", tunnelName, err)
		}
		for _, h := range have {
			if h.LinkIndex != index || h.State&netlink.NUD_PERMANENT == 0 || h.IP == nil || h.IP.IsMulticast() {
				continue
			}
			key := entry{h.IP.String(), h.HardwareAddr.String()}
			if family == unix.AF_BRIDGE {
				key.ip = "fdb " + key.ip
			}
			if _, ok := wanted[key]; ok {
				delete(wanted, key)
				continue
			}
			if err := netlink.NeighDel(&h); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("delete entry %s of %s: %w", h.IP, tunnelName, err)
			}
		}
	}
	for _, w := range wanted {
		if err := netlink.NeighSet(&w); err != nil {
			return fmt.Errorf("add entry %s to %s: %w", w.IP, tunnelName, err)
		}
	}
	return nil
}

// ownRoutes lists the routes of this package in all tables.
func ownRoutes() ([]netlink.Route, error) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4,
		&netlink.Route{Protocol: routeProtocol, Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return routes, nil
}

func syncRoutes(routes []route, up, tunnel int) error {
	type key struct {
		dst, via, src string
		link, table   int
	}
	wanted := map[key]netlink.Route{}
	for _, r := range routes {
		k := netlink.Route{
			LinkIndex: up, Dst: ipNet(r.Dst), Gw: r.Via.AsSlice(), Table: r.Table, Protocol: routeProtocol, Scope: netlink.SCOPE_UNIVERSE,
		}
		if r.Tunnel {
			k.LinkIndex = tunnel
			k.Flags = int(netlink.FLAG_ONLINK)
		}
		if r.Src.IsValid() {
			k.Src = r.Src.AsSlice()
		}
		wanted[key{k.Dst.String(), k.Gw.String(), k.Src.String(), k.LinkIndex, k.Table}] = k
	}
	have, err := ownRoutes()
	if err != nil {
		return err
	}
	var stale []netlink.Route
	for _, h := range have {
		k := key{h.Dst.String(), h.Gw.String(), h.Src.String(), h.LinkIndex, h.Table}
		if _, ok := wanted[k]; ok {
			delete(wanted, k)
		} else {
			stale = append(stale, h)
		}
	}
	var errs []error
	for _, r := range wanted {
		if err := netlink.RouteReplace(&r); err != nil {
			errs = append(errs, fmt.Errorf("set route to %s: %w", r.Dst, err))
		}
	}
	// Replacing a route has already taken away the one it replaced.
	for _, r := range stale {
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("delete route to %s: %w", r.Dst, err))
		}
	}
	return errors.Join(errs...)
}

// syncRule sends what pods address to nodes behind the tunnel through it, if there are any.
func syncRule(n network) error {
	rules, err := netlink.RuleList(netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list rules: %w", err)
	}
	found := false
	for _, r := range rules {
		if r.Table != tunnelTable || r.Priority != rulePriority {
			continue
		}
		if n.Tunnel && r.Src != nil && r.Src.String() == n.Segment.PodCIDR.String() {
			found = true
			continue
		}
		if err := netlink.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete rule: %w", err)
		}
	}
	if found || !n.Tunnel {
		return nil
	}
	rule := netlink.NewRule()
	rule.Family = netlink.FAMILY_V4
	rule.Src = ipNet(n.Segment.PodCIDR)
	rule.Table = tunnelTable
	rule.Priority = rulePriority
	rule.Protocol = routeProtocol
	if err := netlink.RuleAdd(rule); err != nil {
		return fmt.Errorf("add rule from %s: %w", n.Segment.PodCIDR, err)
	}
	return nil
}

// disableTxChecksum turns a link's transmit checksum offload off.
func disableTxChecksum(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("disable checksum offload of %s: %w", name, err)
	}
	defer unix.Close(fd)
	value := struct{ cmd, data uint32 }{unix.ETHTOOL_STXCSUM, 0}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the rest of struct ifreq
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("disable checksum offload of %s: %w", name, errno)
	}
	return nil
}
