package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mini-k8s/mini/cluster"
)

// readyTimeout bounds how long `cluster create` waits; Ready is a matter of seconds.
const readyTimeout = 2 * time.Minute

func clusterCommand(s streams) *cobra.Command {
	dir := text("cluster-dir", cluster.DefaultDir, "`DIR` that holds the throwaway clusters")
	on := func(do func(context.Context, *cluster.Cluster) error) func(*cobra.Command, []string) error {
		return func(c *cobra.Command, args []string) error { return withCluster(c, args, do) }
	}
	return group("cluster", "Make, use and remove throwaway clusters on this machine",
		withFlags(&cobra.Command{
			Use: "create NAME", Short: "Make a cluster of a server and agents and wait until its nodes are Ready",
			RunE: func(c *cobra.Command, args []string) error { return createCluster(c, args, s) },
		}, dir, func(fs *pflag.FlagSet) {
			fs.Int("agents", 0, "`NUMBER` of nodes beside the server")
			fs.StringSlice("publish", nil, "`HOSTPORT:NODEPORT`: answer on 127.0.0.1:HOSTPORT with a NodePort, repeatable")
			fs.StringSlice("image", nil, "`FILE.tar` that every node imports, repeatable")
		}),
		withFlags(&cobra.Command{
			Use: "list", Short: "List the clusters", Args: flagsOnly,
			RunE: func(c *cobra.Command, _ []string) error { return listClusters(c, s.out) },
		}, dir, output),
		withFlags(&cobra.Command{
			Use: "exec NAME NODE -- COMMAND…", Short: "Run a command in a node's network, with the cluster's DNS",
			RunE: func(c *cobra.Command, args []string) error { return execInNode(c, args, s) },
		}, dir),
		withFlags(&cobra.Command{
			Use: "load NAME FILE.tar…", Short: "Import images into every node",
			RunE: func(c *cobra.Command, args []string) error { return loadImages(c, args, s) },
		}, dir),
		withFlags(&cobra.Command{
			Use: "stop NAME", Short: "End all processes of a cluster, pods included, and keep what it has stored",
			RunE: on(func(ctx context.Context, cl *cluster.Cluster) error { return cl.StopAll(ctx) }),
		}, dir),
		withFlags(&cobra.Command{
			Use: "start NAME", Short: "Start the nodes of a stopped cluster and wait until they are Ready",
			RunE: on(func(ctx context.Context, cl *cluster.Cluster) error {
				ctx, cancel := context.WithTimeout(ctx, readyTimeout)
				defer cancel()
				if err := cl.StartAll(ctx); err != nil {
					return err
				}
				return cl.WaitReady(ctx, nil)
			}),
		}, dir),
		withFlags(&cobra.Command{
			Use: "delete NAME", Short: "Remove a cluster and every trace of it",
			RunE: func(c *cobra.Command, args []string) error { return deleteCluster(c, args, s.out) },
		}, dir),
	)
}

// named returns the command's first n arguments, the rest, or a usage error.
func named(c *cobra.Command, args []string, names ...string) ([]string, []string, error) {
	if len(args) < len(names) {
		return nil, nil, usagef("%s: want %s", c.CommandPath(), strings.Join(names, " "))
	}
	return args[:len(names)], args[len(names):], nil
}

func openCluster(c *cobra.Command, name string) (*cluster.Cluster, error) {
	return cluster.Open(stringOf(c, "cluster-dir"), name, slog.Default())
}

// withCluster runs do on the cluster that the only argument names.
func withCluster(c *cobra.Command, args []string, do func(context.Context, *cluster.Cluster) error) error {
	args, _, err := named(c, args, "NAME")
	if err != nil {
		return err
	}
	cl, err := openCluster(c, args[0])
	if err != nil {
		return err
	}
	return do(c.Context(), cl)
}

func createCluster(c *cobra.Command, args []string, s streams) error {
	args, rest, err := named(c, args, "NAME")
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("cluster create: one NAME, not also %q", strings.Join(rest, " "))
	}
	o := cluster.Options{Name: args[0], Agents: must(c.Flags().GetInt("agents")), Images: stringsOf(c, "image"), Dir: stringOf(c, "cluster-dir")}
	for _, p := range stringsOf(c, "publish") {
		published, err := cluster.ParsePublish(p)
		if err != nil {
			return usagef("--publish: %w", err)
		}
		o.Publish = append(o.Publish, published)
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(c.Context(), readyTimeout)
	defer cancel()
	made, err := cluster.Create(ctx, o)
	if err != nil {
		return err
	}
	if err := made.WaitReady(ctx, func(node string, _ time.Duration) {
		fmt.Fprintf(s.err, "  %s is Ready after %.2f s\n", node, time.Since(begin).Seconds())
	}); err != nil {
		return fmt.Errorf("%w\nthe cluster is kept for a look at it; `mini cluster delete %s` removes it", err, o.Name)
	}
	path, err := made.MergeKubeconfig()
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "cluster %s: %d nodes Ready after %.2f s; kubectl's context %s in %s\n",
		o.Name, len(made.Nodes), time.Since(begin).Seconds(), made.Context(), path)
	return nil
}

func listClusters(c *cobra.Command, out io.Writer) error {
	all, err := cluster.List(stringOf(c, "cluster-dir"), slog.Default())
	if err != nil {
		return err
	}
	asJSON, err := wantJSON(c)
	if err != nil {
		return err
	}
	if asJSON {
		if all == nil {
			all = []*cluster.Cluster{}
		}
		return printJSON(out, all)
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tNODES\tRUNNING\tAPI\tAGE")
	for _, cl := range all {
		running := 0
		for _, n := range cl.Nodes {
			if n.Running() {
				running++
			}
		}
		fmt.Fprintf(w, "%s\t%d\t%d\thttps://127.0.0.1:%d\t%s\n", cl.Name, len(cl.Nodes), running, cl.APIPort, time.Since(cl.Created).Round(time.Second))
	}
	return w.Flush()
}

func execInNode(c *cobra.Command, args []string, s streams) error {
	args, command, err := named(c, args, "NAME", "NODE", "COMMAND")
	if err != nil {
		return err
	}
	command = append([]string{args[2]}, command...)
	cl, err := openCluster(c, args[0])
	if err != nil {
		return err
	}
	if _, err := cl.Node(args[1]); err != nil {
		return err
	}
	cmd := exec.CommandContext(c.Context(), command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.in, s.out, s.err
	if err := cl.StartCommand(args[1], cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

func loadImages(c *cobra.Command, args []string, s streams) error {
	args, files, err := named(c, args, "NAME", "FILE.tar")
	if err != nil {
		return err
	}
	files = append([]string{args[1]}, files...)
	cl, err := openCluster(c, args[0])
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range cl.Nodes {
		for _, f := range files {
			fmt.Fprintf(s.err, "%s: %s\n", n.Name, f)
			errs = append(errs, importImage(c.Context(), cl.DataDir(n.Name), f, s))
		}
	}
	return errors.Join(errs...)
}

func deleteCluster(c *cobra.Command, args []string, out io.Writer) error {
	args, _, err := named(c, args, "NAME")
	if err != nil {
		return err
	}
	cl, err := openCluster(c, args[0])
	if errors.Is(err, cluster.ErrNotFound) {
		fmt.Fprintf(out, "there is no cluster %s\n", args[0])
		return nil
	}
	if err != nil {
		return err
	}
	if err := cl.Delete(c.Context()); err != nil {
		return err
	}
	_ = os.Remove(stringOf(c, "cluster-dir")) // only if it was the last one
	fmt.Fprintf(out, "cluster %s is gone\n", args[0])
	return nil
}
