// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"

	"github.com/mini-k8s/mini/kubelet/container"
	"github.com/mini-k8s/mini/kubelet/steps"
)

// metrics are the kubelet's series at /metrics, under upstream's names and labels (pkg/kubelet/metrics). They cost something
// when a pod starts or ends and when somebody reads them, and nothing between.
type metrics struct {
	registry   *prometheus.Registry
	podStart   prometheus.Histogram
	podSLI     prometheus.Histogram
	sandbox    *prometheus.HistogramVec
	operations *prometheus.HistogramVec
	total      *prometheus.CounterVec
	errors     *prometheus.CounterVec
}

// Upstream's buckets, in seconds.
var (
	operationBuckets = prometheus.ExponentialBuckets(0.005, 2.5, 14)
	podStartBuckets  = []float64{0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}
	// quickBuckets go before them: upstream's first bucket holds every pod that starts as it should here.
	quickBuckets = []float64{0.05, 0.1, 0.15, 0.2, 0.3}
)

func newMetrics(k *Kubelet) *metrics {
	starts := append(append([]float64{}, quickBuckets...), podStartBuckets...)
	m := &metrics{
		registry: prometheus.NewRegistry(),
		podStart: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kubelet_pod_start_duration_seconds", Buckets: starts,
			Help: "From the kubelet seeing a pod for the first time to the API having it as running.",
		}),
		podSLI: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kubelet_pod_start_sli_duration_seconds", Buckets: starts,
			Help: "From the pod's creation, which the API keeps in whole seconds, to the API having it as running, without pulls of images. Pods with init containers or claims are left out.",
		}),
		sandbox: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubelet_run_podsandbox_duration_seconds", Buckets: operationBuckets,
			Help: "Duration of making a pod's sandbox, its network included.",
		}, []string{"runtime_handler"}),
		operations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubelet_runtime_operations_duration_seconds", Buckets: operationBuckets, Help: "Duration of the container runtime's operations.",
		}, []string{"operation_type"}),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_runtime_operations_total", Help: "The container runtime's operations.",
		}, []string{"operation_type"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_runtime_operations_errors_total", Help: "The container runtime's operations that failed.",
		}, []string{"operation_type"}),
	}
	m.registry.MustRegister(m.podStart, m.podSLI, m.sandbox, m.operations, m.total, m.errors, running{k},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// operation counts an operation of the runtime that began at begin and has ended with err.
func (m *metrics) operation(name string, begin time.Time, err error) {
	m.total.WithLabelValues(name).Inc()
	m.operations.WithLabelValues(name).Observe(time.Since(begin).Seconds())
	if err != nil {
		m.errors.WithLabelValues(name).Inc()
	}
}

// timedRuntime measures what a runtime does. Operations have the names they have in CRI, as upstream's series have them.
type timedRuntime struct {
	container.Runtime
	metrics *metrics
}

func (t timedRuntime) RunSandbox(ctx context.Context, cfg container.SandboxConfig) (container.Sandbox, error) {
	begin := time.Now()
	sb, err := t.Runtime.RunSandbox(ctx, cfg)
	t.metrics.operation("run_podsandbox", begin, err)
	handler := "" // upstream's for a pod without a RuntimeClass
	if c := cfg.Pod.Spec.RuntimeClassName; c != nil && *c != "" {
		handler = defaultHandler
	}
	t.metrics.sandbox.WithLabelValues(handler).Observe(time.Since(begin).Seconds())
	return sb, err
}

func (t timedRuntime) StopSandbox(ctx context.Context, id string) error {
	begin := time.Now()
	err := t.Runtime.StopSandbox(ctx, id)
	t.metrics.operation("stop_podsandbox", begin, err)
	return err
}

func (t timedRuntime) RemoveSandbox(ctx context.Context, id string) error {
	begin := time.Now()
	err := t.Runtime.RemoveSandbox(ctx, id)
	t.metrics.operation("remove_podsandbox", begin, err)
	return err
}

func (t timedRuntime) CreateContainer(ctx context.Context, cfg container.ContainerConfig) (container.Container, error) {
	begin := time.Now()
	made, err := t.Runtime.CreateContainer(ctx, cfg)
	t.metrics.operation("create_container", begin, err)
	return made, err
}

func (t timedRuntime) StartContainer(ctx context.Context, id string) error {
	begin := time.Now()
	err := t.Runtime.StartContainer(ctx, id)
	t.metrics.operation("start_container", begin, err)
	return err
}

func (t timedRuntime) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	begin := time.Now()
	err := t.Runtime.StopContainer(ctx, id, grace)
	t.metrics.operation("stop_container", begin, err)
	return err
}

