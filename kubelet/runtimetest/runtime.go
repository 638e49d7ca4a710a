// SPDX-License-Identifier: Apache-2.0

package runtimetest

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/mini-k8s/mini/kubelet/container"
)

// Runtime is a container.Runtime in memory.
type Runtime struct {
	// OnStart, if set, is called when a container starts; it may call Exit (in a goroutine of its own) or return an error.
	OnStart func(cfg container.ContainerConfig, id string) error
	// OnExec, if set, answers Exec.
	OnExec func(id string, command []string, s container.Streams) (int, error)
	// OnAttach, if set, answers Attach.
	OnAttach func(id string, s container.Streams) error
	// OnPortForward, if set, answers PortForward.
	OnPortForward func(sandbox string, port int32, conn io.ReadWriteCloser) error
	// IgnoreTerm, if set, says which containers only die by SIGKILL.
	IgnoreTerm func(name string) bool

	mu         sync.Mutex
	seq        int
	sandboxes  map[string]*container.Sandbox
	containers map[string]*container.Container
	configs    map[string]container.ContainerConfig
	down       map[string]chan struct{}
	watchers   map[chan container.Event]bool
	faults     map[string][]error
	calls      []string
}

var _ container.Runtime = (*Runtime)(nil)

// NewRuntime returns an empty node.
func NewRuntime() *Runtime {
	return &Runtime{sandboxes: map[string]*container.Sandbox{}, containers: map[string]*container.Container{},
		configs: map[string]container.ContainerConfig{}, down: map[string]chan struct{}{},
		watchers: map[chan container.Event]bool{}, faults: map[string][]error{}}
}

// Fail makes the next calls of the method end with these errors, one each; nil lets that call succeed.
func (r *Runtime) Fail(method string, errs ...error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults[method] = append(r.faults[method], errs...)
}

// Calls returns what was called so far, as "Method name".
func (r *Runtime) Calls() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

// Config is what the container was created with.
func (r *Runtime) Config(id string) container.ContainerConfig {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.configs[id]
}

// Find returns the newest container of a pod by name.
func (r *Runtime) Find(pod, name string) (container.Container, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var best *container.Container
	for _, c := range r.containers {
		if c.Pod.Name == pod && c.Name == name && (best == nil || c.Attempt > best.Attempt) {
			best = c
		}
	}
	if best == nil {
		return container.Container{}, false
	}
	return *best, true
}

// begin records a call and returns its injected fault. r.mu is held on return.
func (r *Runtime) begin(method, what string) error {
	r.mu.Lock()
	r.calls = append(r.calls, method+" "+what)
	if q := r.faults[method]; len(q) > 0 {
		r.faults[method] = q[1:]
		return q[0]
	}
	return nil
}

func (r *Runtime) id(prefix string) string {
	r.seq++
	return fmt.Sprintf("%s%04d", prefix, r.seq)
}

// List implements container.Runtime.
func (r *Runtime) List(context.Context) ([]container.Sandbox, []container.Container, error) {
	err := r.begin("List", "")
	defer r.mu.Unlock()
	if err != nil {
		return nil, nil, err
	}
	var sbs []container.Sandbox
	var cs []container.Container
	for _, s := range r.sandboxes {
		sbs = append(sbs, *s)
	}
	for _, c := range r.containers {
		cs = append(cs, *c)
	}
	return sbs, cs, nil
}

// Events implements container.Runtime.
func (r *Runtime) Events(ctx context.Context) <-chan container.Event {
	ch := make(chan container.Event, 1024)
	r.mu.Lock()
	r.watchers[ch] = true
	r.mu.Unlock()
	context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.watchers, ch)
		close(ch)
	})
	return ch
}

func (r *Runtime) sendLocked(e container.Event) {
	for ch := range r.watchers {
		select {
		case ch <- e:
		default:
		}
	}
}

// RunSandbox implements container.Runtime.
func (r *Runtime) RunSandbox(ctx context.Context, cfg container.SandboxConfig) (container.Sandbox, error) {
	err := r.begin("RunSandbox", cfg.Pod.Name)
	defer r.mu.Unlock()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return container.Sandbox{}, err
	}
	s := &container.Sandbox{ID: r.id("sb"), Pod: ref(cfg.Pod), Attempt: cfg.Attempt, State: container.Running, CreatedAt: time.Now()}
	if !cfg.Pod.Spec.HostNetwork {
		s.IPs = []string{fmt.Sprintf("198.51.100.%d", r.seq%250+1)}
		s.NetNS = "/nonexistent/" + s.ID
	}
	r.sandboxes[s.ID] = s
	return *s, nil
}

func ref(p *corev1.Pod) container.PodRef {
	return container.PodRef{Namespace: p.Namespace, Name: p.Name, UID: string(p.UID)}
}

// StopSandbox implements container.Runtime.
func (r *Runtime) StopSandbox(_ context.Context, id string) error {
	err := r.begin("StopSandbox", id)
	defer r.mu.Unlock()
	if err != nil {
		return err
	}
	for _, c := range r.containers {
		if c.SandboxID == id && c.State == container.Running {
			r.exitLocked(c, 137, false)
		}
	}
	if s := r.sandboxes[id]; s != nil {
		s.State, s.NetNS = container.Exited, ""
	}
	return nil
}

// KillSandbox ends a sandbox's pause container as a crash would.
func (r *Runtime) KillSandbox(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sandboxes[id]; s != nil {
		s.State = container.Exited
		r.sendLocked(container.Event{Pod: s.Pod, ContainerID: id, Exited: true, ExitCode: 137, Time: time.Now()})
	}
}

