// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// residentKB is what a process holds, in KiB.
func residentKB(t testing.TB, status string) (kb int) {
	t.Helper()
	data, err := os.ReadFile(status)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			if _, err := fmt.Sscan(rest, &kb); err != nil {
				t.Fatal(err)
			}
		}
	}
	return kb
}

// TestMemoryOfAPod holds the helpers to their size: they are there once for every pod and container.
func TestMemoryOfAPod(t *testing.T) {
	n := newNode(t)
	n.importImage(testImage, nil)
	pod := testPod("memory")
	s := n.run(pod)
	const containers = 3
	for i := range containers {
		n.launch(n.script(s, pod, fmt.Sprint("c", i), "while true; do echo line; sleep 0.01; done"))
	}
	time.Sleep(200 * time.Millisecond) // until the writers have written
	found := map[string]int{}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		cmd, _ := os.ReadFile(p)
		name := filepath.Base(string(bytes.SplitN(cmd, []byte{0}, 2)[0]))
		status := filepath.Join(filepath.Dir(p), "status")
		group, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "cgroup"))
		limit := 0
		switch {
		case name == "containerd-shim-runc-v2" && bytes.Contains(cmd, []byte(s.ID)):
			limit = 20 << 10
		case name == "logger" && bytes.Contains(cmd, []byte(n.dir)):
			limit = 200
		case name == "pause" && bytes.Contains(group, []byte(s.ID)):
			limit = 100
		default:
			continue
		}
		found[name]++
		kb := residentKB(t, status)
		t.Logf("%s: %d KiB", name, kb)
		if kb == 0 || kb > limit {
			t.Errorf("%s holds %d KiB, at most %d are good", name, kb, limit)
		}
	}
	if found["containerd-shim-runc-v2"] != 1 || found["logger"] != containers || found["pause"] != 1 {
		t.Errorf("processes %v", found)
	}
}

// BenchmarkPod is the way of one pod with one container: run, then taken away.
func BenchmarkPod(b *testing.B) {
	n := newNode(b)
	n.importImage(testImage, nil)
	runtime.GC()
	var run, stop time.Duration
	for i := 0; b.Loop(); i++ {
		pod := testPod(fmt.Sprint("bench-", i))
		start := time.Now()
		s := n.run(pod)
		n.launch(n.script(s, pod, "main", "sleep 60"))
		run += time.Since(start)
		start = time.Now()
		if err := n.RemoveSandbox(b.Context(), s.ID); err != nil {
			b.Fatal(err)
		}
		stop += time.Since(start)
	}
	b.ReportMetric(float64(run.Milliseconds())/float64(b.N), "ms-run")
	b.ReportMetric(float64(stop.Milliseconds())/float64(b.N), "ms-remove")
}

// BenchmarkExec is the way of an exec probe.
func BenchmarkExec(b *testing.B) {
	n := newNode(b)
	n.importImage(testImage, nil)
	pod := testPod("bench")
	s := n.run(pod)
	id := n.launch(n.script(s, pod, "main", "sleep 600"))
	for b.Loop() {
		if code, err := n.Exec(b.Context(), id, []string{"true"}, Streams{}); err != nil || code != 0 {
			b.Fatal(code, err)
		}
	}
}
