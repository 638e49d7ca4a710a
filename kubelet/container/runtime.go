// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/status"

	"github.com/mini-k8s/mini/cni"
	"github.com/mini-k8s/mini/internal/helpers"
)

// cleanupTime bounds what undoes a failed step, which must work when the caller's context has ended.
const cleanupTime = 30 * time.Second

// The errors that callers tell apart.
var (
	// ErrNotFound means that there is no such sandbox or container.
	ErrNotFound = errors.New("not found")
	// ErrNotRunning means that the sandbox or container has ended or did not start yet.
	ErrNotRunning = errors.New("not running")
	// ErrImageNotFound means that the image is not on this node.
	ErrImageNotFound = errors.New("image not found")
)

// Config is what a Containerd is made from.
type Config struct {
	// DataDir is the node's data dir. Everything lies in its folders agent/containerd and agent/helpers.
	DataDir string
	// HelperDir is where shim, runc and pause are unpacked; "" is DataDir/agent/helpers.
	HelperDir string
	// Socket is that of a containerd which runs already; "" runs one in this process.
	Socket string
	// CgroupRoot is the cgroup below which sandboxes go that come without a parent.
	CgroupRoot string
	// Network connects sandboxes.
	Network cni.Network
	// RegistryDirs hold a folder with a hosts.toml for each registry that has mirrors or a CA of its own; nil is
	// DataDir/agent/registries and /etc/containerd/certs.d.
	RegistryDirs []string
	// SeccompDir is what the localhostProfile of a pod is relative to; "" is DataDir/kubelet/seccomp.
	SeccompDir string
	Logger     *slog.Logger
}

// Containerd runs sandboxes and containers on containerd. It is a Runtime and an Images.
type Containerd struct {
	cfg   Config
	dir   string // DataDir/agent/containerd
	log   *slog.Logger
	ready chan struct{}
	// connected closes before ready, when containerd answers: what concerns images need not wait for the adoption.
	connected chan struct{}

	// Set before connected closes, read-only after.
	engine         *engine // nil with Config.Socket
	client         *containerd.Client
	tasks          tasks.TasksClient
	snapshotter    string
	sockets        string // short folder for the log writers' sockets
	shim           string
	pauseRoot      string
	logger         string
	runtimeOptions typeurl.Any
	host           cgroupHost
	memory         int64 // of the machine, bytes
	minOOMScore    int   // the lowest that a container may get
	allCaps        []string
	oomOnce        sync.Once

	hub      hub
	infos    imageInfos
	cleanups cleanups

	mu         sync.Mutex
	sandboxes  map[string]*sandbox
	containers map[string]*container
	exiting    sync.WaitGroup // goroutines that deal with an exit or clean up
}

var (
	_ Runtime = (*Containerd)(nil)
	_ Images  = (*Containerd)(nil)
)

// New checks cfg. Nothing happens before Run.
func New(cfg Config) (*Containerd, error) {
	switch {
	case !filepath.IsAbs(cfg.DataDir):
		return nil, fmt.Errorf("data dir %q is not an absolute path", cfg.DataDir)
	case cfg.Network == nil:
		return nil, errors.New("no network given")
	case cfg.Logger == nil:
		return nil, errors.New("no logger given")
	}
	if cfg.HelperDir == "" {
		cfg.HelperDir = filepath.Join(cfg.DataDir, "agent", "helpers")
	}
	if cfg.RegistryDirs == nil {
		cfg.RegistryDirs = []string{filepath.Join(cfg.DataDir, "agent", "registries"), "/etc/containerd/certs.d"}
	}
	if cfg.SeccompDir == "" {
		cfg.SeccompDir = filepath.Join(cfg.DataDir, "kubelet", "seccomp")
	}
	return &Containerd{
		cfg:        cfg,
		dir:        filepath.Join(cfg.DataDir, "agent", "containerd"),
		log:        cfg.Logger.With("component", "containerd"),
		ready:      make(chan struct{}),
		connected:  make(chan struct{}),
		sandboxes:  make(map[string]*sandbox),
		containers: make(map[string]*container),
		cleanups:   cleanups{wake: make(chan struct{}, 1)},
	}, nil
}

