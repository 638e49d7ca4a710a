package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks our route, so that Clean finds it.
const routeProtocol = 110

// addServiceRoute gives the node a route to ClusterIPs. A packet's destination is rewritten only after the kernel has
// found some route for it, and a node need not have a default route. It leads to lo, where nothing ever arrives: what is
// not rewritten is rejected or dropped before.
func addServiceRoute(cidr netip.Prefix, nodeIP netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	route := &netlink.Route{
		LinkIndex: lo.Attrs().Index, Scope: netlink.SCOPE_LINK, Protocol: routeProtocol,
		Dst: &net.IPNet{IP: cidr.Masked().Addr().AsSlice(), Mask: net.CIDRMask(cidr.Bits(), 32)},
	}
	if nodeIP.Is4() {
		route.Src = nodeIP.AsSlice()
	}
	err = netlink.RouteReplace(route)
	if errors.Is(err, unix.EINVAL) { // behind a NAT the node does not hold its address
		route.Src = nil
		err = netlink.RouteReplace(route)
	}
	if err != nil {
		return fmt.Errorf("add the route to %s: %w", cidr, err)
	}
	return nil
}

func removeServiceRoute() error {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	var errs []error
	for _, r := range routes {
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("delete the route to %s: %w", r.Dst, err))
		}
	}
	return errors.Join(errs...)
}
