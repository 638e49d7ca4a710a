// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mini-k8s/mini/kubelet/cgroup"
	"github.com/mini-k8s/mini/kubelet/container"
)

// cgroupReader is what Cgroups may offer besides: what pods and containers use.
type cgroupReader interface {
	Path(uid types.UID) (string, bool)
	Stats(path string) (cgroup.Stats, error)
}

// The JSON of /stats/summary, as upstream's stats/v1alpha1 has it; only what is really read is in it.
type (
	summary struct {
		Node nodeStats  `json:"node"`
		Pods []podStats `json:"pods"`
	}
	nodeStats struct {
		NodeName  string        `json:"nodeName"`
		StartTime metav1.Time   `json:"startTime"`
		CPU       *cpuStats     `json:"cpu,omitempty"`
		Memory    *memoryStats  `json:"memory,omitempty"`
		FS        *fsStats      `json:"fs,omitempty"`
		Runtime   *runtimeStats `json:"runtime,omitempty"`
	}
	runtimeStats struct {
		ImageFs     *fsStats `json:"imageFs,omitempty"`
		ContainerFs *fsStats `json:"containerFs,omitempty"`
	}
	podStats struct {
		PodRef     podReference     `json:"podRef"`
		StartTime  metav1.Time      `json:"startTime"`
		Containers []containerStats `json:"containers"`
		CPU        *cpuStats        `json:"cpu,omitempty"`
		Memory     *memoryStats     `json:"memory,omitempty"`
		Volumes    []volumeFigures  `json:"volume,omitempty"`
		Ephemeral  *fsStats         `json:"ephemeral-storage,omitempty"`
		Process    *processStats    `json:"process_stats,omitempty"`
	}
	podReference struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
		UID       string `json:"uid"`
	}
	containerStats struct {
		Name      string       `json:"name"`
		StartTime metav1.Time  `json:"startTime"`
		CPU       *cpuStats    `json:"cpu,omitempty"`
		Memory    *memoryStats `json:"memory,omitempty"`
		Rootfs    *fsStats     `json:"rootfs,omitempty"`
		Logs      *fsStats     `json:"logs,omitempty"`
	}
	cpuStats struct {
		Time                 metav1.Time `json:"time"`
		UsageNanoCores       *uint64     `json:"usageNanoCores,omitempty"`
		UsageCoreNanoSeconds *uint64     `json:"usageCoreNanoSeconds,omitempty"`
	}
	memoryStats struct {
		Time            metav1.Time `json:"time"`
		AvailableBytes  *uint64     `json:"availableBytes,omitempty"`
		UsageBytes      *uint64     `json:"usageBytes,omitempty"`
		WorkingSetBytes *uint64     `json:"workingSetBytes,omitempty"`
		RSSBytes        *uint64     `json:"rssBytes,omitempty"`
		PageFaults      *uint64     `json:"pageFaults,omitempty"`
		MajorPageFaults *uint64     `json:"majorPageFaults,omitempty"`
	}
	fsStats struct {
		Time           metav1.Time `json:"time"`
		AvailableBytes *uint64     `json:"availableBytes,omitempty"`
		CapacityBytes  *uint64     `json:"capacityBytes,omitempty"`
		UsedBytes      *uint64     `json:"usedBytes,omitempty"`
		InodesFree     *uint64     `json:"inodesFree,omitempty"`
		Inodes         *uint64     `json:"inodes,omitempty"`
		InodesUsed     *uint64     `json:"inodesUsed,omitempty"`
	}
	processStats struct {
		ProcessCount *uint64 `json:"process_count,omitempty"`
	}
)

// usage is what was read of one pod.
type usage struct {
	ref        container.PodRef
	pod        *corev1.Pod // nil while the API has not told of it
	start      time.Time
	total      *cgroup.Stats
	containers []containerUsage
}

type containerUsage struct {
	name, id string
	start    time.Time
	stats    cgroup.Stats
	logPath  string
}

// rates remembers the last reading of each cgroup, from which the next one is turned into a rate.
type rates struct {
	mu   sync.Mutex
	last map[string]sample
}

type sample struct {
	at    time.Time
	nanos uint64
}

