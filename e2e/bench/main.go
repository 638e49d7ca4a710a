// Command bench measures mini against the budget of docs/performance.md, on a cluster of one node that it makes and removes.
//
// The figures of the API rows are what a client sees, with the CPU time that the server's process spent on them beside it;
// client and server share the machine. Print them as they are: compare within one run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/mini-k8s/mini/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is a run: a cluster, its server's process and the rows measured so far.
type bench struct {
	ctx     context.Context
	cluster *cluster.Cluster
	client  *kubernetes.Clientset // protobuf, no rate limit
	config  *rest.Config
	out     *tabwriter.Writer
}

func run(ctx context.Context, w io.Writer) (err error) {
	binary := flag.String("mini", "bin/mini", "the mini to measure")
	image := flag.String("image", "bin/images/hello.tar", "archive of the example's image")
	only := flag.String("only", "", "comma-separated parts: start, idle, api, scale, pods (all but scale)")
	starts := flag.Int("starts", 5, "how often to measure the start")
	idle := flag.Duration("idle", 30*time.Second, "how long to watch the idle node")
	flag.Parse()
	wants := func(part string) bool {
		return *only == "" && part != "scale" || slices.Contains(strings.Split(*only, ","), part)
	}
	path, err := filepath.Abs(*binary)
	if err != nil {
		return err
	}
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer func() { err = errors.Join(err, out.Flush()) }()
	if st, err := os.Stat(path); err == nil {
		fmt.Fprintf(out, "binary\t%.1f MB\n", float64(st.Size())/1e6)
	}
	dir, err := os.MkdirTemp("", "mini-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	os.Setenv("KUBECONFIG", filepath.Join(dir, "user-kubeconfig"))
	options := cluster.Options{Name: "bench", Dir: dir, Binary: path, Images: []string{*image}}
	if wants("start") {
		if err := measureStarts(ctx, out, options, *starts); err != nil {
			return err
		}
	}
	if *only == "start" {
		return nil
	}
	c, err := cluster.Create(ctx, options)
	if err != nil {
		return err
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, c.Delete(clean))
	}()
	b, err := newBench(ctx, c, out)
	if err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		run  func() error
	}{
		{"idle", func() error { return b.idle(*idle) }},
		{"api", b.api},
		{"pods", b.pods},
		{"scale", b.scale},
	} {
		if !wants(part.name) {
			continue
		}
		if err := part.run(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		if err := out.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func newBench(ctx context.Context, c *cluster.Cluster, out *tabwriter.Writer) (*bench, error) {
	if err := c.WaitReady(ctx, nil); err != nil {
		return nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &bench{ctx: ctx, cluster: c, client: client, config: config, out: out}, nil
}

// measureStarts makes clusters and takes the time from the start of the server's process, with an empty data dir, to Ready.
func measureStarts(ctx context.Context, out io.Writer, o cluster.Options, n int) error {
	for _, agents := range []int{0, 2} {
		var took []time.Duration
		for range n {
			o := o
			o.Agents, o.Name, o.Images = agents, "start", nil
			begin := time.Now()
			c, err := cluster.Create(ctx, o)
			if err != nil {
				return err
			}
			err = c.WaitReady(ctx, nil)
			took = append(took, time.Since(begin))
			if err := errors.Join(err, c.Delete(ctx)); err != nil {
				return err
			}
		}
		fmt.Fprintf(out, "start to all Ready, %d node(s), median of %d\t%s\t(%s)\n", agents+1, n, ms(percentile(took, 50)), spread(took))
	}
	return nil
}

func ms(d time.Duration) string { return fmt.Sprintf("%.0f ms", float64(d)/float64(time.Millisecond)) }

func spread(d []time.Duration) string { return ms(slices.Min(d)) + " to " + ms(slices.Max(d)) }

func percentile(d []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(d))
	return sorted[min(len(sorted)-1, len(sorted)*p/100)]
}
