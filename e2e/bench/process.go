package main

import (
	"bufio"
	"bytes"
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
func (b *bench) cpu() time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.cluster.Nodes[0].PID))
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

// memory reads a process's resident and private memory in bytes.
func memory(pid int) (rss, private int64) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, 0
	}
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 2 {
			continue
		}
		kb, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "Rss:":
			rss = kb << 10
		case "Private_Clean:", "Private_Dirty:":
			private += kb << 10
		}
	}
	return rss, private
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
	rss, private := memory(pid)
	fmt.Fprintf(b.out, "idle memory, server and agent in one process\t%.0f MB RSS\t(%.0f MB private), %d threads\n",
		float64(rss)/1e6, float64(private)/1e6, threads(pid))
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