// rate returns nanocores since the last reading of key, or since start if there was none.
func (r *rates) rate(key string, start, now time.Time, nanos uint64) *uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil {
		r.last = map[string]sample{}
	}
	was, ok := r.last[key]
	if !ok || was.nanos > nanos {
		was = sample{at: start}
	}
	r.last[key] = sample{now, nanos}
	d := now.Sub(was.at)
	if d <= 0 || was.at.IsZero() {
		return nil
	}
	v := uint64(float64(nanos-was.nanos) / d.Seconds())
	return &v
}

// keep drops the readings of what is gone.
func (r *rates) keep(keys map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k := range r.last {
		if !keys[k] {
			delete(r.last, k)
		}
	}
}

// readUsage reads the cgroups of all pods that run. A cgroup that vanishes meanwhile is left out.
func (k *Kubelet) readUsage() []usage {
	reader, ok := k.cfg.Cgroups.(cgroupReader)
	if !ok {
		return nil
	}
	k.mu.Lock()
	all := k.podListLocked()
	k.mu.Unlock()
	var out []usage
	for _, p := range byCreation(all) {
		p.mu.Lock()
		u := usage{ref: p.ref, pod: p.pod}
		if p.want != nil && p.want.StartTime != nil {
			u.start = p.want.StartTime.Time
		}
		var running []container.Container
		for _, c := range p.containers {
			if c.State == container.Running {
				running = append(running, c)
			}
		}
		p.mu.Unlock()
		path, ok := reader.Path(types.UID(u.ref.UID))
		if !ok || len(running) == 0 {
			continue
		}
		if st, err := reader.Stats(path); err == nil {
			u.total = &st
		}
		for _, c := range running {
			st, err := reader.Stats(filepath.Join(path, c.ID))
			if err != nil {
				continue
			}
			u.containers = append(u.containers, containerUsage{name: c.Name, id: c.ID, start: c.StartedAt, stats: st, logPath: c.LogPath})
		}
		out = append(out, u)
	}
	return out
}

// serveSummary answers GET /stats/summary.
func (k *Kubelet) serveSummary(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	at := metav1.NewTime(now)
	s := summary{Node: k.nodeSummary(now), Pods: []podStats{}}
	keys := map[string]bool{"node": true}
	cpu := func(key string, start time.Time, st cgroup.Stats) *cpuStats {
		keys[key] = true
		return &cpuStats{Time: at, UsageCoreNanoSeconds: &st.CPUNanos, UsageNanoCores: k.rates.rate(key, start, now, st.CPUNanos)}
	}
	all := k.readUsage()
	k.disks.keep(all)
	for _, u := range all {
		p := podStats{PodRef: podReference{u.ref.Name, u.ref.Namespace, u.ref.UID}, StartTime: metav1.NewTime(u.start), Containers: []containerStats{}}
		if u.total != nil {
			p.CPU, p.Memory = cpu(u.ref.UID, u.start, *u.total), memory(at, *u.total)
			p.Process = &processStats{&u.total.Processes}
		}
		disk := k.diskOf(r.Context(), u)
		p.Volumes = disk.volumes
		node, onNode := fileSystem(existingParent(k.cfg.DataDir), disk.at)
		if onNode {
			p.Ephemeral = disk.ephemeral.share(node)
		}
		for _, c := range u.containers {
			cs := containerStats{Name: c.name, StartTime: metav1.NewTime(c.start), CPU: cpu(c.id, c.start, c.stats), Memory: memory(at, c.stats)}
			if onNode {
				cs.Logs = disk.logs[c.id].share(node)
				if rootfs, ok := disk.rootfs[c.id]; ok {
					cs.Rootfs = rootfs.share(node)
				}
			}
			p.Containers = append(p.Containers, cs)
		}
		s.Pods = append(s.Pods, p)
	}
	k.rates.keep(keys)
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(s); err != nil {
		k.log.Debug("answer not sent", "err", err)
	}
}

func memory(at metav1.Time, st cgroup.Stats) *memoryStats {
	m := &memoryStats{Time: at, UsageBytes: &st.MemoryBytes, WorkingSetBytes: &st.WorkingSet, RSSBytes: &st.RSSBytes, PageFaults: &st.PageFaults, MajorPageFaults: &st.MajorFaults}
	if st.MemoryLimited > st.WorkingSet {
		free := st.MemoryLimited - st.WorkingSet
		m.AvailableBytes = &free
	}
	return m
}