func (t timedRuntime) RemoveContainer(ctx context.Context, id string) error {
	begin := time.Now()
	err := t.Runtime.RemoveContainer(ctx, id)
	t.metrics.operation("remove_container", begin, err)
	return err
}

func (t timedRuntime) Exec(ctx context.Context, id string, command []string, s container.Streams) (int, error) {
	begin := time.Now()
	code, err := t.Runtime.Exec(ctx, id, command, s)
	t.metrics.operation("exec_sync", begin, err)
	return code, err
}

// started tells of a pod that the API has as running or ended now, and lets its record go. p.mu is held; shown is what the API has.
func (k *Kubelet) started(p *podState, shown *corev1.PodStatus) {
	if p.steps == nil || shown.Phase == corev1.PodPending || shown.Phase == "" {
		return
	}
	record := p.steps
	p.steps = nil
	if shown.Phase == corev1.PodFailed || p.pod == nil {
		return
	}
	took := time.Since(record.Began())
	k.metrics.podStart.Observe(took.Seconds())
	if sli, ok := startSLI(p.pod, record, time.Now()); ok {
		k.metrics.podSLI.Observe(sli.Seconds())
	}
	if k.log.Enabled(k.ctx, slog.LevelDebug) {
		k.log.Debug("a pod runs; steps are in milliseconds since it was seen, and what each took", "namespace", p.ref.Namespace, "pod", p.ref.Name,
			"seen", record.Began(), "took", took, "steps", record.String())
	}
}

// startSLI is upstream's measure of a pod's start, see KEP 3386: what depends on the size of images or on the pod's own
// programs is left out.
func startSLI(pod *corev1.Pod, record *steps.Record, now time.Time) (time.Duration, bool) {
	if len(pod.Spec.InitContainers) > 0 {
		return 0, false
	}
	for _, v := range pod.Spec.Volumes {
		if v.PersistentVolumeClaim != nil || v.Ephemeral != nil {
			return 0, false
		}
	}
	took := now.Sub(pod.CreationTimestamp.Time)
	for _, s := range record.Steps() {
		if s.Name == stepPull {
			took -= s.Took
		}
	}
	return max(took, 0), true
}

// The steps that more than one place names.
const stepPull = "pull image"

// running counts pods and containers when it is asked.
type running struct{ k *Kubelet }

var (
	runningPods       = prometheus.NewDesc("kubelet_running_pods", "Pods that have a running sandbox.", nil, nil)
	runningContainers = prometheus.NewDesc("kubelet_running_containers", "Containers by state.", []string{"container_state"}, nil)
	nodeName          = prometheus.NewDesc("kubelet_node_name", "The node's name; always 1.", []string{"node"}, nil)
)

// Describe implements prometheus.Collector.
func (running) Describe(ch chan<- *prometheus.Desc) {
	ch <- runningPods
	ch <- runningContainers
	ch <- nodeName
}

// Collect implements prometheus.Collector.
func (r running) Collect(ch chan<- prometheus.Metric) {
	r.k.mu.Lock()
	all := r.k.podListLocked()
	r.k.mu.Unlock()
	pods := 0
	states := map[string]int{"created": 0, "running": 0, "exited": 0, "unknown": 0}
	for _, p := range all {
		p.mu.Lock()
		for _, s := range p.sandboxes {
			if s.State == container.Running {
				pods++
				break
			}
		}
		for _, c := range p.containers {
			switch c.State {
			case container.Created:
				states["created"]++
			case container.Running:
				states["running"]++
			case container.Exited:
				states["exited"]++
			default:
				states["unknown"]++
			}
		}
		p.mu.Unlock()
	}
	ch <- prometheus.MustNewConstMetric(nodeName, prometheus.GaugeValue, 1, r.k.cfg.NodeName)
	ch <- prometheus.MustNewConstMetric(runningPods, prometheus.GaugeValue, float64(pods))
	for state, n := range states {
		ch <- prometheus.MustNewConstMetric(runningContainers, prometheus.GaugeValue, float64(n), state)
	}
}
