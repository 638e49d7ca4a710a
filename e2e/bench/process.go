package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of CPU times in /proc (sysconf(_SC_CLK_TCK), 100 on Linux everywhere).
const clockTick = 10 * time.Millisecond

// cpu is the CPU time that the server's mini has used so far.
func (b *bench) cpu() time.Duration { return cpuOf(b.cluster.Nodes[0].PID) }

func cpuOf(pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * clockTick
}

// footprint is a process's memory in bytes.
type footprint struct {
	rss, private int64
	anonymous    int64 // of rss, what is no page of a file
	pss          int64 // with the shared pages divided among those who share them
}

func memory(pid int) (m footprint) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return m
	}
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 2 {
			continue
		}
		kb, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "Rss:":
			m.rss = kb << 10
		case "Pss:":
			m.pss = kb << 10
		case "Anonymous:":
			m.anonymous = kb << 10
		case "Private_Clean:", "Private_Dirty:":
			m.private += kb << 10
		}
	}
	return m
}

// goMemory is what the server's Go runtime says of itself at /metrics.
type goMemory struct {
	footprint
	heap       int64 // live after a collection, in bytes
	stacks     int64
	goroutines int
}

// memoryAtRest lets the server come to rest and collect its garbage, and measures it then.
func (b *bench) memoryAtRest() (m goMemory, err error) {
	if err := b.quiet(); err != nil {
		return m, err
	}
	for range 2 { // the first collection hands pools over to the second
		if err := b.raw.Get().AbsPath("/debug/pprof/heap").Param("gc", "1").Do(b.ctx).Error(); err != nil {
			return m, err
		}
	}
	data, err := b.raw.Get().AbsPath("/metrics").DoRaw(b.ctx)
	if err != nil {
		return m, err
	}
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		name, value, _ := strings.Cut(s.Text(), " ")
		v, _ := strconv.ParseFloat(value, 64)
		switch name {
		case "go_memstats_heap_alloc_bytes":
			m.heap = int64(v)
		case "go_memstats_stack_inuse_bytes":
			m.stacks = int64(v)
		case "go_goroutines":
			m.goroutines = int(v)
		}
	}
	m.footprint = memory(b.cluster.Nodes[0].PID)
	return m, nil
}

// quiet waits until the server has nothing left to do: three times in a row it used less than 2 % of a core for half a second.
// On a server that never comes to rest it fails.
func (b *bench) quiet() error {
	const window = 500 * time.Millisecond
	calm := 0
	for begin := time.Now(); calm < 3; {
		if time.Since(begin) > 3*time.Minute {
			return errors.New("the server has not come to rest for three minutes")
		}
		before := b.cpu()
		if err := b.wait(window); err != nil {
			return err
		}
		if b.cpu()-before <= clockTick {
			calm++
		} else {
			calm = 0
		}
	}
	return nil
}

// idle watches the node with nothing to do.
func (b *bench) idle(d time.Duration) error {
	pid := b.cluster.Nodes[0].PID
	// The start leaves garbage and late work; a quarter of the time lets them pass.
	if err := b.wait(d / 4); err != nil {
		return err
	}
	before, begin := b.cpu(), time.Now()
	if err := b.wait(d); err != nil {
		return err
	}
	used, took := b.cpu()-before, time.Since(begin)
	m := memory(pid)
	fmt.Fprintf(b.out, "idle memory, server and agent in one process\t%.0f MB RSS\t(%.0f MB private), %d threads\n",
		float64(m.rss)/1e6, float64(m.private)/1e6, threads(pid))
	fmt.Fprintf(b.out, "idle CPU\t%.2f %% of a core\tover %s\n", 100*float64(used)/float64(took), took.Round(time.Second))
	return nil
}

func threads(pid int) int {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	return len(tasks)
}

func (b *bench) wait(d time.Duration) error {
	select {
	case <-b.ctx.Done():
		return b.ctx.Err()
	case <-time.After(d):
		return nil
	}
}
