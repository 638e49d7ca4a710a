package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// profileTime is how long each verb is profiled.
const profileTime = 10 * time.Second

// profile says what the server's CPU time goes to, verb by verb, and leaves the profiles in dir.
func (b *bench) profile(dir string) error {
	if err := errors.Join(os.MkdirAll(dir, 0o755), b.namespace("profile")); err != nil {
		return err
	}
	maps := b.client.CoreV1().ConfigMaps("profile")
	payload := strings.Repeat("x", 1000)
	create := func(ctx context.Context, i int) error {
		_, err := maps.Create(ctx, configMap(i, payload), metav1.CreateOptions{})
		return err
	}
	if err := b.row("fill", writers, objects, create); err != nil {
		return err
	}
	columns := []column{}
	for _, verb := range []struct {
		name    string
		clients int
		do      func(ctx context.Context, i int) error
	}{
		{"get", writers, func(ctx context.Context, i int) error {
			_, err := maps.Get(ctx, objectName(i%objects), metav1.GetOptions{})
			return err
		}},
		{"create", writers, func(ctx context.Context, i int) error { return create(ctx, objects+i) }},
		{"update", writers, func(ctx context.Context, i int) error {
			_, err := maps.Update(ctx, configMap(i%objects, payload+fmt.Sprint(i)), metav1.UpdateOptions{})
			return err
		}},
		{"list", 4, func(ctx context.Context, _ int) error {
			return b.listRaw("profile", metav1.ListOptions{ResourceVersion: "0"})(ctx, 0)
		}},
	} {
		c, err := b.profiled(dir, verb.name, verb.clients, verb.do)
		if err != nil {
			return err
		}
		columns = append(columns, c)
	}
	c, err := b.profileWatch(dir)
	if err != nil {
		return err
	}
	b.printShares(append(columns, c))
	return nil
}

// column is a verb's profile by groups.
type column struct {
	name  string
	cpu   time.Duration // of the server for each call or event
	share map[string]float64
}

// profiled repeats do while the server's profile is taken.
func (b *bench) profiled(dir, name string, clients int, do func(ctx context.Context, i int) error) (c column, err error) {
	if err := b.quiet(); err != nil {
		return c, err
	}
	var calls atomic.Int64
	var failed atomic.Pointer[error]
	ctx, stop := context.WithCancel(b.ctx)
	defer stop()
	var wg sync.WaitGroup
	used := b.cpu()
	for range clients {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := do(b.ctx, int(calls.Add(1))-1); err != nil {
					failed.CompareAndSwap(nil, &err)
					return
				}
			}
		})
	}
	path, err := b.takeProfile(dir, name)
	stop()
	wg.Wait()
	if e := failed.Load(); e != nil {
		err = errors.Join(err, *e)
	}
	if err != nil {
		return c, err
	}
	c = column{name: name, cpu: (b.cpu() - used) / time.Duration(calls.Load())}
	c.share, err = shares(b.ctx, path)
	return c, err
}

// profileWatch profiles what a hundred watchers of the same objects cost while these are written by one client.
func (b *bench) profileWatch(dir string) (c column, err error) {
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	var events atomic.Int64
	var watching sync.WaitGroup
	for range watchers {
		client, err := kubernetes.NewForConfig(b.config)
		if err != nil {
			return c, err
		}
		w, err := client.CoreV1().ConfigMaps("profile").Watch(ctx, metav1.ListOptions{LabelSelector: "fan=out"})
		if err != nil {
			return c, err
		}
		watching.Go(func() {
			for range w.ResultChan() {
				events.Add(1)
			}
		})
	}
	maps := b.client.CoreV1().ConfigMaps("profile")
	c, err = b.profiled(dir, "watch", 1, func(ctx context.Context, i int) error {
		_, err := maps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("fan-%d", i), Labels: map[string]string{"fan": "out"}},
		}, metav1.CreateOptions{})
		return err
	})
	cancel()
	watching.Wait()
	c.cpu /= watchers
	return c, err
}

func (b *bench) takeProfile(dir, name string) (string, error) {
	data, err := b.raw.Get().AbsPath("/debug/pprof/profile").Param("seconds", fmt.Sprint(int(profileTime.Seconds()))).DoRaw(b.ctx)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name+".pprof")
	return path, os.WriteFile(path, data, 0o644)
}

// group names a part of the server by the functions that belong to it.
type group struct {
	name     string
	prefixes []string
}

// other is what no group claims.
const other = "other"

