// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/containers"
	sandboxstore "github.com/containerd/containerd/v2/core/sandbox"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/mini-k8s/mini/cni"
	"github.com/mini-k8s/mini/internal/leftovers"
	"github.com/mini-k8s/mini/internal/netns"
	"github.com/mini-k8s/mini/kubelet/steps"
)

// shmSize is that of a pod's /dev/shm, as everywhere.
const shmSize = "64m"

func newID() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func (r *Containerd) netnsPath(id string) string { return filepath.Join(r.dir, "netns", id) }
func (r *Containerd) shmPath(id string) string   { return filepath.Join(r.dir, "shm", id) }

// RunSandbox implements Runtime. The network is connected while shim and pause start: both need only the namespace.
func (r *Containerd) RunSandbox(ctx context.Context, cfg SandboxConfig) (_ Sandbox, err error) {
	if ctx, err = r.in(ctx); err != nil {
		return Sandbox{}, err
	}
	id, pod := newID(), refOf(cfg.Pod)
	defer func() {
		if err != nil {
			err = fmt.Errorf("run sandbox of pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
	}()
	if cfg.CgroupParent == "" {
		cfg.CgroupParent = r.cfg.CgroupRoot
	}
	s := newSandbox(id, podLabels(pod, kindSandbox), time.Now(), sandboxRecord{
		Attempt: cfg.Attempt, HostNetwork: cfg.Pod.Spec.HostNetwork, Ports: hostPorts(cfg),
		CgroupPath: filepath.Join(cfg.CgroupParent, id),
	})
	s.op.Lock()
	defer s.op.Unlock()
	// From here on a crash leaves a sandbox that is not ready, and recovery takes away whatever was made of it.
	end := steps.Begin(ctx, "sandbox: record")
	err = r.storeSandbox(ctx, s)
	end()
	if err != nil {
		ctx, cancel := undo(ctx)
		defer cancel()
		if e := r.forgetSandbox(ctx, id); e != nil { // it may be there all the same
			err = errors.Join(err, e)
			r.cleanups.add("record of sandbox "+id, func(ctx context.Context) error { return r.forgetSandbox(ctx, id) })
		}
		return Sandbox{}, err
	}
	r.mu.Lock()
	r.sandboxes[id] = s
	r.mu.Unlock()
	defer func() {
		if err != nil {
			ctx, cancel := undo(ctx)
			defer cancel()
			if e := r.destroySandbox(ctx, s); e != nil {
				err = errors.Join(err, e)
				r.removeLater(s)
			}
		}
	}()
	netnsPath := ""
	if !s.rec.HostNetwork {
		netnsPath = r.netnsPath(id)
		end := steps.Begin(ctx, "sandbox: network namespace")
		err := netns.Create(netnsPath)
		end()
		if err != nil {
			return Sandbox{}, err
		}
	}
	if !cfg.Pod.Spec.HostIPC {
		end := steps.Begin(ctx, "sandbox: shared memory")
		err := mountShm(r.shmPath(id))
		end()
		if err != nil {
			return Sandbox{}, err
		}
	}
	var result cni.Result
	parts, partCtx := errgroup.WithContext(ctx)
	if netnsPath != "" {
		parts.Go(func() (err error) {
			defer steps.Begin(partCtx, "sandbox: network (CNI)")()
			result, err = r.cfg.Network.Add(partCtx, r.attachment(s))
			if err != nil {
				return fmt.Errorf("connect network: %w", err)
			}
			return nil
		})
	}
	parts.Go(func() error {
		spec := sandboxSpec(id, r.pauseRoot, netnsPath, cfg, r.clampOOM(oomPause))
		return r.startPause(partCtx, s, spec)
	})
	if err := parts.Wait(); err != nil {
		return Sandbox{}, err
	}
	s.mu.Lock()
	s.rec.Ready = true
	for _, ip := range result.IPs {
		s.rec.IPs = append(s.rec.IPs, ip.String())
	}
	s.mu.Unlock()
	end = steps.Begin(ctx, "sandbox: record of its end")
	err = r.updateSandbox(ctx, s)
	end()
	if err != nil {
		return Sandbox{}, err
	}
	v, _ := r.viewSandbox(s)
	return v, nil
}

// hostPorts collects what the sandbox's network has to publish.
func hostPorts(cfg SandboxConfig) []port {
	if cfg.Pod.Spec.HostNetwork {
		return nil
	}
	var ports []port
	for _, c := range append(cfg.Pod.Spec.InitContainers[:len(cfg.Pod.Spec.InitContainers):len(cfg.Pod.Spec.InitContainers)], cfg.Pod.Spec.Containers...) {
		for _, p := range c.Ports {
			if p.HostPort == 0 {
				continue
			}
			protocol := strings.ToLower(string(p.Protocol))
			if protocol == "" {
				protocol = "tcp"
			}
			ports = append(ports, port{HostIP: p.HostIP, HostPort: p.HostPort, ContainerPort: p.ContainerPort, Protocol: protocol})
		}
	}
	return ports
}

func (r *Containerd) attachment(s *sandbox) cni.Pod {
	p := cni.Pod{SandboxID: s.id, Namespace: s.pod.Namespace, Name: s.pod.Name, UID: s.pod.UID, NetNS: r.netnsPath(s.id)}
	for _, m := range s.rec.Ports {
		p.Ports = append(p.Ports, cni.PortMapping(m))
	}
	return p
}

func mountShm(path string) error {
	if err := os.MkdirAll(path, 0o711); err != nil {
		return err
	}
	err := unix.Mount("shm", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=1777,size="+shmSize)
	if err != nil {
		return fmt.Errorf("mount shared memory at %s: %w", path, err)
	}
	return nil
}

func unmountShm(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount shared memory at %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (r *Containerd) storeSandbox(ctx context.Context, s *sandbox) error {
	ext, err := marshalRecord(s.rec)
	if err != nil {
		return err
	}
	_, err = r.client.SandboxStore().Create(ctx, sandboxstore.Sandbox{
		ID: s.id, Labels: podLabels(s.pod, kindSandbox), Runtime: sandboxstore.RuntimeOpts{Name: r.shim}, Sandboxer: "mini",
		Extensions: map[string]typeurl.Any{recordType: ext},
	})
	return native(err)
}

// forgetSandbox removes a sandbox's record. That there is none is no error.
func (r *Containerd) forgetSandbox(ctx context.Context, id string) error {
	if err := native(r.client.SandboxStore().Delete(ctx, id)); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

func (r *Containerd) updateSandbox(ctx context.Context, s *sandbox) error {
	ext, err := marshalRecord(s.rec)
	if err != nil {
		return err
	}
	_, err = r.client.SandboxStore().Update(ctx, sandboxstore.Sandbox{
		ID: s.id, Extensions: map[string]typeurl.Any{recordType: ext},
	}, "extensions."+recordType)
	return native(err)
}

// startPause makes the sandbox's container and starts it. Its caller undoes.
func (r *Containerd) startPause(ctx context.Context, s *sandbox, spec *specs.Spec) error {
	specAny, err := typeurl.MarshalAny(spec)
	if err != nil {
		return err
	}
	end := steps.Begin(ctx, "pause: record")
	_, err = r.client.ContainerService().Create(ctx, containers.Container{
		ID: s.id, Labels: podLabels(s.pod, kindSandbox), Spec: specAny, SandboxID: "",
		Runtime: containers.RuntimeInfo{Name: r.shim, Options: r.runtimeOptions},
	})
	end()
	if err != nil {
		return native(err)
	}
	end = steps.Begin(ctx, "pause: shim, runc create")
	created, err := r.tasks.Create(ctx, &tasks.CreateTaskRequest{ContainerID: s.id})
	end()
	if err != nil {
		return fmt.Errorf("create pause: %w", native(err))
	}
	s.mu.Lock()
	s.pid = created.Pid
	s.mu.Unlock()
	end = steps.Begin(ctx, "pause: runc start")
	_, err = r.tasks.Start(ctx, &tasks.StartRequest{ContainerID: s.id})
	end()
	if err != nil {
		return fmt.Errorf("start pause: %w", native(err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == Created {
		s.state = Running
	}
	return nil
}

// StopSandbox implements Runtime. Containers that still run are killed, then pause, then the network is taken away.
func (r *Containerd) StopSandbox(ctx context.Context, id string) error {
	ctx, err := r.in(ctx)
	if err != nil {
		return err
	}
	s, err := r.sandbox(id)
	if err != nil {
		return nil // it is gone
	}
	s.op.Lock()
	defer s.op.Unlock()
	return r.stopSandbox(ctx, s)
}

func (r *Containerd) stopSandbox(ctx context.Context, s *sandbox) error {
	parts := new(errgroup.Group)
	for _, c := range r.containersOf(s.id) {
		parts.Go(func() error {
			c.op.Lock()
			defer c.op.Unlock()
			return r.stopContainer(ctx, c, 0)
		})
	}
	if err := parts.Wait(); err != nil {
		return err
	}
	// Network and image volumes go while runc and the shim clear up: nothing runs in the pod any more.
	parts = new(errgroup.Group)
	parts.Go(func() error { return r.stopPause(ctx, s) })
	parts.Go(func() error { return r.removeVolumes(ctx, s) })
	if !s.rec.HostNetwork {
		parts.Go(func() error {
			if err := r.cfg.Network.Del(ctx, r.attachment(s)); err != nil {
				return fmt.Errorf("disconnect network: %w", err)
			}
			return netns.Delete(r.netnsPath(s.id))
		})
	}
	if err := errors.Join(parts.Wait(), unmountShm(r.shmPath(s.id))); err != nil {
		return fmt.Errorf("stop sandbox %s: %w", s.id, err)
	}
	return nil
}

// stopPause kills pause and waits until its task is gone. A sandbox that never came to run may still have a task.
func (r *Containerd) stopPause(ctx context.Context, s *sandbox) error {
	if s.is(Running) {
		if err := signalPid(s.id, s.processID(), syscall.SIGKILL); err != nil {
			return err
		}
	} else if s.giveUp() {
		return r.killTask(ctx, s.id)
	}
	if err := until(ctx, s.cleaned); err != nil {
		return err
	}
	return r.deleteTask(ctx, s.id) // a clean-up that failed is tried again
}

// killTask gets rid of a task in whatever state it is, half-made ones of an earlier life included. Who it belonged to was
// given up.
func (r *Containerd) killTask(ctx context.Context, id string) error {
	_, err := r.tasks.Kill(ctx, &tasks.KillRequest{ContainerID: id, Signal: uint32(syscall.SIGKILL), All: true})
	if err = native(err); errdefs.IsNotFound(err) {
		// Ended already, or never there.
		return r.deleteTask(ctx, id)
	} else if err != nil {
		return err
	}
	if _, err := r.tasks.Wait(ctx, &tasks.WaitRequest{ContainerID: id}); err != nil && !errdefs.IsNotFound(native(err)) {
		return native(err)
	}
	return r.deleteTask(ctx, id)
}

// RemoveSandbox implements Runtime.
func (r *Containerd) RemoveSandbox(ctx context.Context, id string) error {
	ctx, err := r.in(ctx)
	if err != nil {
		return err
	}
	s, err := r.sandbox(id)
	if err != nil {
		return nil // it is gone
	}
	s.op.Lock()
	defer s.op.Unlock()
	return r.destroySandbox(ctx, s)
}

// destroySandbox takes away all there is of a sandbox; s.op is held.
func (r *Containerd) destroySandbox(ctx context.Context, s *sandbox) error {
	if err := r.stopSandbox(ctx, s); err != nil {
		return err
	}
	for _, c := range r.containersOf(s.id) {
		if err := r.removeContainer(ctx, c); err != nil {
			return err
		}
	}
	if err := native(r.client.ContainerService().Delete(ctx, s.id)); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove sandbox %s: %w", s.id, err)
	}
	if err := r.forgetSandbox(ctx, s.id); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", s.id, err)
	}
	// A shim ends with its last task, unless it never had one.
	if !s.rec.Ready {
		if err := errors.Join(r.killShimOf(s.id), clearCgroup(s.rec.CgroupPath)); err != nil {
			return fmt.Errorf("remove sandbox %s: %w", s.id, err)
		}
	}
	// A shim takes its socket away itself, unless it was killed or its bundle, which says where the socket is, was removed
	// before it came to that.
	if err := os.Remove(r.shimSocket(s.id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove sandbox %s: %w", s.id, err)
	}
	r.mu.Lock()
	delete(r.sandboxes, s.id)
	r.mu.Unlock()
	return nil
}

// shimSocket is where the shim of a sandbox listens, by containerd's rule (pkg/shim.CreateSocketAddress).
func (r *Containerd) shimSocket(id string) string {
	key := filepath.Join(r.sockets, "containerd.sock", namespace, id)
	return filepath.Join(r.sockets, fmt.Sprintf("%x", sha256.Sum256([]byte(key))))
}

func isShimSocketName(name string) bool {
	sum, err := hex.DecodeString(name)
	return err == nil && len(sum) == sha256.Size
}

// clearCgroup removes what a runc that was killed while it made a container leaves in the trees of cgroups, which nobody
// else knows of. The path ends with the ID of a sandbox or container.
func clearCgroup(path string) error {
	if path == "" {
		return nil // of a record that could not be read
	}
	return leftovers.ClearCgroup(path)
}

func (r *Containerd) containersOf(sandboxID string) []*container {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*container
	for _, c := range r.containers {
		if c.rec.SandboxID == sandboxID {
			list = append(list, c)
		}
	}
	return list
}
