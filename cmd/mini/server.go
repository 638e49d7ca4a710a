package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/mini-k8s/mini/cmd/mini/agent"
	"github.com/mini-k8s/mini/cmd/mini/server"
)

// kubeletPort is where a node's kubelet answers the API server.
const kubeletPort = agent.KubeletPort

func serverCommand(s streams) *cobra.Command {
	return withFlags(&cobra.Command{
		Use:     "server",
		Short:   "Run a control node (and, unless --disable-agent, pods on it)",
		Args:    flagsOnly,
		PreRunE: prepareNode,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := serverConfig(c, s)
			if err != nil {
				return err
			}
			if cfg.Sockets, err = server.InheritSockets(); err != nil {
				return err
			}
			adoptLibraryLogs(cfg.Node.Logger)
			return server.Run(c.Context(), cfg)
		},
	}, append(nodeFlags(),
		text("bind-address", "0.0.0.0", "`ADDRESS` that the API server listens on"),
		text("https-port", "6443", "`PORT` of the API server"),
		text("token", "", "`ID.SECRET` with which nodes join (default: made at the first start, see DATA-DIR/token)"),
		list("tls-san", "`NAME` or address under which clients reach the API server, repeatable"),
		text("cluster-cidr", "10.42.0.0/16", "`CIDR` of pods"),
		text("service-cidr", "10.43.0.0/16", "`CIDR` of Services"),
		text("cluster-dns", "10.43.0.10", "`ADDRESS` of cluster DNS, in --service-cidr"),
		text("cluster-domain", "cluster.local", "`DOMAIN` of cluster DNS"),
		text("service-node-port-range", "30000-32767", "`FROM-TO`"),
		list("etcd-endpoints", "`URL` of an etcd that is there already, repeatable (default: the one inside mini)"),
		text("etcd-cafile", "", "`FILE` with the CA of --etcd-endpoints"),
		text("etcd-certfile", "", "`FILE` with the client certificate for --etcd-endpoints"),
		text("etcd-keyfile", "", "`FILE` with its key"),
		text("etcd-compaction-interval", "5m", "`TIME` that old revisions can be read and watched from, at least; twice that at most"),
		toggle("disable-agent", "run no pods on this node"),
		text("write-kubeconfig", "", "`FILE` for the cluster-admin's kubeconfig (default: DATA-DIR/kubeconfig)"),
	)...)
}

// serverConfig reads the flags; all mistakes are in the one error.
func serverConfig(c *cobra.Command, s streams) (server.Config, error) {
	r := &reader{c: c}
	cfg := server.Config{
		Node:           nodeConfig(r, s),
		BindAddress:    r.address("bind-address"),
		Port:           r.port("https-port"),
		Token:          r.token("token"),
		SANs:           stringsOf(c, "tls-san"),
		EtcdCAFile:     r.file("etcd-cafile"),
		EtcdCertFile:   r.file("etcd-certfile"),
		EtcdKeyFile:    r.file("etcd-keyfile"),
		CompactEvery:   r.duration("etcd-compaction-interval", 10*time.Second),
		DisableAgent:   must(c.Flags().GetBool("disable-agent")),
		KubeconfigFile: r.text("write-kubeconfig"),
	}
	cfg.Settings.ClusterCIDR = r.cidr("cluster-cidr", 23)
	cfg.Settings.ServiceCIDR = r.cidr("service-cidr", 28)
	cfg.Settings.ClusterDNS = r.address("cluster-dns")
	cfg.Settings.ClusterDomain = strings.TrimSuffix(r.text("cluster-domain"), ".")
	cfg.Settings.NodePorts.From, cfg.Settings.NodePorts.To = r.portRange("service-node-port-range")
	checkNetworks(r, cfg.Settings)
	for _, e := range stringsOf(c, "etcd-endpoints") {
		cfg.EtcdEndpoints = append(cfg.EtcdEndpoints, r.url("etcd-endpoints", e))
	}
	if (cfg.EtcdCertFile == "") != (cfg.EtcdKeyFile == "") {
		r.bad("etcd-certfile", cfg.EtcdCertFile, "both --etcd-certfile and --etcd-keyfile, or neither")
	}
	if cfg.KubeconfigFile == "" {
		cfg.KubeconfigFile = filepath.Join(cfg.Node.DataDir, "kubeconfig")
	}
	return cfg, r.err()
}