// RemoveSandbox implements container.Runtime.
func (r *Runtime) RemoveSandbox(_ context.Context, id string) error {
	err := r.begin("RemoveSandbox", id)
	defer r.mu.Unlock()
	if err != nil {
		return err
	}
	for cid, c := range r.containers {
		if c.SandboxID == id {
			delete(r.containers, cid)
		}
	}
	delete(r.sandboxes, id)
	return nil
}

// CreateContainer implements container.Runtime.
func (r *Runtime) CreateContainer(ctx context.Context, cfg container.ContainerConfig) (container.Container, error) {
	err := r.begin("CreateContainer", cfg.Container.Name)
	defer r.mu.Unlock()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return container.Container{}, err
	}
	if s := r.sandboxes[cfg.SandboxID]; s == nil || s.State != container.Running {
		return container.Container{}, fmt.Errorf("sandbox %q is not running", cfg.SandboxID)
	}
	for _, c := range r.containers {
		if c.Pod.UID == string(cfg.Pod.UID) && c.Name == cfg.Container.Name && c.Attempt == cfg.Attempt && c.State == container.Created {
			return *c, nil
		}
	}
	c := &container.Container{ID: r.id("c"), SandboxID: cfg.SandboxID, Pod: ref(cfg.Pod), Name: cfg.Container.Name, Attempt: cfg.Attempt,
		Hash: cfg.Hash, State: container.Created, Image: cfg.Image, ImageID: cfg.Image + "@sha256:0", LogPath: cfg.LogPath, CreatedAt: time.Now()}
	for _, m := range cfg.Mounts {
		if m.Image != "" {
			c.VolumeImages = append(c.VolumeImages, m.Image)
		}
	}
	r.containers[c.ID], r.configs[c.ID], r.down[c.ID] = c, cfg, make(chan struct{})
	return *c, nil
}

// StartContainer implements container.Runtime.
func (r *Runtime) StartContainer(_ context.Context, id string) error {
	err := r.begin("StartContainer", id)
	c, cfg, on := r.containers[id], r.configs[id], r.OnStart
	if err == nil && c == nil {
		err = fmt.Errorf("container %q not found", id)
	}
	if err == nil {
		c.State, c.StartedAt = container.Running, time.Now()
	}
	r.mu.Unlock()
	if err == nil && on != nil {
		err = on(cfg, id)
	}
	if err != nil && c != nil {
		r.mu.Lock()
		c.State, c.ExitCode, c.FinishedAt, c.Message = container.Exited, 128, time.Now(), err.Error()
		r.mu.Unlock()
	}
	return err
}

// Exit ends a running container with a code.
func (r *Runtime) Exit(id string, code int32) { r.exit(id, code, false) }

// OOM ends a running container as the kernel's OOM killer does.
func (r *Runtime) OOM(id string) { r.exit(id, 137, true) }

func (r *Runtime) exit(id string, code int32, oom bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil && c.State == container.Running {
		r.exitLocked(c, code, oom)
	}
}

func (r *Runtime) exitLocked(c *container.Container, code int32, oom bool) {
	c.State, c.ExitCode, c.FinishedAt, c.OOMKilled = container.Exited, code, time.Now(), oom
	close(r.down[c.ID])
	r.sendLocked(container.Event{Pod: c.Pod, ContainerID: c.ID, Exited: true, ExitCode: code, OOM: oom, Time: c.FinishedAt})
}

// StopContainer implements container.Runtime: containers end at once with 143, those that ignore SIGTERM after grace with 137.
func (r *Runtime) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	err := r.begin("StopContainer", id)
	c, down := r.containers[id], r.down[id]
	if err != nil || c == nil || c.State != container.Running {
		r.mu.Unlock()
		return err
	}
	if r.IgnoreTerm == nil || !r.IgnoreTerm(c.Name) {
		r.exitLocked(c, 143, false)
		r.mu.Unlock()
		return nil
	}
	r.mu.Unlock()
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-down:
	case <-t.C:
		r.exit(id, 137, false)
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// RemoveContainer implements container.Runtime.
func (r *Runtime) RemoveContainer(_ context.Context, id string) error {
	err := r.begin("RemoveContainer", id)
	defer r.mu.Unlock()
	if err == nil {
		delete(r.containers, id)
	}
	return err
}

// ReopenLog implements container.Runtime.
func (r *Runtime) ReopenLog(_ context.Context, id string) error {
	err := r.begin("ReopenLog", id)
	r.mu.Unlock()
	return err
}

// Exec implements container.Runtime.
func (r *Runtime) Exec(_ context.Context, id string, command []string, s container.Streams) (int, error) {
	err := r.begin("Exec", id)
	on := r.OnExec
	r.mu.Unlock()
	if err != nil || on == nil {
		return 0, err
	}
	return on(id, command, s)
}

// Attach implements container.Runtime.
func (r *Runtime) Attach(_ context.Context, id string, s container.Streams) error {
	err := r.begin("Attach", id)
	on := r.OnAttach
	r.mu.Unlock()
	if err != nil || on == nil {
		return err
	}
	return on(id, s)
}

// PortForward implements container.Runtime.
func (r *Runtime) PortForward(_ context.Context, sandbox string, port int32, conn io.ReadWriteCloser) error {
	err := r.begin("PortForward", sandbox)
	on := r.OnPortForward
	r.mu.Unlock()
	if err != nil || on == nil {
		return err
	}
	return on(sandbox, port, conn)
}

// UpdateResources implements container.Runtime.
func (r *Runtime) UpdateResources(_ context.Context, id string, _ corev1.ResourceRequirements) error {
	err := r.begin("UpdateResources", id)
	r.mu.Unlock()
	return err
}
