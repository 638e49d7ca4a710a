// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/mini-k8s/mini/kubelet/cgroup"
)

// serveCadvisor answers GET /metrics/cadvisor, under the names that cAdvisor gave them and that dashboards ask for. A pod as a whole has
// container="". What is not read from cgroups here is not claimed.
func (k *Kubelet) serveCadvisor(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	type row struct {
		labels string
		stats  cgroup.Stats
		start  time.Time
	}
	var rows []row
	reader, _ := k.cfg.Cgroups.(cgroupReader)
	for _, u := range k.readUsage() {
		path, _ := reader.Path(types.UID(u.ref.UID))
		add := func(container, id, name string, st cgroup.Stats, start time.Time) {
			rows = append(rows, row{fmt.Sprintf("{container=%q,id=%q,image=%q,name=%q,namespace=%q,pod=%q}", container, id,
				k.imageOf(types.UID(u.ref.UID), name), name, u.ref.Namespace, u.ref.Name), st, start})
		}
		if u.total != nil {
			add("", path, "", *u.total, u.start)
		}
		for _, c := range u.containers {
			add(c.name, filepath.Join(path, c.id), c.id, c.stats, c.start)
		}
	}
	now := time.Now()
	m := metricWriter{w: w, plain: true}
	m.family("machine_cpu_cores", "gauge", "Number of logical CPU cores.")
	capacity := k.node.machine.capacity
	m.sample("", float64(capacity.Cpu().Value()))
	m.family("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.")
	m.sample("", float64(capacity.Memory().Value()))
	m.millis = now.UnixMilli()
	for _, f := range []struct {
		name, kind, help string
		value            func(row) float64
	}{
		{"container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", func(r row) float64 { return float64(r.stats.CPUNanos) / 1e9 }},
		{"container_memory_rss", "gauge", "Size of RSS in bytes.", func(r row) float64 { return float64(r.stats.RSSBytes) }},
		{"container_memory_usage_bytes", "gauge", "Current memory usage in bytes, including all memory regardless of when it was accessed", func(r row) float64 { return float64(r.stats.MemoryBytes) }},
		{"container_memory_working_set_bytes", "gauge", "Current working set in bytes.", func(r row) float64 { return float64(r.stats.WorkingSet) }},
		{"container_processes", "gauge", "Number of processes running inside the container.", func(r row) float64 { return float64(r.stats.Processes) }},
		{"container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", func(r row) float64 { return float64(r.stats.MemoryLimited) }},
		{"container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds.", func(r row) float64 { return float64(r.start.UnixMilli()) / 1e3 }},
	} {
		m.family(f.name, f.kind, f.help)
		for _, r := range rows {
			m.sample(r.labels, f.value(r))
		}
	}
}

// imageOf is the image that a container was made from; "" for a pod.
func (k *Kubelet) imageOf(uid types.UID, id string) string {
	p := k.podState(uid)
	if p == nil || id == "" {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := findContainer(p.containers, id); c != nil {
		return c.Image
	}
	return ""
}