// groups are asked in this order, for each function from the innermost to the outermost: so a copy of memory counts to the part
// that needed it.
var groups = []group{
	{"garbage collection", []string{"runtime.gcBgMarkWorker", "runtime.gcAssist", "runtime.bgsweep", "runtime.bgscavenge", "runtime.gcStart", "runtime.gcMark"}},
	{"allocation", []string{"runtime.mallocgc", "runtime.growslice", "runtime.newobject", "runtime.makeslice"}},
	{"goroutines (switching, timers, idling)", []string{"runtime.schedule", "runtime.findRunnable", "runtime.mcall", "runtime.park_m", "runtime.mstart", "runtime.goready", "runtime.ready", "runtime.netpoll", "runtime.sysmon"}},
	{"network: system calls", []string{"net.(*netFD)", "net.(*conn)"}},
	{"TLS", []string{"crypto/"}},
	{"etcd: disk", []string{"go.etcd.io/etcd/server/v3/storage/wal.(*WAL).sync", "go.etcd.io/bbolt", "os.(*File)", "go.etcd.io/etcd/server/v3/storage/backend"}},
	{"etcd: raft, log, keys", []string{"go.etcd.io/", "google.golang.org/grpc"}},
	{"authentication, authorization, queueing", []string{mini + "apiserver/authn", mini + "apiserver/authz", mini + "apiserver/fairness", mini + "apiserver/serviceaccount"}},
	{"admission", []string{mini + "apiserver/admission", mini + "apiserver/plugins"}},
	{"managed fields", []string{"k8s.io/apimachinery/pkg/util/managedfields", "sigs.k8s.io/structured-merge-diff", mini + "apiserver/fieldschema"}},
	{"decode", []string{"k8s.io/api/core/v1.(*ConfigMap).Unmarshal", "k8s.io/apimachinery/pkg/apis/meta/v1.(*ObjectMeta).Unmarshal", "k8s.io/apimachinery/pkg/runtime/serializer/protobuf.unmarshal",
		"k8s.io/apimachinery/pkg/runtime/serializer/protobuf.(*Serializer).Decode", mini + "apiserver/codec.Decode"}},
	{"encode", []string{"k8s.io/api/core/v1.(*ConfigMap).Marshal", "k8s.io/apimachinery/pkg/runtime/serializer/protobuf", "k8s.io/apimachinery/pkg/apis/meta/v1.(*ObjectMeta).Marshal", mini + "apiserver/codec", "encoding/json", "compress/"}},
	{"defaults, validation, strategy", []string{mini + "apiserver/registry", "k8s.io/apimachinery/pkg/api/validation", "k8s.io/apimachinery/pkg/util/validation"}},
	{"store and watch cache", []string{mini + "store"}},
	{"HTTP", []string{"net/http", "golang.org/x/net/http", "bufio.", "internal/http"}},
	{"requests: routing, verbs, watch streams", []string{mini + "apiserver"}},
	{"the rest of the node (kubelet, proxy, controllers)", []string{mini, "k8s.io/client-go", "github.com/containerd"}},
}

const mini = "github.com/mini-k8s/mini/"

func groupOf(stack []string) string {
	for _, function := range stack {
		for _, g := range groups {
			for _, p := range g.prefixes {
				if strings.HasPrefix(function, p) {
					return g.name
				}
			}
		}
	}
	return other
}

// shares reads a profile by Go's own tool, which whoever runs this has.
func shares(ctx context.Context, path string) (map[string]float64, error) {
	out, err := exec.CommandContext(ctx, "go", "tool", "pprof", "-traces", path).Output()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	times := map[string]time.Duration{}
	var all, this time.Duration
	var stack []string
	end := func() {
		if len(stack) > 0 {
			times[groupOf(stack)] += this
			all += this
		}
		stack, this = nil, 0
	}
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		switch f := strings.Fields(strings.ReplaceAll(s.Text(), " (inline)", "")); {
		case strings.HasPrefix(s.Text(), "----"):
			end()
		case len(f) == 2 && len(stack) == 0:
			d, err := time.ParseDuration(f[0])
			if err != nil {
				continue // the heading
			}
			this, stack = d, []string{f[1]}
		case len(f) == 1 && len(stack) > 0:
			stack = append(stack, f[0])
		}
	}
	end()
	if all == 0 {
		return nil, fmt.Errorf("%s has no samples", path)
	}
	part := map[string]float64{}
	for name, d := range times {
		part[name] = float64(d) / float64(all)
	}
	return part, nil
}

// printShares prints a Markdown table: a row for each group, a column for each verb.
func (b *bench) printShares(columns []column) {
	names := map[string]float64{}
	heads, lines, costs := "| of the server's CPU time |", "|---|", "| **CPU for each call, µs** |"
	for _, c := range columns {
		heads, lines = heads+" "+c.name+" |", lines+"---|"
		costs += fmt.Sprintf(" %.0f |", float64(c.cpu)/float64(time.Microsecond))
		for name, s := range c.share {
			names[name] += s
		}
	}
	fmt.Fprintf(b.out, "%s\n%s\n%s\n", heads, lines, costs)
	for _, name := range slices.SortedFunc(maps.Keys(names), func(x, y string) int { return cmp.Compare(names[y], names[x]) }) {
		row := "| " + name + " |"
		for _, c := range columns {
			row += fmt.Sprintf(" %.0f %% |", 100*c.share[name])
		}
		fmt.Fprintln(b.out, row)
	}
}
