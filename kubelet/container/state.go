// SPDX-License-Identifier: Apache-2.0

package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
)

// container is what we know of an app container. What is not guarded by mu never changes.
type container struct {
	id      string
	pod     PodRef
	name    string
	created time.Time
	// op serialises what starts and removes; it is held over calls to containerd.
	op sync.Mutex
	// save keeps what is stored of the start from replacing what is stored of the end.
	save sync.Mutex
	// ended closes when the exit is known, cleaned when its task is gone from the shim as well.
	ended, cleaned chan struct{}

	mu    sync.Mutex
	state State
	pid   uint32 // of the task's first process, from the task's creation to its end
	rec   record
}

// sandbox is what we know of a sandbox. What is not guarded by mu never changes.
type sandbox struct {
	id      string
	pod     PodRef
	created time.Time
	rec     sandboxRecord
	op      sync.Mutex
	ended   chan struct{}
	cleaned chan struct{}

	// volumes is held over calls to containerd.
	volumes   sync.Mutex
	noVolumes bool // it is being stopped

	mu    sync.Mutex
	state State
	pid   uint32 // as a container's
}

func newContainer(id string, labels map[string]string, created time.Time, rec record) *container {
	return &container{
		id: id, pod: podOf(labels), name: labels[labelContainerName], created: created, rec: rec, state: Created,
		ended: make(chan struct{}), cleaned: make(chan struct{}),
	}
}

func newSandbox(id string, labels map[string]string, created time.Time, rec sandboxRecord) *sandbox {
	return &sandbox{
		id: id, pod: podOf(labels), created: created, rec: rec, state: Created,
		ended: make(chan struct{}), cleaned: make(chan struct{}),
	}
}

func (c *container) view() Container {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Container{
		ID: c.id, SandboxID: c.rec.SandboxID, Pod: c.pod, Name: c.name, Attempt: c.rec.Attempt, Hash: c.rec.Hash,
		State: c.state, Image: c.rec.Image, ImageID: c.rec.ImageID, VolumeImages: c.rec.Volumes, LogPath: c.rec.LogPath, CreatedAt: c.created,
		StartedAt: c.rec.StartedAt, FinishedAt: c.rec.FinishedAt, ExitCode: c.rec.ExitCode, OOMKilled: c.rec.OOMKilled,
		Message: c.rec.Message, User: c.rec.User.status(),
	}
}

func (c *container) is(s State) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state == s
}

func (c *container) processID() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pid
}

func (s *sandbox) is(state State) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state == state
}

func (s *sandbox) processID() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pid
}

// viewSandbox also reports whether RunSandbox came to its end.
func (r *Containerd) viewSandbox(s *sandbox) (v Sandbox, ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v = Sandbox{ID: s.id, Pod: s.pod, Attempt: s.rec.Attempt, State: s.state, CreatedAt: s.created, IPs: s.rec.IPs}
	if !s.rec.HostNetwork {
		v.NetNS = r.netnsPath(s.id)
	}
	return v, s.rec.Ready
}

// List implements Runtime. Only this process changes what is in containerd's namespace k8s.io, and every exit arrives as
// an event, so the answer comes from memory.
func (r *Containerd) List(ctx context.Context) ([]Sandbox, []Container, error) {
	if _, err := r.in(ctx); err != nil {
		return nil, nil, err
	}
	r.mu.Lock()
	sandboxes := make([]Sandbox, 0, len(r.sandboxes))
	for _, s := range r.sandboxes {
		if v, ready := r.viewSandbox(s); ready {
			sandboxes = append(sandboxes, v)
		}
	}
	list := make([]Container, 0, len(r.containers))
	for _, c := range r.containers {
		list = append(list, c.view())
	}
	r.mu.Unlock()
	slices.SortFunc(sandboxes, func(a, b Sandbox) int { return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.ID, b.ID)) })
	slices.SortFunc(list, func(a, b Container) int { return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.ID, b.ID)) })
	return sandboxes, list, nil
}

func (r *Containerd) container(id string) (*container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, ok := r.containers[id]; ok {
		return c, nil
	}
	return nil, fmt.Errorf("container %s: %w", id, ErrNotFound)
}

func (r *Containerd) sandbox(id string) (*sandbox, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s, ok := r.sandboxes[id]; ok {
		return s, nil
	}
	return nil, fmt.Errorf("sandbox %s: %w", id, ErrNotFound)
}

// exited takes note that the first process of a container or sandbox has ended. The event goes out as soon as what can be
// asked about is settled; the task is taken out of the shim after that. The end of a task that was given up (see giveUp) or
// replaced since says nothing about the container.
func (r *Containerd) exited(ctx context.Context, id string, exit exitRecord) {
	r.mu.Lock()
	c, s := r.containers[id], r.sandboxes[id]
	r.mu.Unlock()
	ctx = context.WithoutCancel(ctx)
	switch {
	case c != nil && isExitOf(exit, c.processID()):
		r.exiting.Go(func() { r.containerExited(ctx, c, exit) })
	case s != nil && isExitOf(exit, s.processID()):
		r.exiting.Go(func() { r.sandboxExited(ctx, s, exit) })
	}
}

