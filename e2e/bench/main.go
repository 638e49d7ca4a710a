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
	"k8s.io/client-go/kubernetes/scheme"
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
	raw     *rest.RESTClient // for what is no resource, on a connection of its own
	out     *tabwriter.Writer
}

func run(ctx context.Context, w io.Writer) (err error) {
	binary := flag.String("mini", "bin/mini", "the mini to measure")
	image := flag.String("image", "bin/images/hello.tar", "archive of the example's image")
	only := flag.String("only", "", "comma-separated parts: start, idle, api, pods (these if empty), trace, idlepods, profile, scale")
	profiles := flag.String("profiles", "bin/profiles", "where the part profile puts its files")
	starts := flag.Int("starts", 5, "how often to measure the start")
	idle := flag.Duration("idle", 30*time.Second, "how long to watch the idle node")
	flag.Parse()
	asked := strings.Split(*only, ",")
	if *only == "" {
		asked = []string{"start", "idle", "api", "pods"}
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
	for _, p := range []struct {
		names []string // the parts that share a cluster
		run   func() error
	}{
		{[]string{"start"}, func() error { return measureStarts(ctx, out, options, *starts) }},
		{[]string{"idle", "api", "pods"}, func() error {
			return withCluster(ctx, out, options, func(b *bench) error {
				for _, part := range []struct {
					name string
					run  func() error
				}{{"idle", func() error { return b.idle(*idle) }}, {"api", b.api}, {"pods", b.pods}} {
					if !slices.Contains(asked, part.name) {
						continue
					}
					if err := errors.Join(part.run(), out.Flush()); err != nil {
						return fmt.Errorf("%s: %w", part.name, err)
					}
				}
				return nil
			})
		}},
		{[]string{"trace"}, func() error {
			options := options
			options.NodeArgs = []string{"--log-level", "debug", "--log-format", "json"}
			return withCluster(ctx, out, options, (*bench).trace)
		}},
		{[]string{"idlepods"}, func() error { return withCluster(ctx, out, options, (*bench).idlePods) }},
		{[]string{"profile"}, func() error {
			return withCluster(ctx, out, options, func(b *bench) error { return b.profile(*profiles) })
		}},
		{[]string{"scale"}, func() error {
			for _, size := range []int{2000, 50000} { // a server each: what one leaves behind is not the other's
				if err := withCluster(ctx, out, options, func(b *bench) error { return b.atSize(size) }); err != nil {
					return err
				}
			}
			return withCluster(ctx, out, options, (*bench).watchers)
		}},
	} {
		if !slices.ContainsFunc(p.names, func(name string) bool { return slices.Contains(asked, name) }) {
			continue
		}
		if err := errors.Join(p.run(), out.Flush()); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(p.names, ", "), err)
		}
	}
	return nil
}

// withCluster runs do on a cluster of its own.
func withCluster(ctx context.Context, out *tabwriter.Writer, o cluster.Options, do func(*bench) error) (err error) {
	c, err := cluster.Create(ctx, o)
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
	return do(b)
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
	raw, err := rest.UnversionedRESTClientFor(&rest.Config{
		Host: config.Host, TLSClientConfig: config.TLSClientConfig, QPS: -1,
		ContentConfig: rest.ContentConfig{NegotiatedSerializer: scheme.Codecs.WithoutConversion()},
	})
	if err != nil {
		return nil, err
	}
	return &bench{ctx: ctx, cluster: c, client: client, config: config, raw: raw, out: out}, nil
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