// Ready closes when everything that ran before has been taken over and calls are answered. Calls before wait for it.
func (r *Containerd) Ready() <-chan struct{} { return r.ready }

// Run brings containerd up, takes over what runs, and follows its events until ctx ends. Containers run on.
func (r *Containerd) Run(ctx context.Context) (err error) {
	if err := r.prepare(); err != nil {
		return fmt.Errorf("container runtime: %w", err)
	}
	// containerd's background work must not stop before its callers have.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	if err := r.connect(background); err != nil {
		return fmt.Errorf("container runtime: %w", err)
	}
	close(r.connected)
	r.exiting.Go(func() {
		r.cleanups.run(engineContext(ctx, r.log), func(what string, err error) {
			if ctx.Err() == nil {
				r.log.Warn("could not clean up after a failure, will try again", "what", what, "err", err)
			}
		})
	})
	defer func() {
		r.exiting.Wait()
		stop()
		if r.engine != nil {
			r.mu.Lock()
			empty := len(r.sandboxes)+len(r.containers) == 0
			r.mu.Unlock()
			err = errors.Join(err, r.engine.Close(empty))
		} else {
			err = errors.Join(err, r.client.Close())
		}
	}()
	return r.follow(ctx)
}

// prepare unpacks the helpers and learns what this machine can do.
func (r *Containerd) prepare() error {
	var err error
	if r.sockets, err = socketDir(filepath.Join(r.dir, "s")); err != nil {
		return err
	}
	paths := make(map[string]string)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, name := range []string{helpers.Shim, helpers.PreShim, helpers.Runc, helpers.Pause, helpers.Logger} {
		wg.Go(func() {
			path, e := helpers.Unpack(r.cfg.HelperDir, name)
			mu.Lock()
			defer mu.Unlock()
			paths[name], err = path, errors.Join(err, e)
		})
	}
	wg.Wait()
	if err != nil {
		return err
	}
	r.shim = filepath.Join(filepath.Dir(paths[helpers.Shim]), "shim-"+filepath.Base(filepath.Dir(paths[helpers.PreShim])))
	if err := os.Link(paths[helpers.PreShim], r.shim); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if r.cfg.Socket != "" {
		r.shim = paths[helpers.Shim] // what goes before it knows only where our own containerd keeps things
	}
	r.logger, r.pauseRoot = paths[helpers.Logger], filepath.Dir(paths[helpers.Pause])
	for _, dir := range []string{"proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(r.pauseRoot, dir), 0o755); err != nil {
			return err
		}
	}
	r.runtimeOptions, err = typeurl.MarshalAny(&runcoptions.Options{
		BinaryName: paths[helpers.Runc],
		Root:       filepath.Join(r.dir, "state", "runc"),
	})
	if err != nil {
		return err
	}
	r.host = detectCgroups()
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return err
	}
	r.memory = int64(info.Totalram) * int64(info.Unit)
	if r.allCaps, err = cap.Current(); err != nil {
		return err
	}
	r.minOOMScore = lowestOOMScore(r.allCaps)
	return nil
}

// lowestOOMScore is what the kernel lets this process set for others: below its own value only with CAP_SYS_RESOURCE.
func lowestOOMScore(caps []string) int {
	for _, c := range caps {
		if c == "CAP_SYS_RESOURCE" {
			return -1000
		}
	}
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0
	}
	own, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0
	}
	return own
}

// clampOOM raises a score that may not be set, and says so once.
func (r *Containerd) clampOOM(score int) int {
	if score >= r.minOOMScore {
		return score
	}
	r.oomOnce.Do(func() {
		r.log.Warn("without CAP_SYS_RESOURCE the kernel's out-of-memory killer cannot be told to spare critical and guaranteed pods",
			"wanted", score, "set", r.minOOMScore)
	})
	return r.minOOMScore
}

