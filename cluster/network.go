package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"

	"github.com/mini-k8s/mini/internal/netns"
)

// switchNS is the namespace that holds the bridge between the nodes. It is no node's name.
const switchNS = "switch.ns"

// makeNetwork makes the switch and a namespace for each node, joined by veth pairs. Everything goes with its namespaces.
func (c *Cluster) makeNetwork() error {
	if err := netns.Create(c.NetNS(switchNS)); err != nil {
		return fmt.Errorf("network of cluster %s: %w", c.Name, err)
	}
	if err := netns.Do(c.NetNS(switchNS), func() error {
		return upLink(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "switch"}})
	}); err != nil {
		return fmt.Errorf("network of cluster %s: %w", c.Name, err)
	}
	for _, n := range c.Nodes {
		if err := c.plugIn(n); err != nil {
			return fmt.Errorf("network of node %s: %w", n.Name, err)
		}
	}
	return nil
}

// upLink makes a link, if it is not there yet, and sets it up.
func upLink(l netlink.Link) error {
	if err := netlink.LinkAdd(l); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("add link %s: %w", l.Attrs().Name, err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("set link %s up: %w", l.Attrs().Name, err)
	}
	return nil
}

// plugIn makes the node's namespace with eth0 in it, whose other end is a port of the switch.
func (c *Cluster) plugIn(n *Node) error {
	if err := netns.Create(c.NetNS(n.Name)); err != nil {
		return err
	}
	node, err := os.Open(c.NetNS(n.Name))
	if err != nil {
		return err
	}
	defer node.Close()
	subnet, err := netip.ParsePrefix(c.Subnet)
	if err != nil {
		return err
	}
	port := fmt.Sprintf("port%d", n.IP.As4()[3])
	if err := netns.Do(c.NetNS(switchNS), func() error {
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: port},
			PeerName:  "eth0", PeerNamespace: netlink.NsFd(int(node.Fd())),
		}
		if err := upLink(veth); err != nil {
			return err
		}
		if c.Routed {
			return routeTo(n, veth)
		}
		bridge, err := netlink.LinkByName("switch")
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(veth, bridge)
	}); err != nil {
		return err
	}
	return netns.Do(c.NetNS(n.Name), func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		bits := subnet.Bits()
		if c.Routed {
			bits = 32
		}
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: n.IP.AsSlice(), Mask: net.CIDRMask(bits, 32)}}
		if err := netlink.AddrAdd(eth0, addr); err != nil {
			return fmt.Errorf("address %s: %w", addr.IPNet, err)
		}
		if err := netlink.LinkSetUp(eth0); err != nil || !c.Routed {
			return err
		}
		gateway := &netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: router.IP, Flags: int(netlink.FLAG_ONLINK)}
		if err := netlink.RouteAdd(gateway); err != nil {
			return fmt.Errorf("route to the router: %w", err)
		}
		return nil
	})
}

// router is every node's gateway where each is on a subnet of its own.
var router = &net.IPNet{IP: net.IPv4(169, 254, 1, 1).To4(), Mask: net.CIDRMask(32, 32)}

// routeTo makes a port of the switch's namespace the router's end of the node's cable.
func routeTo(n *Node, port netlink.Link) error {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return fmt.Errorf("make a router: %w", err)
	}
	if err := netlink.AddrAdd(port, &netlink.Addr{IPNet: router}); err != nil {
		return fmt.Errorf("address of the router: %w", err)
	}
	node := &netlink.Route{LinkIndex: port.Attrs().Index, Dst: &net.IPNet{IP: n.IP.AsSlice(), Mask: net.CIDRMask(32, 32)}}
	if err := netlink.RouteAdd(node); err != nil {
		return fmt.Errorf("route to node %s: %w", n.Name, err)
	}
	return nil
}

// SetLink takes the node's cable out (up false) or puts it back: packets to and from it are lost while its processes run.
func (c *Cluster) SetLink(node string, up bool) error {
	n, err := c.Node(node)
	if err != nil {
		return err
	}
	return netns.Do(c.NetNS(switchNS), func() error {
		l, err := netlink.LinkByName(fmt.Sprintf("port%d", n.IP.As4()[3]))
		if err != nil {
			return fmt.Errorf("port of node %s: %w", node, err)
		}
		if up {
			return netlink.LinkSetUp(l)
		}
		return netlink.LinkSetDown(l)
	})
}
