// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	apitypes "github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/mini-k8s/mini/kubelet/steps"
)

// CreateContainer implements Runtime. The record comes first and names the snapshot, so that containerd's garbage
// collector cannot take the snapshot before anybody refers to it.
func (r *Containerd) CreateContainer(ctx context.Context, cfg ContainerConfig) (made Container, err error) {
	if ctx, err = r.in(ctx); err != nil {
		return made, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("create container %s of pod %s/%s: %w", cfg.Container.Name, cfg.Pod.Namespace, cfg.Pod.Name, err)
		}
	}()
	s, err := r.sandbox(cfg.SandboxID)
	if err != nil {
		return made, err
	}
	if !s.is(Running) {
		return made, fmt.Errorf("sandbox %s: %w", s.id, ErrNotRunning)
	}
	end := steps.Begin(ctx, "container: spec")
	image, err := r.imageInfo(ctx, cfg.Image)
	if err != nil {
		return made, err
	}
	volumes, err := r.imageVolumes(ctx, s, &cfg)
	if err != nil {
		return made, err
	}
	id := newID()
	spec, err := r.makeSpec(ctx, id, s, cfg, image)
	if err != nil {
		return made, err
	}
	specAny, err := typeurl.MarshalAny(spec)
	end()
	if err != nil {
		return made, err
	}
	rec := record{
		SandboxID: s.id, Attempt: cfg.Attempt, Hash: cfg.Hash, Image: cfg.Image, ImageID: image.id, Volumes: volumes, LogPath: cfg.LogPath,
		StopSignal: stopSignal(cfg.Container, image.config.StopSignal), Stdin: cfg.Container.Stdin,
		StdinOnce: cfg.Container.StdinOnce, TTY: cfg.Container.TTY, CgroupPath: spec.Linux.CgroupsPath,
		User: &user{UID: spec.Process.User.UID, GID: spec.Process.User.GID, Groups: spec.Process.User.AdditionalGids},
	}
	ext, err := marshalRecord(rec)
	if err != nil {
		return made, err
	}
	labels := podLabels(refOf(cfg.Pod), kindContainer)
	labels[labelContainerName] = cfg.Container.Name
	c := newContainer(id, labels, time.Now(), rec)
	defer func() {
		if err != nil {
			ctx, cancel := undo(ctx)
			defer cancel()
			if e := r.removeContainer(ctx, c); e != nil {
				err = errors.Join(err, e)
				r.cleanups.add("container "+id, func(ctx context.Context) error { return r.removeContainer(ctx, c) })
			}
		}
	}()
	end = steps.Begin(ctx, "container: record")
	_, err = r.client.ContainerService().Create(ctx, containers.Container{
		ID: id, Labels: labels, Image: image.name, Spec: specAny, SandboxID: s.id,
		Snapshotter: r.snapshotter, SnapshotKey: id,
		Runtime:    containers.RuntimeInfo{Name: r.shim, Options: r.runtimeOptions},
		Extensions: map[string]typeurl.Any{recordType: ext},
	})
	end()
	if err != nil {
		return made, native(err)
	}
	end = steps.Begin(ctx, "container: snapshot")
	_, err = r.client.SnapshotService(r.snapshotter).Prepare(ctx, id, image.chainID)
	end()
	if err != nil {
		return made, fmt.Errorf("make root file system: %w", native(err))
	}
	r.mu.Lock()
	r.containers[id] = c
	r.mu.Unlock()
	return c.view(), nil
}

func stopSignal(c *corev1.Container, ofImage string) string {
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		return string(*c.Lifecycle.StopSignal)
	}
	return ofImage
}

// parseSignal understands "SIGTERM", "TERM", "SIGRTMIN+3" and "15"; what it does not understand is SIGTERM.
func parseSignal(name string) syscall.Signal {
	upper := strings.ToUpper(strings.TrimSpace(name))
	var n int
	if _, err := fmt.Sscanf(upper, "%d", &n); err == nil && n > 0 && n <= 64 {
		return syscall.Signal(n)
	}
	upper = "SIG" + strings.TrimPrefix(upper, "SIG")
	const rtmin, rtmax = 34, 64
	switch {
	case upper == "SIGRTMIN":
		return rtmin
	case upper == "SIGRTMAX":
		return rtmax
	}
	if _, err := fmt.Sscanf(upper, "SIGRTMIN+%d", &n); err == nil && n >= 0 && rtmin+n <= rtmax {
		return syscall.Signal(rtmin + n)
	}
	if _, err := fmt.Sscanf(upper, "SIGRTMAX-%d", &n); err == nil && n >= 0 && rtmax-n >= rtmin {
		return syscall.Signal(rtmax - n)
	}
	if sig := unix.SignalNum(upper); sig != 0 {
		return sig
	}
	return syscall.SIGTERM
}

// StartContainer implements Runtime.
func (r *Containerd) StartContainer(ctx context.Context, id string) error {
	ctx, err := r.in(ctx)
	if err != nil {
		return err
	}
	c, err := r.container(id)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	switch {
	case c.is(Running):
		return nil
	case c.is(Exited):
		return fmt.Errorf("start container %s: it has ended: %w", id, ErrNotRunning)
	}
	if err := r.startTask(ctx, c); err != nil {
		ctx, cancel := undo(ctx)
		defer cancel()
		if c.giveUp() {
			err = errors.Join(err, r.killTask(ctx, c.id))
			r.failed(ctx, c, err)
		} else {
			err = errors.Join(err, until(ctx, c.cleaned))
		}
		return fmt.Errorf("start container %s: %w", c.name, err)
	}
	return nil
}

