package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mini-k8s/mini/cni"
	"github.com/mini-k8s/mini/dns"
	"github.com/mini-k8s/mini/internal/leftovers"
	"github.com/mini-k8s/mini/proxy"
)

// cleanupCommand is what is left to do when a machine shall be no node any more, or shall start anew.
func cleanupCommand(s streams) *cobra.Command {
	return withFlags(&cobra.Command{
		Use:   "cleanup",
		Short: "End the pods of this node, whose mini has been stopped, and remove its links, rules, mounts and cgroups; with --data its files too",
		Args:  flagsOnly,
		RunE: func(c *cobra.Command, _ []string) error {
			r := &reader{c: c}
			n := nodeLeftovers{dns: r.address("cluster-dns"), cgroup: r.text("cgroup-root"), ports: []int{kubeletPort, r.port("https-port")}}
			var err error
			if n.dir, err = filepath.Abs(r.text("data-dir")); err != nil || r.text("data-dir") == "" || n.dir == "/" {
				r.bad("data-dir", r.text("data-dir"), "a folder of mini's own")
			}
			if err := r.err(); err != nil {
				return err
			}
			if err := n.remove(c.Context(), must(c.Flags().GetBool("data"))); err != nil {
				return err
			}
			_, err = fmt.Fprintln(s.out, "this node's pods, links, rules, mounts and cgroups are gone")
			return err
		},
	},
		dataDir, cgroupRoot,
		func(fs *pflag.FlagSet) {
			fs.Bool("data", false, "remove DATA-DIR as well: the node's certificates and images, and on a server the cluster")
		},
		text("cluster-dns", "10.43.0.10", "`ADDRESS` of cluster DNS"),
		text("https-port", "6443", "`PORT` of the API server"))
}

// nodeLeftovers is what a node has on the machine.
type nodeLeftovers struct {
	dir    string
	cgroup string
	dns    netip.Addr
	ports  []int // one of them is taken while mini runs
}

// remove ends and removes everything, the data dir only if data is set. What is not there is no error, and a second call
// continues where the first one failed.
func (n nodeLeftovers) remove(ctx context.Context, data bool) error {
	for _, port := range n.ports {
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			return fmt.Errorf("%w: stop mini first (`ss -ltnp` names who has the port)", err)
		}
		l.Close()
	}
	// Shims first: they would report and clean up what ends, each at its own pace.
	err := errors.Join(
		leftovers.EndPrograms(filepath.Join(n.dir, "agent", "helpers")),
		leftovers.ClearCgroup(filepath.Join("/", n.cgroup, "kubepods")),
	)
	if err != nil {
		return err // what still runs uses what comes next
	}
	err = errors.Join(
		proxy.Clean(ctx, proxy.Config{DataDir: filepath.Join(n.dir, "agent", "proxy")}),
		cni.Clean(ctx, cni.Config{DataDir: filepath.Join(n.dir, "agent", "cni")}),
		dns.Clean(dns.Config{Address: n.dns}),
		leftovers.UnmountBelow(n.dir),
		leftovers.RemoveSocketLinks(n.dir),
	)
	if err != nil || !data {
		return err
	}
	// Nothing is mounted below any more, so that this cannot wander into somebody's volume.
	return os.RemoveAll(n.dir)
}