// isExitOf is for a process that may have been given up. When a shim dies nobody may know the pid.
func isExitOf(exit exitRecord, pid uint32) bool {
	return pid != 0 && (exit.Pid == 0 || uint32(exit.Pid) == pid)
}

// giveUp makes sure that the end of a container's task, if it has one, is no more taken for the end of the container: whoever
// asked deletes the task. It is false if the end was there first.
func (c *container) giveUp() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pid = 0
	return c.state != Exited
}

// giveUp is the same for a sandbox.
func (s *sandbox) giveUp() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid = 0
	return s.state != Exited
}

func (r *Containerd) containerExited(ctx context.Context, c *container, exit exitRecord) {
	ctx, cancel := context.WithTimeout(ctx, cleanupTime)
	defer cancel()
	oom := oomKills(r.host.Unified, c.rec.CgroupPath) > 0
	r.awaitLog(c)
	c.mu.Lock()
	if c.state == Exited {
		c.mu.Unlock()
		return
	}
	c.state, c.pid = Exited, 0
	c.rec.FinishedAt, c.rec.ExitCode = exit.Timestamp, int32(exit.Status)
	c.rec.OOMKilled = c.rec.OOMKilled || oom
	rec := c.rec
	close(c.ended)
	c.mu.Unlock()
	r.hub.publish(Event{Pod: c.pod, ContainerID: c.id, Exited: true, ExitCode: rec.ExitCode, OOM: rec.OOMKilled, Time: exit.Timestamp})
	// The shim's own note of the exit goes with its task, so ours must be there before.
	c.save.Lock()
	err := r.saveRecord(ctx, c.id, rec)
	c.save.Unlock()
	if err != nil && !errdefs.IsNotFound(err) {
		r.log.Warn("could not store how a container ended", "container", c.id, "err", err)
	}
	if err := r.deleteTask(ctx, c.id); err != nil {
		r.log.Warn("could not clean up after a container that ended", "container", c.id, "err", err)
	}
	close(c.cleaned)
}

func (r *Containerd) sandboxExited(ctx context.Context, s *sandbox, exit exitRecord) {
	ctx, cancel := context.WithTimeout(ctx, cleanupTime)
	defer cancel()
	s.mu.Lock()
	if s.state == Exited {
		s.mu.Unlock()
		return
	}
	s.state, s.pid = Exited, 0
	close(s.ended)
	s.mu.Unlock()
	r.hub.publish(Event{Pod: s.pod, ContainerID: s.id, Exited: true, ExitCode: int32(exit.Status), Time: exit.Timestamp})
	if err := r.deleteTask(ctx, s.id); err != nil {
		r.log.Warn("could not clean up after a sandbox that ended", "sandbox", s.id, "err", err)
	}
	close(s.cleaned)
}

// deleteTask takes an ended task out of its shim, which ends with its last one. That there is none is no error.
func (r *Containerd) deleteTask(ctx context.Context, id string) error {
	_, err := r.tasks.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
	if err = native(err); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// saveStart stores that a container was started, unless its end is known already, which says so too.
func (r *Containerd) saveStart(ctx context.Context, c *container) error {
	c.save.Lock()
	defer c.save.Unlock()
	c.mu.Lock()
	rec, ended := c.rec, c.state == Exited
	c.mu.Unlock()
	if ended {
		return nil
	}
	return r.saveRecord(ctx, c.id, rec)
}

// saveRecord replaces our part of a container's record in containerd.
func (r *Containerd) saveRecord(ctx context.Context, id string, rec record) error {
	ext, err := marshalRecord(rec)
	if err != nil {
		return err
	}
	_, err = r.client.ContainerService().Update(ctx, containers.Container{ID: id,
		Extensions: map[string]typeurl.Any{recordType: ext}}, "extensions."+recordType)
	return native(err)
}

// oomKills reads how many processes of a container's cgroup the kernel killed for want of memory. It must be asked before
// the cgroup goes with the task.
func oomKills(unified bool, path string) int {
	file, key := filepath.Join("/sys/fs/cgroup/memory", path, "memory.oom_control"), "oom_kill "
	if unified {
		file = filepath.Join("/sys/fs/cgroup", path, "memory.events")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			var n int
			if _, err := fmt.Sscan(rest, &n); err == nil {
				return n
			}
		}
	}
	return 0
}

// until waits for done, for at most the life of ctx.
func until(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return errors.Join(ctx.Err(), context.Cause(ctx))
	}
}