func (r *Containerd) startTask(ctx context.Context, c *container) error {
	end := steps.Begin(ctx, "container: log writer")
	mounts, err := r.client.SnapshotService(r.snapshotter).Mounts(ctx, c.id)
	if err != nil {
		return native(err)
	}
	request := &tasks.CreateTaskRequest{ContainerID: c.id, Terminal: c.rec.TTY}
	for _, m := range mounts {
		request.Rootfs = append(request.Rootfs, &apitypes.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	if err := r.openLog(c, request); err != nil {
		return err
	}
	end()
	end = steps.Begin(ctx, "container: runc create")
	created, err := r.tasks.Create(ctx, request)
	end()
	if err != nil {
		return native(err)
	}
	c.mu.Lock()
	c.pid, c.rec.StartedAt = created.Pid, time.Now()
	c.mu.Unlock()
	end = steps.Begin(ctx, "container: runc start")
	_, err = r.tasks.Start(ctx, &tasks.StartRequest{ContainerID: c.id})
	end()
	if err != nil {
		return native(err)
	}
	// Only now: a crash in the middle of the start may end the process before its program runs, and that is no start.
	end = steps.Begin(ctx, "container: record of the start")
	err = r.saveStart(ctx, c)
	end()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == Created { // else its exit was faster
		c.state = Running
	}
	return nil
}

// The exit codes of a container that could not start, which shells and upstream's runtimes use.
const (
	exitCannotStart   = 128
	exitCannotExecute = 126
	exitNotFound      = 127
	exitUnknown       = 255
)

// failed notes that a container could not start; it counts as ended.
func (r *Containerd) failed(ctx context.Context, c *container, cause error) {
	c.mu.Lock()
	if c.state == Exited {
		c.mu.Unlock()
		return
	}
	now := time.Now()
	c.state, c.pid = Exited, 0
	c.rec.FinishedAt, c.rec.ExitCode, c.rec.Message = now, exitCannotStart, cause.Error()
	switch {
	case strings.Contains(c.rec.Message, "executable file not found"), strings.Contains(c.rec.Message, "no such file or directory"):
		c.rec.ExitCode = exitNotFound
	case strings.Contains(c.rec.Message, "permission denied"):
		c.rec.ExitCode = exitCannotExecute
	}
	rec := c.rec
	close(c.ended)
	close(c.cleaned)
	c.mu.Unlock()
	if err := r.saveRecord(ctx, c.id, rec); err != nil && !errdefs.IsNotFound(err) {
		r.log.Warn("could not store why a container did not start", "container", c.id, "err", err)
	}
	r.hub.publish(Event{Pod: c.pod, ContainerID: c.id, Exited: true, ExitCode: rec.ExitCode, Time: now})
}

// StopContainer implements Runtime.
func (r *Containerd) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	ctx, err := r.in(ctx)
	if err != nil {
		return err
	}
	c, err := r.container(id)
	if err != nil {
		return nil // it is gone
	}
	// A start that is under way comes to its end first; two stops may overlap, the shorter grace wins.
	c.op.Lock()
	c.op.Unlock() //nolint:staticcheck // a barrier
	return r.stopContainer(ctx, c, grace)
}

func (r *Containerd) stopContainer(ctx context.Context, c *container, grace time.Duration) error {
	if !c.is(Running) {
		return nil
	}
	if grace > 0 {
		if err := signalPid(c.id, c.processID(), parseSignal(c.rec.StopSignal)); err != nil {
			return fmt.Errorf("stop container %s: %w", c.id, err)
		}
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-c.ended:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
	if err := signalPid(c.id, c.processID(), syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill container %s: %w", c.id, err)
	}
	if err := until(ctx, c.ended); err != nil {
		return fmt.Errorf("kill container %s: it has not ended: %w", c.id, err)
	}
	return nil
}

// RemoveContainer implements Runtime. A container that still runs is killed.
func (r *Containerd) RemoveContainer(ctx context.Context, id string) error {
	ctx, err := r.in(ctx)
	if err != nil {
		return err
	}
	c, err := r.container(id)
	if err != nil {
		return nil // it is gone
	}
	return r.removeContainer(ctx, c)
}

func (r *Containerd) removeContainer(ctx context.Context, c *container) error {
	c.op.Lock()
	defer c.op.Unlock()
	if err := r.stopContainer(ctx, c, 0); err != nil {
		return err
	}
	if !c.giveUp() {
		if err := until(ctx, c.cleaned); err != nil {
			return fmt.Errorf("remove container %s: %w", c.id, err)
		}
	}
	// A clean-up that failed, or that of a half-made task, is tried again here.
	if err := r.deleteTask(ctx, c.id); err != nil {
		if err := r.killTask(ctx, c.id); err != nil {
			return fmt.Errorf("remove container %s: %w", c.id, err)
		}
	}
	if err := native(r.client.SnapshotService(r.snapshotter).Remove(ctx, c.id)); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove container %s: root file system: %w", c.id, err)
	}
	r.closeLog(c.id) // before the record goes: nobody else knows of the pipes
	if err := native(r.client.ContainerService().Delete(ctx, c.id)); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove container %s: %w", c.id, err)
	}
	r.mu.Lock()
	delete(r.containers, c.id)
	r.mu.Unlock()
	return nil
}