func (r *Containerd) connect(ctx context.Context) error {
	if r.cfg.Socket != "" {
		client, err := containerd.New(trimScheme(r.cfg.Socket), containerd.WithDefaultNamespace(namespace))
		if err != nil {
			return fmt.Errorf("connect to containerd at %s: %w", r.cfg.Socket, err)
		}
		r.client, r.tasks, r.snapshotter = client, client.TaskService(), "overlayfs"
		return nil
	}
	e, err := startEngine(ctx, engineConfig{
		root: filepath.Join(r.dir, "root"), state: filepath.Join(r.dir, "state"), socketDir: r.sockets,
		mounts: filepath.Join(r.dir, "mounts"), overlay: overlayOptions(), log: r.log,
	})
	if err != nil {
		return err
	}
	r.engine, r.client, r.tasks, r.snapshotter = e, e.client, e.client.TaskService(), e.snapshotter
	return r.dropLeases(ctx)
}

// dropLeases lets go of what imports and pulls held that an earlier life did not bring to their end: they went with it, also
// those of other processes, which it served.
func (r *Containerd) dropLeases(ctx context.Context) error {
	ctx = engineContext(ctx, r.log)
	leases := r.client.LeasesService()
	stale, err := leases.List(ctx)
	if err != nil {
		return native(err)
	}
	for _, l := range stale {
		if err := native(leases.Delete(ctx, l)); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// imagesChanged makes sure that a change of the images outlasts a power failure.
func (r *Containerd) imagesChanged(ctx context.Context) error {
	if r.engine == nil {
		return nil // the affair of whoever runs containerd
	}
	return r.engine.stores.keep(ctx)
}

// inImages is in for calls that concern images only.
func (r *Containerd) inImages(ctx context.Context) (context.Context, error) {
	select {
	case <-r.connected:
		return engineContext(ctx, r.log), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// OpenImages reaches the images of a node that runs in another process, by its containerd's socket: that of cfg.Socket, or
// else of the mini whose data dir it is. It leaves sandboxes and containers alone; cfg needs no network for it. The function
// closes the connection.
func OpenImages(cfg Config) (Images, func() error, error) {
	if cfg.Network == nil {
		cfg.Network = noNetwork{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r, err := New(cfg)
	if err != nil {
		return nil, nil, err
	}
	if r.cfg.Socket == "" {
		sockets, err := socketDir(filepath.Join(r.dir, "s"))
		if err != nil {
			return nil, nil, err
		}
		r.cfg.Socket = filepath.Join(sockets, "containerd.sock")
	}
	if _, err := os.Stat(trimScheme(r.cfg.Socket)); err != nil {
		return nil, nil, fmt.Errorf("no containerd answers at %s: %w", r.cfg.Socket, ErrNotRunning)
	}
	if err := r.connect(context.Background()); err != nil {
		return nil, nil, err
	}
	close(r.connected)
	return r, r.client.Close, nil
}

// noNetwork is for who has no sandboxes.
type noNetwork struct{}

var errNoNetwork = errors.New("no pod network")

func (noNetwork) Add(context.Context, cni.Pod) (cni.Result, error) { return cni.Result{}, errNoNetwork }
func (noNetwork) Del(context.Context, cni.Pod) error               { return errNoNetwork }
func (noNetwork) Prune(context.Context, []string) error            { return errNoNetwork }

// in waits until calls can be answered and gives the context for them.
func (r *Containerd) in(ctx context.Context) (context.Context, error) {
	select {
	case <-r.ready:
		return engineContext(ctx, r.log), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// undo is the context for cleaning up after ctx.
func undo(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
}

// native turns a gRPC status into an error that errdefs knows. Only some of containerd's services answer by a status when
// called in memory, and any other error would lose its class by the conversion.
func native(err error) error {
	if _, ok := status.FromError(err); !ok || err == nil {
		return err
	}
	return errgrpc.ToNative(err)
}

// signal sends sig to the first process of a container by its pid, which costs no start of runc. The pid is only used if
// it still is of that container; that the process has gone is no error.
func signalPid(id string, pid uint32, sig syscall.Signal) error {
	if pid == 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(int(pid), 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	} else if err != nil {
		return err
	}
	defer unix.Close(fd)
	// With the descriptor held the pid cannot change hands; who it belongs to is in its cgroup.
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || !strings.Contains(string(groups), id) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}
