package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	idlePods  = 100
	idleWatch = 60 * time.Second
)

// idlePods measures what pods cost that do nothing: in mini, and in the processes that each of them has.
func (b *bench) idlePods() error {
	ctx, cancel := context.WithTimeout(b.ctx, 15*time.Minute)
	defer cancel()
	events, err := b.client.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	defer events.Stop()
	// One pod first: the pages of the binary that starting pods needs are not a cost of having them.
	if _, err := b.start(ctx, events, "warm", 1); err != nil {
		return err
	}
	if _, err := b.remove(ctx, events); err != nil {
		return err
	}
	before, idle, err := b.atRest(ctx)
	if err != nil {
		return err
	}
	if _, err := b.start(ctx, events, "idle", idlePods); err != nil {
		return err
	}
	after, busy, err := b.atRest(ctx)
	if err != nil {
		return err
	}
	mb := func(n int64) float64 { return float64(n) / 1e6 }
	row := func(what string, m goMemory, cpu float64) {
		fmt.Fprintf(b.out, "%s\t%.1f MB RSS\t%.1f MB without files\t%.1f MB heap, %.1f MB stacks, %d goroutines\t%.2f %% of a core\n",
			what, mb(m.rss), mb(m.anonymous), mb(m.heap), mb(m.stacks), m.goroutines, cpu)
	}
	row("mini without pods", before, idle)
	row(fmt.Sprintf("mini with %d idle pods", idlePods), after, busy)
	fmt.Fprintf(b.out, "so %d idle pods cost in mini\t%.1f MB RSS\t%.1f MB without files\t%.1f MB heap, %.1f MB stacks, %d goroutines\t%.2f %% of a core over %s\n", idlePods,
		mb(after.rss-before.rss), mb(after.anonymous-before.anonymous), mb(after.heap-before.heap), mb(after.stacks-before.stacks),
		after.goroutines-before.goroutines, busy-idle, idleWatch)
	return b.podProcesses()
}

// atRest measures mini when it has come to rest, first its CPU, undisturbed, in percent of a core.
func (b *bench) atRest(ctx context.Context) (m goMemory, cpu float64, err error) {
	if err := b.quiet(); err != nil {
		return m, 0, err
	}
	used, begin := b.cpu(), time.Now()
	if err := b.wait(idleWatch); err != nil {
		return m, 0, err
	}
	cpu = 100 * float64(b.cpu()-used) / float64(time.Since(begin))
	m, err = b.memoryAtRest()
	return m, cpu, err
}

// podProcesses prints what each pod has besides mini, by program, over a while.
func (b *bench) podProcesses() error {
	type group struct {
		n   int
		pss int64
		cpu time.Duration
	}
	measure := func() map[string]*group {
		groups := map[string]*group{}
		for pid, name := range processesOf(b.cluster.Dir()) {
			if groups[name] == nil {
				groups[name] = &group{}
			}
			g := groups[name]
			g.n++
			g.cpu += cpuOf(pid)
			g.pss += memory(pid).pss
		}
		return groups
	}
	before, begin := measure(), time.Now()
	if err := b.wait(idleWatch / 2); err != nil {
		return err
	}
	after, took := measure(), time.Since(begin)
	for _, name := range slices.Sorted(maps.Keys(after)) {
		g := after[name]
		cpu := g.cpu
		if was := before[name]; was != nil {
			cpu -= was.cpu
		}
		fmt.Fprintf(b.out, "beside mini: %d of %s\t%.1f MB PSS\t%.2f MB each\t\t%.2f %% of a core\n", g.n, name, float64(g.pss)/1e6,
			float64(g.pss)/1e6/float64(g.n), 100*float64(cpu)/float64(took))
	}
	return nil
}

// processesOf finds the shims, log writers and pauses of a cluster, whose programs lie below its folder.
func processesOf(dir string) map[int]string {
	found := map[int]string{}
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		exe, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(exe, dir+"/") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if err != nil {
			continue
		}
		name, _, _ := strings.Cut(filepath.Base(exe), "-")
		found[pid] = name
	}
	return found
}
