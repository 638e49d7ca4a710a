package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/mini-k8s/mini/internal/iptables"
	"github.com/mini-k8s/mini/internal/sysctl"
)

// DefaultBridge is the name of the node's bridge if the Config has none.
const DefaultBridge = "mini0"

// interfaceName is what the interface is called inside a pod.
const interfaceName = "eth0"

// Config says how a node's pod network is made.
type Config struct {
	DataDir     string // holds leases and what was changed on the node
	NodeName    string
	NodeIP      netip.Addr
	ClusterCIDR netip.Prefix // of all pods of the cluster
	Informers   informers.SharedInformerFactory
	Bridge      string // "" is DefaultBridge
	// ConfDir may hold a conflist, which then replaces our network; its plugins are looked for in BinDir. "" is
	// DataDir/net.d and DataDir/bin.
	ConfDir, BinDir string
	IPTables        string // the iptables command; "" is whichever the machine has
	Logger          *slog.Logger
}

// Node is the pod network of one node.
type Node struct {
	cfg     Config
	nodes   corelisters.NodeLister
	synced  cache.InformerSynced
	changed chan struct{}
	ready   chan struct{}
	attach  attacher
	foreign *foreign
	sysctls sysctl.Record

	mu    sync.Mutex
	table *iptables.Table
	cmd   *iptables.Command
	net   network // as last reconciled; the zero value before
}

var _ Network = (*Node)(nil)

// New checks cfg and registers for Nodes; start the informers after it. Nothing on the node is touched before Run.
func New(cfg Config) (*Node, error) {
	switch {
	case cfg.DataDir == "":
		return nil, errors.New("pod network: no data directory")
	case cfg.NodeName == "":
		return nil, errors.New("pod network: no node name")
	case !cfg.NodeIP.Is4():
		return nil, fmt.Errorf("pod network: node IP %q is not an IPv4 address", cfg.NodeIP)
	case !cfg.ClusterCIDR.Addr().Is4():
		return nil, fmt.Errorf("pod network: cluster CIDR %q is not an IPv4 range", cfg.ClusterCIDR)
	case cfg.Informers == nil:
		return nil, errors.New("pod network: no informers")
	}
	if cfg.Bridge == "" {
		cfg.Bridge = DefaultBridge
	}
	if cfg.ConfDir == "" {
		cfg.ConfDir = filepath.Join(cfg.DataDir, "net.d")
	}
	if cfg.BinDir == "" {
		cfg.BinDir = filepath.Join(cfg.DataDir, "bin")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	n := &Node{
		cfg: cfg, changed: make(chan struct{}, 1), ready: make(chan struct{}), sysctls: sysctlRecord(cfg.DataDir),
	}
	n.attach = attacher{leases: leaseFile{cfg.DataDir}, ports: n.setPorts}
	n.foreign = newForeign(cfg, &n.attach)
	nodes := cfg.Informers.Core().V1().Nodes()
	n.nodes, n.synced = nodes.Lister(), nodes.Informer().HasSynced
	_, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { n.wake() },
		UpdateFunc: func(old, now any) { n.nodeUpdated(old, now) },
		DeleteFunc: func(any) { n.wake() },
	})
	if err != nil {
		return nil, fmt.Errorf("pod network: watch nodes: %w", err)
	}
	return n, nil
}

