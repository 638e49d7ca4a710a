package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"github.com/mini-k8s/mini/apiserver"
	"github.com/mini-k8s/mini/apiserver/openapi"
	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/cmd/mini/agent"
	"github.com/mini-k8s/mini/cmd/mini/check"
	"github.com/mini-k8s/mini/cmd/mini/footprint"
	"github.com/mini-k8s/mini/controller"
	"github.com/mini-k8s/mini/internal/pki"
	"github.com/mini-k8s/mini/scheduler"
	"github.com/mini-k8s/mini/store"
)

// Run is a server until ctx ends; its own node's pods run on then, unless it is to stop them. It returns nil after an orderly end, and what went wrong otherwise.
func Run(ctx context.Context, cfg Config) error {
	defer cfg.Sockets.Close() //nolint:errcheck // most are closed already by who served them
	ports := []int{cfg.Port}
	if !cfg.DisableAgent {
		ports = append(ports, agent.KubeletPort)
	}
	found := check.Run(ctx, check.Options{DataDir: cfg.Node.DataDir, Ports: ports, Agent: !cfg.DisableAgent})
	if err := check.Err(found); err != nil {
		return err
	}
	s := &server{cfg: cfg, log: cfg.Node.Logger}
	if err := s.open(ctx); err != nil {
		return err
	}
	ctx, cancel := s.parting.Outlive(ctx)
	defer cancel()
	return s.run(ctx)
}

// server is a run of Run.
type server struct {
	cfg   Config
	log   logger
	keys  *pki.Server
	store *store.Store
	api   *apiserver.Server
	ports *merged

	parting agent.Parting

	admin     kubernetes.Interface // in-process, may do everything
	informers informers.SharedInformerFactory
}

// url is where the API server answers in the cluster.
func (s *server) url() string {
	return "https://" + net.JoinHostPort(s.cfg.Node.IP.String(), strconv.Itoa(s.cfg.Port))
}

// open makes everything there is to make before something runs.
func (s *server) open(ctx context.Context) (err error) {
	c := &s.cfg
	dir := filepath.Join(c.Node.DataDir, "server")
	// Side by side: at the first start both wait for the disk again and again.
	group, opening := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		s.keys, err = pki.OpenServer(pki.ServerConfig{
			Dir: filepath.Join(dir, "tls"), ClusterDomain: c.Settings.ClusterDomain, NodeName: c.Node.Name, NodeIPs: []net.IP{c.Node.IP.AsSlice()},
			ServiceIP: c.Settings.ServiceCIDR.Addr().Next().AsSlice(), SANs: c.SANs,
			Kubeconfig: c.KubeconfigFile, URL: s.url(), Logger: c.Node.Logger,
		})
		return err
	})
	group.Go(func() (err error) {
		s.store, err = c.openStore(opening, filepath.Join(dir, "etcd"))
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(c.BindAddress.String(), strconv.Itoa(c.Port)))
	if err != nil {
		return fmt.Errorf("--https-port: %w", err)
	}
	s.ports = merge(append([]net.Listener{listener}, c.Sockets.API...)...)
	s.api, err = apiserver.New(apiserver.Config{
		Store: s.store, Logger: c.Node.Logger, Plugins: s.plugins, Listener: s.ports, TLS: s.keys.ServingTLS(),
		Advertise:    netip.AddrPortFrom(c.Node.IP, uint16(c.Port)),
		ServiceCIDRs: []netip.Prefix{c.Settings.ServiceCIDR},
		OpenAPI:      openapi.NewHandler(),
		NodePorts:    registry.PortRange{From: int32(c.Settings.NodePorts.From), To: int32(c.Settings.NodePorts.To)},
	})
	return err
}

// openStore opens the embedded etcd in dir, or connects to the one there is.
func (c *Config) openStore(ctx context.Context, dir string) (*store.Store, error) {
	conf := store.Config{Logger: c.Node.Logger, CompactEvery: c.CompactEvery}
	if len(c.EtcdEndpoints) == 0 {
		conf.DataDir = dir
		return store.Open(ctx, conf)
	}
	conf.Endpoints = c.EtcdEndpoints
	var err error
	if conf.TLS, err = c.etcdTLS(); err != nil {
		return nil, err
	}
	return store.Open(ctx, conf)
}