func (k *Kubelet) nodeSummary(now time.Time) nodeStats {
	at := metav1.NewTime(now)
	n := nodeStats{NodeName: k.cfg.NodeName, StartTime: metav1.NewTime(k.startedAt)}
	if nanos, ok := machineCPU(); ok {
		n.CPU = &cpuStats{Time: at, UsageCoreNanoSeconds: &nanos, UsageNanoCores: k.rates.rate("node", time.Time{}, now, nanos)}
	}
	if total, free := memInfo(); total > 0 {
		used, available := uint64(total-free), uint64(free)
		n.Memory = &memoryStats{Time: at, AvailableBytes: &available, UsageBytes: &used, WorkingSetBytes: &used}
	}
	if fs, ok := fileSystem(existingParent(k.cfg.DataDir), at); ok {
		n.FS = &fs
		// Images and containers are on the same; what of it is theirs nobody counts.
		images := fs
		images.UsedBytes, images.InodesUsed = nil, nil
		n.Runtime = &runtimeStats{ImageFs: &images, ContainerFs: &images}
	}
	return n
}

// userHZ is the unit of /proc/stat, the same on every Linux that Go runs on.
const userHZ = 100

// machineCPU is the time all CPUs together were busy since boot.
func machineCPU() (nanos uint64, ok bool) {
	f := strings.Fields(firstLine("/proc/stat"))
	if len(f) < 9 || f[0] != "cpu" {
		return 0, false
	}
	for i, v := range f[1:9] { // user nice system idle iowait irq softirq steal
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return 0, false
		}
		if i != 3 && i != 4 {
			nanos += n * uint64(time.Second) / userHZ
		}
	}
	return nanos, true
}

// serveResourceMetrics answers GET /metrics/resource, which metrics-server reads. Names and labels are upstream's.
func (k *Kubelet) serveResourceMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	now := time.Now()
	all := k.readUsage()
	m := metricWriter{w: w, millis: now.UnixMilli()}
	node := k.nodeSummary(now)
	m.family("node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds")
	if node.CPU != nil {
		m.sample("", float64(*node.CPU.UsageCoreNanoSeconds)/1e9)
	}
	m.family("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes")
	if node.Memory != nil {
		m.sample("", float64(*node.Memory.WorkingSetBytes))
	}
	perContainer := func(f func(c containerUsage) float64) {
		for _, u := range all {
			for _, c := range u.containers {
				m.sample(fmt.Sprintf("{container=%q,namespace=%q,pod=%q}", c.name, u.ref.Namespace, u.ref.Name), f(c))
			}
		}
	}
	perPod := func(f func(s cgroup.Stats) float64) {
		for _, u := range all {
			if u.total != nil {
				m.sample(fmt.Sprintf("{namespace=%q,pod=%q}", u.ref.Namespace, u.ref.Name), f(*u.total))
			}
		}
	}
	m.family("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the container in core-seconds")
	perContainer(func(c containerUsage) float64 { return float64(c.stats.CPUNanos) / 1e9 })
	m.family("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes")
	perContainer(func(c containerUsage) float64 { return float64(c.stats.WorkingSet) })
	m.family("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds")
	perContainer(func(c containerUsage) float64 { return float64(c.start.UnixMilli()) / 1e3 })
	m.family("pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod in core-seconds")
	perPod(func(s cgroup.Stats) float64 { return float64(s.CPUNanos) / 1e9 })
	m.family("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes")
	perPod(func(s cgroup.Stats) float64 { return float64(s.WorkingSet) })
	m.millis = 0
	m.family("resource_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise")
	m.sample("", 0)
}

// metricWriter writes the text format of Prometheus.
type metricWriter struct {
	w      io.Writer
	name   string
	millis int64 // the time of the samples; 0 leaves it out
	plain  bool  // without a level of stability in the help
}

func (m *metricWriter) family(name, kind, help string) {
	m.name = name
	if !m.plain {
		help = "[STABLE] " + help
	}
	fmt.Fprintf(m.w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (m *metricWriter) sample(labels string, v float64) {
	stamp := ""
	if m.millis != 0 {
		stamp = " " + strconv.FormatInt(m.millis, 10)
	}
	fmt.Fprintf(m.w, "%s%s %s%s\n", m.name, labels, strconv.FormatFloat(v, 'g', -1, 64), stamp)
}

var (
	_ PodCgroups   = (*cgroup.Manager)(nil)
	_ cgroupReader = (*cgroup.Manager)(nil)
)
