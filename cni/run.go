package cni

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/mini-k8s/mini/internal/iptables"
)

const (
	// repairDelay collects the notifications of one event, such as a link going down with its routes.
	repairDelay = 200 * time.Millisecond
	// retryDelay is how long to wait after a failure.
	retryDelay = 2 * time.Second
)

// Run sets the network up as soon as the own Node has a podCIDR, closes Ready, and keeps it true until ctx ends. With a
// conflist in the configuration directory it leaves all of that to its plugins. What Run has made stays when it returns:
// pods go on without us. Use Clean to remove it.
func (n *Node) Run(ctx context.Context) error {
	conf, err := n.foreign.find()
	if err != nil {
		return err
	}
	if conf != nil && !needsNode(conf) {
		n.cfg.Logger.Info("the pod network is made by the plugins of a conflist", "name", conf.Name, "dir", n.cfg.ConfDir)
		close(n.ready)
		<-ctx.Done()
		return nil
	}
	cmd, err := iptables.Find(n.cfg.IPTables)
	if err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	table := iptables.NewTable(iptables.Config{
		Command: cmd, Prefix: chainPrefix, Anchors: anchors, Refresh: n.wantedChains, Logger: n.cfg.Logger,
	})
	n.mu.Lock()
	n.cmd = cmd
	n.mu.Unlock()
	if !cache.WaitForCacheSync(ctx.Done(), n.synced) {
		return nil
	}
	sock, err := nl.Subscribe(unix.NETLINK_ROUTE,
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_NEIGH)
	if err != nil {
		return fmt.Errorf("pod network: listen to the kernel: %w", err)
	}
	stop := context.AfterFunc(ctx, sock.Close)
	defer func() {
		if stop() {
			sock.Close()
		}
	}()
	var links atomic.Pointer[[]int]
	touched := make(chan struct{}, 1)
	group, ctx := errgroup.WithContext(ctx)
	context.AfterFunc(ctx, sock.Close)
	group.Go(func() error { return listen(ctx, sock, &links, touched) })
	group.Go(func() error { return table.Run(ctx) })
	group.Go(func() error { n.loop(ctx, table, &links, touched); return nil })
	if err := group.Wait(); err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	return nil
}

// loop reconciles whenever a Node changed or the kernel lost something of ours.
func (n *Node) loop(ctx context.Context, table *iptables.Table, links *atomic.Pointer[[]int], touched <-chan struct{}) {
	// The timer runs only while something is to be repaired or tried again.
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-touched:
			timer.Reset(repairDelay)
			continue
		case <-n.changed:
		case <-timer.C:
		}
		used, err := n.sync(ctx, table)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			n.cfg.Logger.Error("cannot set up the pod network; trying again", "err", err)
			timer.Reset(retryDelay)
		case used != nil:
			links.Store(&used)
		}
	}
}

// sync does one round and returns the links in use, or nil while the node has no podCIDR.
func (n *Node) sync(ctx context.Context, table *iptables.Table) ([]int, error) {
	s, ok, err := n.snapshot()
	if err != nil || !ok {
		return nil, err
	}
	want := plan(s)
	links, err := reconcile(want, s.Uplink)
	if err != nil {
		return nil, err
	}
	if err := n.setSysctls(want, s.Uplink); err != nil {
		return nil, err
	}
	if err := n.apply(ctx, table, want); err != nil {
		return nil, err
	}
	select {
	case <-n.ready:
	default:
		n.cfg.Logger.Info("the pod network is ready", "podCIDR", want.Segment.PodCIDR, "bridge", want.Segment.Bridge, "mtu", want.Segment.MTU)
		close(n.ready)
	}
	return links, nil
}

// apply brings rules, pods and the file for the plugin into line with a reconciled network.
func (n *Node) apply(ctx context.Context, table *iptables.Table, want network) error {
	return n.attach.leases.update(func(l *leases) (bool, error) {
		if _, err := table.Set(ctx, chains(want, l.Items, n.cmd.Masquerade())); err != nil {
			return false, err
		}
		before := n.current()
		if before.Segment != want.Segment {
			for _, it := range l.Items {
				if err := setMTU(it, want.Segment.MTU); err != nil {
					n.cfg.Logger.Warn("cannot change the MTU of a running pod", "pod", it.Pod, "err", err)
				}
			}
		}
		if err := writeJSON(networkPath(n.cfg.DataDir), want); err != nil {
			return false, fmt.Errorf("write the network for the plugin: %w", err)
		}
		n.mu.Lock()
		n.net, n.table = want, table
		n.mu.Unlock()
		return false, nil
	})
}

// wantedChains renders the rules from the leases as they are now: plugin processes change them too.
func (n *Node) wantedChains() (iptables.Chains, error) {
	l, err := n.attach.leases.read()
	if err != nil {
		return nil, err
	}
	return chains(n.current(), l.Items, n.cmd.Masquerade()), nil
}

func (n *Node) wake() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// nodeUpdated passes on only what plan looks at: Nodes change every few minutes for their status.
func (n *Node) nodeUpdated(old, now any) {
	a, okA := old.(*corev1.Node)
	b, okB := now.(*corev1.Node)
	if okA && okB {
		before, _ := peerOf(a)
		after, _ := peerOf(b)
		if before == after {
			return
		}
	}
	n.wake()
}

// listen signals when the kernel says that something of ours is gone or other. Most of what it says is about pods' links
// and other people's routes, and is passed over.
func listen(ctx context.Context, sock *nl.NetlinkSocket, links *atomic.Pointer[[]int], touched chan<- struct{}) error {
	for {
		messages, _, err := sock.Receive()
		if ctx.Err() != nil {
			return nil
		}
		lost := errors.Is(err, syscall.ENOBUFS)
		if err != nil && !lost && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("listen to the kernel: %w", err)
		}
		used := links.Load()
		if used == nil || !lost && !slices.ContainsFunc(messages, func(m syscall.NetlinkMessage) bool { return concerns(m, *used) }) {
			continue
		}
		select {
		case touched <- struct{}{}:
		default:
		}
	}
}

// concerns says whether a notification is about something that reconcile makes.
func concerns(m syscall.NetlinkMessage, links []int) bool {
	index := func(offset int) bool {
		return len(m.Data) >= offset+4 && slices.Contains(links, int(binary.NativeEndian.Uint32(m.Data[offset:])))
	}
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return index(4) // ifi_index of struct ifinfomsg, ifa_index of struct ifaddrmsg
	case unix.RTM_DELROUTE:
		return len(m.Data) > 5 && m.Data[5] == routeProtocol // rtm_protocol of struct rtmsg
	case unix.RTM_DELRULE:
		return true
	case unix.RTM_DELNEIGH:
		return len(links) > 2 && len(m.Data) >= 8 && int(binary.NativeEndian.Uint32(m.Data[4:])) == links[2] // ndm_ifindex
	}
	return false
}

func linkNameOf(index int) (string, error) {
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return "", fmt.Errorf("find link %d: %w", index, err)
	}
	return link.Attrs().Name, nil
}
