// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/mini-k8s/mini/kubelet/container"
	"github.com/mini-k8s/mini/kubelet/eviction"
	"github.com/mini-k8s/mini/kubelet/object"
	"github.com/mini-k8s/mini/kubelet/probe"
	"github.com/mini-k8s/mini/kubelet/volume"
)

// PodCgroups makes and removes the cgroups of pods below the node's root.
type PodCgroups interface {
	// EnsurePod makes the pod's cgroup in the place its QoS class gives it, with its limits, and returns the path that containers go below.
	EnsurePod(pod *corev1.Pod) (parent string, err error)
	// RemovePod removes it once its containers are gone; an absent one is no error.
	RemovePod(uid types.UID) error
}

// Config is what a Kubelet needs. Fields without a comment that says otherwise are required.
type Config struct {
	NodeName string
	// NodeIPs are the node's addresses, the primary one first.
	NodeIPs []net.IP
	// Hostname is the node's host name; NodeName if empty.
	Hostname string
	// DataDir is the node's data directory: pods are kept in DataDir/kubelet/pods, their logs in DataDir/logs/pods.
	DataDir string
	Client  kubernetes.Interface
	// Informers, if set, is a factory that the process shares; Services are read from it. It must be started by its owner.
	Informers informers.SharedInformerFactory
	Runtime   container.Runtime
	Images    container.Images
	// Cgroups may be nil: then containers go below CgroupRoot/kubepods/podUID, and nothing is limited for the pod as a whole.
	Cgroups    PodCgroups
	CgroupRoot string

	ClusterDNS    []net.IP
	ClusterDomain string
	// ResolvConf is the node's resolv.conf, for dnsPolicy Default; /etc/resolv.conf if empty.
	ResolvConf string

	Labels map[string]string
	Taints []corev1.Taint
	// Reserved is kept back from the pods; nil reserves nothing.
	Reserved corev1.ResourceList
	// MaxPods is 110 if zero.
	MaxPods int
	// Version is nodeInfo.kubeletVersion, such as "v1.36.0+mini.0.1.0".
	Version string
	// ContainerRuntimeVersion is nodeInfo.containerRuntimeVersion, such as "containerd://2.4.2".
	ContainerRuntimeVersion string

	// RuntimeReady and NetworkReady are closed when the runtime and the pod network can take pods; nil means they can.
	RuntimeReady, NetworkReady <-chan struct{}

	// Listener serves the kubelet's HTTPS API; if nil, ListenAddress is listened on; if that is empty too, nothing is served.
	Listener      net.Listener
	ListenAddress string
	TLS           *tls.Config
	// Middleware authenticates and authorizes every request but /healthz; nil lets everybody in (tests).
	Middleware func(http.Handler) http.Handler

	// ManifestPath is a folder of pods that this node runs whatever the API says, and shows there as mirror pods; "" is none.
	ManifestPath string
	// DefaultPod fills a static pod's defaults as the API server would; nil leaves them open.
	DefaultPod func(*corev1.Pod)
	// AllowedUnsafeSysctls may be set by pods besides the safe ones: names, or beginnings of names followed by *.
	AllowedUnsafeSysctls []string
	// RuntimeHandlers are the handlers that a RuntimeClass may name; nil is runc.
	RuntimeHandlers []string

	// ShutdownGracePeriod is the time in which Shutdown ends the pods, ShutdownGracePeriodCriticalPods the end of it that is kept for
	// critical ones: 30 s and 10 s if both are zero.
	ShutdownGracePeriod, ShutdownGracePeriodCriticalPods time.Duration

	// LogMaxSize and LogMaxFiles rule the rotation of container logs: 10 MiB and 5 if zero.
	LogMaxSize  int64
	LogMaxFiles int

	Logger *slog.Logger

	// Reading, in tests, replaces what is read of the machine's memory and disk.
	Reading func() eviction.Reading
	// Events, in tests, replaces the recorder that writes Events to the API.
	Events record.EventRecorder
}

