package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks the route as ours (rtnetlink(7): values above RTPROT_STATIC are the administrator's to give).
const routeProtocol netlink.RouteProtocol = 0x6d

// route sends packets for ClusterIPs somewhere: the kernel looks for a route before it rewrites a local packet's destination,
// and a node without a default route (an isolated network) would find none. Where it leads does not matter, since the
// rewritten packet is routed anew; the source address it chooses does, and is the node's.
func (c *Config) route() (*netlink.Route, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	return &netlink.Route{
		LinkIndex: lo.Attrs().Index, Dst: ipNet(c.ServiceCIDR), Src: c.NodeIP.AsSlice(), Scope: netlink.SCOPE_LINK, Protocol: routeProtocol,
	}, nil
}

// ensureRoute makes the route if it is not there.
func (c *Config) ensureRoute() error {
	r, err := c.route()
	if err == nil {
		err = netlink.RouteReplace(r)
	}
	if err != nil {
		return fmt.Errorf("route to %s: %w", c.ServiceCIDR, err)
	}
	return nil
}

// removeRoute takes it away; that there is none is no error.
func (c *Config) removeRoute() error {
	r, err := c.route()
	if err == nil {
		err = netlink.RouteDel(r)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove route to %s: %w", c.ServiceCIDR, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