// Ready is closed when pods can be connected.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Add connects a pod; before the network is ready it waits for it.
func (n *Node) Add(ctx context.Context, pod Pod) (Result, error) {
	if err := validPorts(pod.Ports); err != nil {
		return Result{}, err
	}
	if conf, err := n.foreign.find(); err != nil {
		return Result{}, err
	} else if conf != nil {
		return n.foreign.add(ctx, conf, pod)
	}
	select {
	case <-n.ready:
	case <-ctx.Done():
		return Result{}, fmt.Errorf("the pod network of the node is not ready: %w", context.Cause(ctx))
	}
	seg := n.current().Segment
	if seg.Bridge == "" {
		return Result{}, fmt.Errorf("the conflist in %s is gone and the node's own network is not set up: restart the node", n.cfg.ConfDir)
	}
	l, err := n.attach.add(ctx, seg, interfaceName, pod)
	if err != nil {
		return Result{}, fmt.Errorf("connect pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return Result{IPs: []netip.Addr{l.IP}}, nil
}

// Del disconnects a pod.
func (n *Node) Del(ctx context.Context, pod Pod) error {
	if done, err := n.foreign.del(ctx, pod); done || err != nil {
		return err
	}
	if err := n.attach.del(ctx, pod.SandboxID, interfaceName); err != nil {
		return fmt.Errorf("disconnect pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// Prune disconnects every sandbox that is not in live.
func (n *Node) Prune(ctx context.Context, live []string) error {
	keep := func(id string) bool { return slices.Contains(live, id) }
	return errors.Join(
		n.foreign.prune(ctx, keep),
		n.attach.prune(ctx, func(l lease) bool { return keep(l.SandboxID) }))
}

func (n *Node) current() network {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.net
}

// setPorts brings the rules into line with the leases. It is called with the leases' lock held, so that whoever changed
// them last also sets the rules last.
func (n *Node) setPorts(ctx context.Context, ls []lease) error {
	n.mu.Lock()
	table, cmd, net := n.table, n.cmd, n.net
	n.mu.Unlock()
	if table == nil {
		return nil // Run sets the rules from all leases when it starts
	}
	_, err := table.Set(ctx, chains(net, ls, cmd.Masquerade()))
	return err
}

// snapshot reads what plan needs. ok is false while the own Node has no podCIDR.
func (n *Node) snapshot() (s snapshot, ok bool, err error) {
	nodes, err := n.nodes.List(labels.Everything())
	if err != nil {
		return s, false, fmt.Errorf("list nodes: %w", err)
	}
	s = snapshot{Bridge: n.cfg.Bridge, ClusterCIDR: n.cfg.ClusterCIDR}
	for _, node := range nodes {
		if node.Name == n.cfg.NodeName {
			s.PodCIDR = podCIDR(node)
			continue
		}
		if p, ok := peerOf(node); ok {
			s.Peers = append(s.Peers, p)
		}
	}
	if !s.PodCIDR.IsValid() {
		return s, false, nil
	}
	s.Uplink, err = findUplink(n.cfg.NodeIP)
	return s, err == nil, err
}

// setSysctls sets what the data path needs.
func (n *Node) setSysctls(net network, up uplink) error {
	if err := n.sysctls.Set("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	// Pods of one node speak over the bridge; their answers must pass conntrack there to get a Service's address back.
	err := n.sysctls.Set("net/bridge/bridge-nf-call-iptables", "1")
	if errors.Is(err, fs.ErrNotExist) {
		_ = exec.Command("modprobe", "br_netfilter").Run()
		err = n.sysctls.Set("net/bridge/bridge-nf-call-iptables", "1")
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("the kernel module br_netfilter is missing: %w", err)
	}
	if err != nil {
		return err
	}
	if err := sysctl.Write("net/ipv4/conf/"+net.Segment.Bridge+"/route_localnet", "1"); err != nil {
		return err
	}
	if !net.Tunnel {
		return nil
	}
	// Answers of nodes behind the tunnel come through it while the way to them is the uplink, and the other way round.
	if err := sysctl.Write("net/ipv4/conf/"+tunnelName+"/rp_filter", "2"); err != nil {
		return err
	}
	name, err := linkNameOf(up.Index)
	if err != nil {
		return err
	}
	param := "net/ipv4/conf/" + strings.ReplaceAll(name, "/", ".") + "/rp_filter"
	for _, p := range []string{param, "net/ipv4/conf/all/rp_filter"} {
		if v, err := sysctl.Read(p); err == nil && v == "1" {
			return n.sysctls.Set(param, "2")
		}
	}
	return nil
}

func sysctlRecord(dataDir string) sysctl.Record {
	return sysctl.Record(filepath.Join(dataDir, "sysctls.json"))
}