func (c *Config) etcdTLS() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.EtcdCAFile != "" {
		pem, err := os.ReadFile(c.EtcdCAFile)
		if err != nil {
			return nil, fmt.Errorf("--etcd-cafile: %w", err)
		}
		certs, err := pki.ParseCertificates(pem)
		if err != nil {
			return nil, fmt.Errorf("--etcd-cafile: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		for _, c := range certs {
			conf.RootCAs.AddCert(c)
		}
	}
	if c.EtcdCertFile != "" {
		cert, err := tls.LoadX509KeyPair(c.EtcdCertFile, c.EtcdKeyFile)
		if err != nil {
			return nil, fmt.Errorf("--etcd-certfile: %w", err)
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	return conf, nil
}

// run runs all components until ctx ends or one fails.
func (s *server) run(outer context.Context) error {
	group, ctx := errgroup.WithContext(outer)
	for name, part := range map[string]func(context.Context) error{
		"store": s.store.Run, "API server": s.api.Run, "certificates": s.keys.Run, "cluster": s.runCluster, "node": s.runNode,
		"memory": func(ctx context.Context) error { return footprint.Settle(ctx, s.log) },
	} {
		group.Go(func() error {
			if err := part(ctx); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	err := group.Wait()
	if outer.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // told to end, and so did everything
	}
	return err
}

// runCluster runs what works through the API as soon as it answers.
func (s *server) runCluster(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.api.Ready():
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: s.admin.CoreV1().Events("")})
	sched, err := scheduler.New(scheduler.Config{
		Client: s.admin, Informers: s.informers, Logger: s.log.With("component", "scheduler"),
		Recorder: broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "default-scheduler"}),
	})
	if err != nil {
		return err
	}
	objects, err := metadata.NewForConfig(s.api.LoopbackConfig())
	if err != nil {
		return err
	}
	s.informers.Start(ctx.Done())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.publish(ctx) })
	group.Go(func() error { return sched.Run(ctx) })
	group.Go(func() error {
		return controller.Run(ctx, controller.Config{
			Client: s.admin, Metadata: objects, Informers: s.informers, Logger: s.log, ClusterCIDR: s.cfg.Settings.ClusterCIDR,
			RootCA: s.keys.CA.PEM(), Signer: s.keys.CA, ServerURL: s.url(),
		})
	})
	return group.Wait()
}

// runNode runs this machine's own node, and hands published ports on to it.
func (s *server) runNode(ctx context.Context) error {
	if s.cfg.DisableAgent {
		return nil
	}
	c := s.cfg.Node
	runtime, err := agent.NewRuntime(c)
	if err != nil {
		return err
	}
	user := "system:node:" + c.Name
	dir := filepath.Join(c.DataDir, "agent", "tls")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	serving, err := s.keys.CA.Keep(filepath.Join(dir, "kubelet.pem"), pki.Subject{
		CommonName: user, Organizations: []string{"system:nodes"}, DNSNames: []string{c.Name}, IPs: []net.IP{c.IP.AsSlice()}, Server: true,
	}, 0, c.Logger)
	if err != nil {
		return err
	}
	// In-process, but with no more rights than any other node has.
	config := rest.CopyConfig(s.api.LoopbackConfig())
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"system:nodes", "system:authenticated"}}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return runtime.Run(ctx) })
	group.Go(func() error { return serving.Run(ctx) })
	group.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-s.api.Ready():
		}
		return agent.RunNode(ctx, agent.Node{
			Config: c, Settings: s.cfg.Settings, Client: config, Informers: s.informers, Runtime: runtime, Parting: &s.parting,
			TLS: agent.KubeletTLS(serving.GetCertificate, s.keys.CA.Pool()),
		})
	})
	for port, listeners := range s.cfg.Sockets.Publish {
		for _, l := range listeners {
			group.Go(func() error { return forward(ctx, l, net.JoinHostPort(c.IP.String(), strconv.Itoa(port)), c.Logger) })
		}
	}
	return group.Wait()
}