// Kubelet runs the pods of a node. Make it with New, run it once with Run.
type Kubelet struct {
	cfg Config
	log *slog.Logger

	ctx      context.Context // of Run
	ops      sync.WaitGroup  // every goroutine of a pod
	recorder record.EventRecorder
	objects  *object.Store
	volumes  *volume.Manager
	probes   *probe.Scheduler
	images   *puller
	services corelisters.ServiceLister
	synced   []cache.DoneChecker // besides pods
	node     *nodeStatus
	guard    *guard
	metrics  *metrics
	runtime  container.Runtime // cfg.Runtime, measured
	relists  chan struct{}
	rates    rates
	disks    diskFigures
	// startedAt is when Run began.
	startedAt time.Time
	// shutdown says that the node ends its pods.
	shutdown atomic.Bool
	rro      bool // mounts can be read-only recursively

	mu    sync.Mutex
	pods  map[types.UID]*podState
	began bool // what ran before is known, and so are the API's pods: plans may be made
	// staticBegan is the same for static pods, which do not wait for the API for ever.
	staticBegan bool
	// static holds the static pods by namespace/name, in the order in which they came: only the first runs.
	static map[string][]types.UID
	// again holds static pods whose file came back while they were ending.
	again map[types.UID]*corev1.Pod
}

// New checks cfg and returns a Kubelet. It does no I/O.
func New(cfg Config) (*Kubelet, error) {
	switch {
	case cfg.NodeName == "":
		return nil, errors.New("kubelet: NodeName is empty")
	case len(cfg.NodeIPs) == 0:
		return nil, errors.New("kubelet: NodeIPs is empty")
	case !filepath.IsAbs(cfg.DataDir):
		return nil, fmt.Errorf("kubelet: DataDir %q is not an absolute path", cfg.DataDir)
	case cfg.ShutdownGracePeriodCriticalPods > cfg.ShutdownGracePeriod:
		return nil, fmt.Errorf("kubelet: ShutdownGracePeriodCriticalPods %s is longer than ShutdownGracePeriod %s", cfg.ShutdownGracePeriodCriticalPods, cfg.ShutdownGracePeriod)
	case cfg.Client == nil, cfg.Runtime == nil, cfg.Images == nil:
		return nil, errors.New("kubelet: Client, Runtime and Images are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxPods == 0 {
		cfg.MaxPods = 110
	}
	if cfg.Hostname == "" {
		cfg.Hostname = cfg.NodeName
	}
	if cfg.ClusterDomain == "" {
		cfg.ClusterDomain = "cluster.local"
	}
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	if cfg.RuntimeHandlers == nil {
		cfg.RuntimeHandlers = []string{defaultHandler}
	}
	if cfg.ShutdownGracePeriod == 0 && cfg.ShutdownGracePeriodCriticalPods == 0 {
		cfg.ShutdownGracePeriod, cfg.ShutdownGracePeriodCriticalPods = 30*time.Second, 10*time.Second
	}
	if cfg.LogMaxSize == 0 {
		cfg.LogMaxSize = 10 << 20
	}
	if cfg.LogMaxFiles == 0 {
		cfg.LogMaxFiles = 5
	}
	k := &Kubelet{cfg: cfg, log: cfg.Logger, pods: map[types.UID]*podState{}, static: map[string][]types.UID{}, again: map[types.UID]*corev1.Pod{},
		relists: make(chan struct{}, 1)}
	k.metrics = newMetrics(k)
	k.metrics.registry.MustRegister(claimFigures{k})
	k.runtime = timedRuntime{cfg.Runtime, k.metrics}
	return k, nil
}

func (k *Kubelet) podsDir() string { return filepath.Join(k.cfg.DataDir, "kubelet", "pods") }
func (k *Kubelet) logsDir() string { return filepath.Join(k.cfg.DataDir, "logs", "pods") }

// Run registers the node and runs its pods until ctx ends. The containers go on running after it returned.
func (k *Kubelet) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, d := range []string{k.podsDir(), k.logsDir()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("kubelet: %w", err)
		}
	}
	k.ctx, k.startedAt, k.rro = ctx, time.Now(), kernelHasMountSetattr()
	stopEvents := k.startEvents(ctx)
	defer stopEvents()
	k.objects = object.New(ctx, object.Config{Client: k.cfg.Client, OnChange: k.objectChanged, Logger: k.log})
	k.volumes = volume.NewManager(volume.Config{Dir: k.podsDir(), Objects: k.objects, Tokens: volume.NewTokens(k.cfg.Client), Logger: k.log, RecursiveReadOnly: k.rro,
		Claims: volume.Claims{Client: k.cfg.Client, Node: func() map[string]string { return k.node.labels() }}})
	k.probes = probe.NewScheduler(ctx, probe.Config{
		Runner:    &probe.Prober{Exec: execer{k}, UserAgent: "kube-probe/" + minorVersion(k.cfg.Version)},
		OnVerdict: k.onVerdict, OnFailure: k.onProbeFailure,
	})
	k.images = newPuller(k)
	k.guard = newGuard(k)
	k.node = newNodeStatus(k)
	g, ctx := errgroup.WithContext(ctx)
	if err := k.serve(ctx, g); err != nil {
		return err
	}
	g.Go(func() error { return k.node.run(ctx) })
	g.Go(func() error { return k.runPods(ctx) })
	g.Go(func() error { return k.guard.run(ctx) })
	g.Go(func() error { return k.rotateLogs(ctx) })
	err := g.Wait()
	cancel()
	k.stopTimers()
	k.ops.Wait()
	return err
}

