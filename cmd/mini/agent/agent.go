package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/mini-k8s/mini/cmd/mini/check"
	"github.com/mini-k8s/mini/cmd/mini/footprint"
	"github.com/mini-k8s/mini/internal/bootstrap"
	"github.com/mini-k8s/mini/internal/join"
)

// KubeletPort is where every node's kubelet answers the API server.
const KubeletPort = 10250

// NodeConfig is what this node is.
type NodeConfig struct {
	DataDir          string
	Name             string
	IP               netip.Addr
	ContainerdSocket string // "" is the containerd inside this process
	CgroupRoot       string // "" is the root
	Labels           map[string]string
	Taints           []corev1.Taint
	// ManifestPath is a folder of static pods; "" is none.
	ManifestPath         string
	AllowedUnsafeSysctls []string
	// StopPods ends the node's pods before mini ends, within ShutdownGracePeriod, whose last ShutdownGracePeriodCriticalPods are for
	// critical pods; else they run on.
	StopPods                                             bool
	ShutdownGracePeriod, ShutdownGracePeriodCriticalPods time.Duration
	Logger                                               *slog.Logger
}

// Config is what a worker needs.
type Config struct {
	Node   NodeConfig
	Server string // URL
	Token  bootstrap.Token
}

// Run is a worker until ctx ends; its pods run on, unless the node is to stop them. It joins the cluster if this node has not joined yet, trying as long as
// waiting can help. It returns nil after an orderly end, and what went wrong otherwise.
func Run(ctx context.Context, cfg Config) error {
	c := cfg.Node
	if err := check.Err(check.Run(ctx, check.Options{DataDir: c.DataDir, Ports: []int{KubeletPort}, Agent: true})); err != nil {
		return err
	}
	runtime, err := NewRuntime(c)
	if err != nil {
		return err
	}
	var parting Parting
	ctx, cancel := parting.Outlive(ctx)
	defer cancel()
	return runAll(ctx, map[string]func(context.Context) error{
		"containerd": runtime.Run,
		"memory":     func(ctx context.Context) error { return footprint.Settle(ctx, c.Logger) },
		"node":       func(ctx context.Context) error { return runWorker(ctx, cfg, runtime, &parting) },
	})
}

// runWorker joins, and runs the node with what it got.
func runWorker(ctx context.Context, cfg Config, runtime *Runtime, parting *Parting) error {
	c := cfg.Node
	identity, err := join.Join(ctx, join.Config{
		Server: cfg.Server, Token: cfg.Token, Name: c.Name, Addresses: []net.IP{c.IP.AsSlice()},
		Dir: filepath.Join(c.DataDir, "agent", "tls"), Logger: c.Logger.With("component", "join"),
	})
	if err != nil {
		return err
	}
	config := identity.RESTConfig()
	config.QPS = -1 // the server's own fairness decides
	settings, err := waitSettings(ctx, config, c.Logger)
	if err != nil {
		return err
	}
	return runAll(ctx, map[string]func(context.Context) error{
		"certificates": identity.Run,
		"node": func(ctx context.Context) error {
			return RunNode(ctx, Node{
				Config: c, Settings: settings, Client: config, Runtime: runtime, TLS: identity.ServingTLS(), Parting: parting,
			})
		},
	})
}

// waitSettings reads the cluster's settings, again and again while the server does not answer.
func waitSettings(ctx context.Context, config *rest.Config, log *slog.Logger) (Settings, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return Settings{}, err
	}
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		s, err := readSettings(ctx, client)
		if err == nil {
			return s, nil
		}
		log.Warn("the server does not tell the cluster's settings yet, trying again", "in", pause, "err", err)
		select {
		case <-ctx.Done():
			return Settings{}, fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}