// checkNetworks holds the networks against each other.
func checkNetworks(r *reader, s agent.Settings) {
	if s.ClusterCIDR.IsValid() && s.ServiceCIDR.IsValid() {
		if s.ClusterCIDR.Overlaps(s.ServiceCIDR) {
			r.bad("service-cidr", s.ServiceCIDR, fmt.Sprintf("a network that does not overlap --cluster-cidr %s", s.ClusterCIDR))
		}
		first := s.ServiceCIDR.Addr().Next() // the Service default/kubernetes has it
		if s.ClusterDNS.IsValid() && (!s.ServiceCIDR.Contains(s.ClusterDNS) || s.ClusterDNS == first || s.ClusterDNS == s.ServiceCIDR.Addr()) {
			r.bad("cluster-dns", s.ClusterDNS, fmt.Sprintf("an address of --service-cidr %s after its first", s.ServiceCIDR))
		}
	}
	if !s.ClusterDNS.IsValid() {
		r.bad("cluster-dns", r.text("cluster-dns"), "an IP address")
	}
	if problems := validation.IsDNS1123Subdomain(s.ClusterDomain); len(problems) > 0 {
		r.bad("cluster-domain", s.ClusterDomain, strings.Join(problems, "; "))
	}
}

func agentCommand(s streams) *cobra.Command {
	return withFlags(&cobra.Command{
		Use:     "agent",
		Short:   "Run a worker: join a cluster and run its pods",
		Args:    flagsOnly,
		PreRunE: prepareNode,
		RunE: func(c *cobra.Command, _ []string) error {
			r := &reader{c: c}
			cfg := agent.Config{Node: nodeConfig(r, s), Server: r.url("join", r.text("join")), Token: r.token("token")}
			if err := r.err(); err != nil {
				return err
			}
			adoptLibraryLogs(cfg.Node.Logger)
			return agent.Run(c.Context(), cfg)
		},
	}, append(nodeFlags(),
		text("join", "", "`URL` of a server, such as https://192.0.2.10:6443"),
		text("token", "", "`TOKEN` from the server's DATA-DIR/token or `mini token create`"),
	)...)
}

// nodeConfig reads what server and agent have in common.
func nodeConfig(r *reader, s streams) agent.NodeConfig {
	cfg := agent.NodeConfig{
		Name: r.nodeName(), IP: r.address("node-ip"), ContainerdSocket: r.text("containerd-socket"), CgroupRoot: r.text("cgroup-root"),
		Labels: r.labels("node-label"), Taints: r.taints("node-taint"), Logger: r.logger(s.err),
		AllowedUnsafeSysctls: stringsOf(r.c, "allowed-unsafe-sysctls"),
	}
	cfg.StopPods = must(r.c.Flags().GetBool("stop-pods"))
	cfg.ShutdownGracePeriod = r.duration("shutdown-grace-period", time.Second)
	cfg.ShutdownGracePeriodCriticalPods = r.duration("shutdown-grace-period-critical-pods", 0)
	if cfg.ShutdownGracePeriodCriticalPods > cfg.ShutdownGracePeriod {
		r.bad("shutdown-grace-period-critical-pods", cfg.ShutdownGracePeriodCriticalPods, fmt.Sprintf("at most --shutdown-grace-period %s", cfg.ShutdownGracePeriod))
	}
	if dir := r.text("pod-manifest-path"); dir != "" {
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			r.bad("pod-manifest-path", dir, "a folder that exists")
		}
		cfg.ManifestPath, _ = filepath.Abs(dir)
	}
	var err error
	if cfg.DataDir, err = filepath.Abs(r.text("data-dir")); err != nil || r.text("data-dir") == "" {
		r.bad("data-dir", r.text("data-dir"), "a folder")
	}
	if cfg.IP == (netip.Addr{}) && len(r.errs) == 0 {
		if cfg.IP, err = agent.DefaultAddress(); err != nil {
			r.errs = append(r.errs, err)
		}
	}
	return cfg
}
