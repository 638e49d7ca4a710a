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

	"github.com/urfave/cli/v2"

	"github.com/mini-k8s/mini/cluster"
)

// readyTimeout bounds how long `cluster create` waits; Ready is a matter of seconds.
const readyTimeout = 2 * time.Minute

func clusterCommand(s streams) *cli.Command {
	dir := text("cluster-dir", cluster.DefaultDir, "`DIR` that holds the throwaway clusters")
	return &cli.Command{
		Name:  "cluster",
		Usage: "Make, use and remove throwaway clusters on this machine",
		Subcommands: []*cli.Command{
			{
				Name: "create", ArgsUsage: "NAME", Usage: "Make a cluster of a server and agents and wait until its nodes are Ready",
				Flags: []cli.Flag{
					dir,
					&cli.IntFlag{Name: "agents", Usage: "`NUMBER` of nodes beside the server"},
					&cli.StringSliceFlag{Name: "publish", Usage: "`HOSTPORT:NODEPORT`: answer on 127.0.0.1:HOSTPORT with a NodePort, repeatable"},
					&cli.StringSliceFlag{Name: "image", Usage: "`FILE.tar` that every node imports, repeatable"},
				},
				Action: func(c *cli.Context) error { return createCluster(c, s) },
			},
			{
				Name: "list", Usage: "List the clusters",
				Flags:  []cli.Flag{dir, outputFlag()},
				Action: func(c *cli.Context) error { return listClusters(c, s.out) },
			},
			{
				Name: "exec", ArgsUsage: "NAME NODE -- COMMAND…", Usage: "Run a command in a node's network, with the cluster's DNS",
				Flags:  []cli.Flag{dir},
				Action: func(c *cli.Context) error { return execInNode(c, s) },
			},
			{
				Name: "load", ArgsUsage: "NAME FILE.tar…", Usage: "Import images into every node",
				Flags:  []cli.Flag{dir},
				Action: func(c *cli.Context) error { return loadImages(c, s) },
			},
			{
				Name: "stop", ArgsUsage: "NAME", Usage: "End all processes of a cluster, pods included, and keep what it has stored",
				Flags: []cli.Flag{dir},
				Action: func(c *cli.Context) error {
					return withCluster(c, func(cl *cluster.Cluster) error { return cl.StopAll(c.Context) })
				},
			},
			{
				Name: "start", ArgsUsage: "NAME", Usage: "Start the nodes of a stopped cluster and wait until they are Ready",
				Flags: []cli.Flag{dir},
				Action: func(c *cli.Context) error {
					return withCluster(c, func(cl *cluster.Cluster) error {
						ctx, cancel := context.WithTimeout(c.Context, readyTimeout)
						defer cancel()
						if err := cl.StartAll(ctx); err != nil {
							return err
						}
						return cl.WaitReady(ctx, nil)
					})
				},
			},
			{
				Name: "delete", ArgsUsage: "NAME", Usage: "Remove a cluster and every trace of it",
				Flags:  []cli.Flag{dir},
				Action: func(c *cli.Context) error { return deleteCluster(c, s.out) },
			},
		},
	}
}

// named returns the command's first n arguments, the rest, or a usage error.
func named(c *cli.Context, names ...string) ([]string, []string, error) {
	if c.NArg() < len(names) {
		return nil, nil, usagef("%s: want %s", c.Command.HelpName, strings.Join(names, " "))
	}
	return c.Args().Slice()[:len(names)], c.Args().Slice()[len(names):], nil
}

func openCluster(c *cli.Context, name string) (*cluster.Cluster, error) {
	return cluster.Open(c.String("cluster-dir"), name, slog.Default())
}

// withCluster runs fn on the cluster that the only argument names.
func withCluster(c *cli.Context, fn func(*cluster.Cluster) error) error {
	args, _, err := named(c, "NAME")
	if err != nil {
		return err
	}
	cl, err := openCluster(c, args[0])
	if err != nil {
		return err
	}
	return fn(cl)
}

func createCluster(c *cli.Context, s streams) error {
	args, rest, err := named(c, "NAME")
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("cluster create: one NAME, not also %q", strings.Join(rest, " "))
	}
	o := cluster.Options{Name: args[0], Agents: c.Int("agents"), Images: c.StringSlice("image"), Dir: c.String("cluster-dir")}
	for _, p := range c.StringSlice("publish") {
		published, err := cluster.ParsePublish(p)
		if err != nil {
			return usagef("--publish: %w", err)
		}
		o.Publish = append(o.Publish, published)
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(c.Context, readyTimeout)
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

func listClusters(c *cli.Context, out io.Writer) error {
	all, err := cluster.List(c.String("cluster-dir"), slog.Default())
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

func execInNode(c *cli.Context, s streams) error {
	args, command, err := named(c, "NAME", "NODE", "COMMAND")
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
	cmd := exec.CommandContext(c.Context, command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.in, s.out, s.err
	if err := cl.StartCommand(args[1], cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

func loadImages(c *cli.Context, s streams) error {
	args, files, err := named(c, "NAME", "FILE.tar")
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
			errs = append(errs, importImage(c.Context, cl.DataDir(n.Name), f, s))
		}
	}
	return errors.Join(errs...)
}

func deleteCluster(c *cli.Context, out io.Writer) error {
	args, _, err := named(c, "NAME")
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
	if err := cl.Delete(c.Context); err != nil {
		return err
	}
	_ = os.Remove(c.String("cluster-dir")) // only if it was the last one
	fmt.Fprintf(out, "cluster %s is gone\n", args[0])
	return nil
}