// startEvents makes the recorder; the returned function ends it.
func (k *Kubelet) startEvents(ctx context.Context) func() {
	if k.cfg.Events != nil {
		k.recorder = k.cfg.Events
		return func() {}
	}
	b := record.NewBroadcaster(record.WithContext(ctx))
	b.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: k.cfg.Client.CoreV1().Events("")})
	k.recorder = b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet", Host: k.cfg.NodeName})
	return b.Shutdown
}

// runPods waits for the runtime, takes over what runs, and follows the API and the runtime.
func (k *Kubelet) runPods(ctx context.Context) error {
	if !waitFor(ctx, k.cfg.RuntimeReady) {
		return nil
	}
	events := k.runtime.Events(ctx)
	if err := k.recover(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if k.cfg.ManifestPath != "" {
		k.readManifests() // before the API tells of mirror pods, so that those without a file are known
	}
	pods, err := k.startInformers(ctx)
	if err != nil {
		return err
	}
	go func() { // started pods need the API's whole list: what is not on it is an orphan
		if cache.WaitFor(ctx, "", append(k.synced, pods)...) && waitFor(ctx, k.cfg.NetworkReady) {
			k.begin()
		}
	}()
	if k.cfg.ManifestPath != "" {
		k.ops.Go(func() { k.followManifests(ctx) })
		k.ops.Go(func() {
			if sleep(ctx, staticPatience) {
				k.beginStatic()
			}
		})
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-k.relists:
			k.relist(ctx)
		case ev, ok := <-events:
			if !ok {
				if ctx.Err() != nil {
					return nil
				}
				return errors.New("kubelet: the container runtime ended its events")
			}
			k.onEvent(ev)
		}
	}
}

func waitFor(ctx context.Context, ch <-chan struct{}) bool {
	if ch == nil {
		return true
	}
	select {
	case <-ch:
		return true
	case <-ctx.Done():
		return false
	}
}

// beginStatic lets static pods start, with the API's answer or without.
func (k *Kubelet) beginStatic() {
	k.mu.Lock()
	k.staticBegan = true
	k.mu.Unlock()
	for _, p := range k.staticStates() {
		k.update(p, nil)
	}
}

// begin lets plans be made, and gives up what the API does not know.
func (k *Kubelet) begin() {
	k.mu.Lock()
	k.began = true
	all := k.podListLocked()
	k.mu.Unlock()
	for _, p := range all { // what runs already counts before anything new is admitted
		p.mu.Lock()
		if p.admitted && p.pod != nil {
			p.publish()
		}
		p.mu.Unlock()
	}
	for _, p := range byCreation(all) {
		k.update(p, func() {
			if p.pod == nil {
				k.log.Info("stopping a pod that the API does not know", "namespace", p.ref.Namespace, "pod", p.ref.Name, "uid", p.uid)
				p.gone = true
			}
		})
	}
	k.removeOrphanDirs()
}

func (k *Kubelet) podListLocked() []*podState {
	all := make([]*podState, 0, len(k.pods))
	for _, p := range k.pods {
		all = append(all, p)
	}
	return all
}

func (k *Kubelet) stopTimers() {
	k.mu.Lock()
	all := k.podListLocked()
	k.mu.Unlock()
	for _, p := range all {
		p.mu.Lock()
		if p.timer != nil {
			p.timer.Stop()
		}
		p.mu.Unlock()
	}
}

// pod returns the state of a pod, or nil.
func (k *Kubelet) podState(uid types.UID) *podState {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pods[uid]
}

// sleep waits for d or the end of ctx, and says which.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
