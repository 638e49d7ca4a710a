package main

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The machine's address and its neighbour that is not there, from a range for documents (RFC 5737).
const (
	nodeIP  = "192.0.2.2"
	gateway = "192.0.2.1"
)

// unifiedMount is the one tree of cgroup v2.
const unifiedMount = "/sys/fs/cgroup"

// prepare makes of the kernel's first moments a machine as a distribution leaves it to its services.
func prepare() error {
	for name, value := range map[string]string{
		"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root",
	} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	if err := leaveRootfs(); err != nil {
		return err
	}
	for _, m := range []struct{ kind, at, options string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"devtmpfs", "/dev", "mode=0755"},
		{"devpts", "/dev/pts", "ptmxmode=0666,mode=0620"},
		{"tmpfs", "/dev/shm", "mode=1777"},
		{"tmpfs", "/run", "mode=0755"},
		{"tmpfs", "/tmp", "mode=1777"},
		{"tmpfs", "/var/lib/mini", "mode=0755,size=2G"},
		{"cgroup2", unifiedMount, "nsdelegate,memory_recursiveprot"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, m.options); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	// As systemd leaves it.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	return errors.Join(unix.Sethostname([]byte(nodeName)), network())
}

// leaveRootfs puts a bind mount of the first file system over it: runc cannot pivot_root away from the first itself.
func leaveRootfs() error {
	if err := unix.Mount("/", "/mnt", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind the root: %w", err)
	}
	if err := os.Chdir("/mnt"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	return os.Chdir("/")
}

// network gives the machine an address and a default route on a link that leads nowhere.
func network() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	card := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}}
	if err := errors.Join(netlink.LinkSetUp(lo), netlink.LinkAdd(card)); err != nil {
		return fmt.Errorf("make the network card: %w", err)
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(nodeIP), Mask: net.CIDRMask(24, 32)}}
	if err := errors.Join(netlink.AddrAdd(card, address), netlink.LinkSetUp(card)); err != nil {
		return fmt.Errorf("address of the network card: %w", err)
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: card.Attrs().Index, Gw: net.ParseIP(gateway)})
}
