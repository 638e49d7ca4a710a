package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks our route, so that Clean finds it.
const routeProtocol = 110

// setServiceRoutes gives the node a route to each range of ClusterIPs, and takes away those to ranges that are gone. A packet's
// destination is rewritten only after the kernel has found some route for it, and a node need not have a default route. They
// lead to lo, where nothing ever arrives: what is not rewritten is rejected or dropped before.
func setServiceRoutes(cidrs []netip.Prefix, nodeIP netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	for _, cidr := range cidrs {
		route := &netlink.Route{
			LinkIndex: lo.Attrs().Index, Scope: netlink.SCOPE_LINK, Protocol: routeProtocol,
			Dst: &net.IPNet{IP: cidr.Addr().AsSlice(), Mask: net.CIDRMask(cidr.Bits(), 32)},
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
	}
	return removeServiceRoutes(cidrs)
}

// keepServiceRoutes puts the routes back when somebody deletes them, until ctx ends. It returns an error only if the kernel's
// notifications cannot be had.
func keepServiceRoutes(ctx context.Context, ranges func() []netip.Prefix, nodeIP netip.Addr, log *slog.Logger) error {
	for ctx.Err() == nil {
		updates := make(chan netlink.RouteUpdate)
		done := make(chan struct{})
		if err := netlink.RouteSubscribe(updates, done); err != nil {
			close(done)
			return fmt.Errorf("listen to routes: %w", err)
		}
		// Whatever happened before the subscription is made good now.
		err := setServiceRoutes(ranges(), nodeIP)
		for open := true; open && err == nil; {
			var u netlink.RouteUpdate
			select {
			case <-ctx.Done():
				open = false
			case u, open = <-updates: // it closes when the kernel had more to say than was read
				if wanted := ranges(); open && u.Type == unix.RTM_DELROUTE && u.Protocol == routeProtocol && leadsTo(u.Dst, wanted) {
					log.Warn("somebody deleted the route to Services, putting it back", "to", u.Dst)
					err = setServiceRoutes(wanted, nodeIP)
				}
			}
		}
		close(done)
		for range updates { // the subscription's goroutine must not be left with what nobody reads
		}
		if err != nil {
			log.Error("no route to Services; trying again", "err", err, "in", retryMin)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryMin):
		}
	}
	return nil
}

// leadsTo says whether a route's destination is one of the ranges.
func leadsTo(dst *net.IPNet, ranges []netip.Prefix) bool {
	return dst != nil && slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.String() == dst.String() })
}

// removeServiceRoutes removes our routes but those to the ranges in keep.
func removeServiceRoutes(keep []netip.Prefix) error {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	var errs []error
	for _, r := range routes {
		if leadsTo(r.Dst, keep) {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("delete the route to %s: %w", r.Dst, err))
		}
	}
	return errors.Join(errs...)
}
