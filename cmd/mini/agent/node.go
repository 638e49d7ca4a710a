package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	containerd "github.com/containerd/containerd/v2/version"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/mini-k8s/mini/apiserver/registry/core"
	"github.com/mini-k8s/mini/cni"
	"github.com/mini-k8s/mini/dns"
	"github.com/mini-k8s/mini/internal/version"
	"github.com/mini-k8s/mini/kubelet"
	"github.com/mini-k8s/mini/kubelet/auth"
	"github.com/mini-k8s/mini/kubelet/cgroup"
	"github.com/mini-k8s/mini/kubelet/container"
	"github.com/mini-k8s/mini/proxy"
)

// Node is a node with its credentials.
type Node struct {
	Config   NodeConfig
	Settings Settings
	Client   *rest.Config // as system:node:NAME
	// Informers are shared with others of the process, who start them; nil makes some for this node.
	Informers informers.SharedInformerFactory
	TLS       *tls.Config // of the kubelet's server
	// Runtime is the containers of this node, running already: see StartRuntime.
	Runtime *Runtime
	Parting *Parting // of whose context RunNode's is made
}

// Runtime is what a node can start before it knows its cluster.
type Runtime struct {
	*container.Containerd
	network  *lateNetwork
	imported chan struct{}
	cfg      NodeConfig
}

// NewRuntime makes the node's container runtime. Its sandboxes wait for the pod network.
func NewRuntime(cfg NodeConfig) (*Runtime, error) {
	network := &lateNetwork{set: make(chan struct{})}
	c, err := container.New(container.Config{
		DataDir: cfg.DataDir, Socket: cfg.ContainerdSocket, CgroupRoot: cfg.CgroupRoot, Network: network, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	return &Runtime{Containerd: c, network: network, imported: make(chan struct{}), cfg: cfg}, nil
}

// Run runs containerd until ctx ends, and at its start imports what lies in the node's images folder.
func (r *Runtime) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.Containerd.Run(ctx) })
	group.Go(func() error {
		defer close(r.imported)
		select {
		case <-ctx.Done():
		case <-r.Ready():
			importFolder(ctx, r.Containerd, filepath.Join(r.cfg.DataDir, "images"), r.cfg.Logger)
		}
		return nil
	})
	return group.Wait()
}

// RunNode runs a node until ctx ends; its pods run on, unless n.Parting has ended them before.
func RunNode(ctx context.Context, n Node) error {
	client, err := kubernetes.NewForConfig(n.Client)
	if err != nil {
		return err
	}
	shared := n.Informers
	if shared == nil {
		shared = informers.NewSharedInformerFactory(client, 0)
	}
	cfg, log := n.Config, n.Config.Logger
	network, err := cni.New(cni.Config{
		DataDir: filepath.Join(cfg.DataDir, "agent", "cni"), NodeName: cfg.Name, NodeIP: cfg.IP, ClusterCIDR: n.Settings.ClusterCIDR,
		Informers: shared, Logger: log.With("component", "cni"),
	})
	if err != nil {
		return err
	}
	n.Runtime.network.use(network)
	services, err := proxy.New(proxy.Config{
		NodeName: cfg.Name, NodeIP: cfg.IP, ClusterCIDR: n.Settings.ClusterCIDR, ServiceCIDR: n.Settings.ServiceCIDR,
		SkipIPs: []netip.Addr{n.Settings.ClusterDNS}, DataDir: filepath.Join(cfg.DataDir, "agent", "proxy"), Informers: shared,
		Logger: log.With("component", "proxy"),
	})
	if err != nil {
		return err
	}
	names, err := dns.New(dns.Config{
		Address: n.Settings.ClusterDNS, Domain: n.Settings.ClusterDomain, Informers: shared, Logger: log.With("component", "dns"),
		Reverse: []netip.Prefix{n.Settings.ClusterCIDR, n.Settings.ServiceCIDR}, ResolvConf: "/etc/resolv.conf",
	})
	if err != nil {
		return err
	}
	cgroups, err := cgroup.New(cgroup.Config{Root: cfg.CgroupRoot})
	if err != nil {
		return err
	}
	guard, err := auth.New(auth.Config{Client: client, Node: cfg.Name, Logger: log.With("component", "kubelet")})
	if err != nil {
		return err
	}
	pods, err := kubelet.New(kubelet.Config{
		NodeName: cfg.Name, NodeIPs: []net.IP{cfg.IP.AsSlice()}, DataDir: cfg.DataDir, Client: client, Informers: shared,
		Runtime: n.Runtime, Images: images{n.Runtime.Containerd, n.Runtime.imported}, Cgroups: cgroups, CgroupRoot: cfg.CgroupRoot,
		ClusterDNS: []net.IP{n.Settings.ClusterDNS.AsSlice()}, ClusterDomain: n.Settings.ClusterDomain,
		Labels: cfg.Labels, Taints: cfg.Taints, Version: version.GitVersion(), ContainerRuntimeVersion: "containerd://" + strings.TrimSuffix(containerd.Version, "+unknown"),
		RuntimeReady: n.Runtime.Ready(), NetworkReady: network.Ready(),
		ListenAddress: net.JoinHostPort(cfg.IP.String(), strconv.Itoa(KubeletPort)), TLS: n.TLS, Middleware: guard,
		ShutdownGracePeriod: cfg.ShutdownGracePeriod, ShutdownGracePeriodCriticalPods: cfg.ShutdownGracePeriodCriticalPods,
		ManifestPath: cfg.ManifestPath, DefaultPod: core.DefaultPod, AllowedUnsafeSysctls: cfg.AllowedUnsafeSysctls,
		Logger: log.With("component", "kubelet"),
	})
	if err != nil {
		return err
	}
	if cfg.StopPods {
		n.Parting.kubelet.Store(pods)
	}
	shared.Start(ctx.Done())
	if n.Informers == nil {
		defer shared.Shutdown()
	}
	return runAll(ctx, map[string]func(context.Context) error{
		"pod network": network.Run, "proxy": services.Run, "cluster DNS": names.Run, "kubelet": pods.Run,
	})
}

// runAll runs parts side by side until ctx ends or one fails, and says which.
func runAll(outer context.Context, parts map[string]func(context.Context) error) error {
	group, ctx := errgroup.WithContext(outer)
	for name, run := range parts {
		group.Go(func() error {
			if err := run(ctx); err != nil && (outer.Err() == nil || !errors.Is(err, context.Canceled)) {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	return group.Wait()
}
