// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/containerd/api/services/tasks/v1"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	sandboxstore "github.com/containerd/containerd/v2/core/sandbox"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc"

	"github.com/mini-k8s/mini/cni"
)

// faults stands between a Containerd and what it works with: containerd's stores and tasks, the network, and the programs
// runc and shim. It passes everything on and calls at before and after each change, by a name such as "before
// container.task.Start"; what at returns is what the caller gets. The parts are sandbox (its record), pause and container
// (their records and tasks), snapshot, view (the one by which an image's users are read), volume (that of an image) and network.
type faults struct {
	mu    sync.Mutex
	at    func(point string) error // nil lets everything be
	kinds map[string]string        // of containers, by ID
}

func (f *faults) set(at func(point string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = at
}

func (f *faults) reach(point string) error {
	f.mu.Lock()
	at := f.at
	f.mu.Unlock()
	if at == nil {
		return nil
	}
	return at(point)
}

func (f *faults) around(what string, call func() error) error {
	if err := f.reach("before " + what); err != nil {
		return err
	}
	if err := call(); err != nil {
		return err
	}
	return f.reach("after " + what)
}

// install puts f around what r uses. No call may be under way.
func (f *faults) install(r *Containerd) error {
	c := r.client
	f.kinds = make(map[string]string)
	client, err := containerd.New("", containerd.WithDefaultNamespace(namespace), containerd.WithServices(
		containerd.WithContentStore(c.ContentStore()), containerd.WithImageStore(c.ImageService()),
		containerd.WithSnapshotters(map[string]snapshots.Snapshotter{r.snapshotter: faultySnapshots{c.SnapshotService(r.snapshotter), f}}),
		containerd.WithContainerStore(faultyContainers{c.ContainerService(), f}), containerd.WithTaskClient(c.TaskService()),
		containerd.WithDiffService(c.DiffService()), containerd.WithEventService(c.EventService()),
		containerd.WithNamespaceService(c.NamespaceService()), containerd.WithLeasesService(c.LeasesService()),
		containerd.WithIntrospectionService(c.IntrospectionService()), containerd.WithSandboxStore(faultySandboxes{c.SandboxStore(), f})))
	if err != nil {
		return err
	}
	r.client, r.tasks = client, faultyTasks{c.TaskService(), f}
	return nil
}

func (f *faults) kind(id string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if kind, ok := f.kinds[id]; ok {
		return kind
	}
	return "unknown"
}

type faultySandboxes struct {
	sandboxstore.Store
	f *faults
}

func (s faultySandboxes) Create(ctx context.Context, sb sandboxstore.Sandbox) (out sandboxstore.Sandbox, err error) {
	err = s.f.around("sandbox.Create", func() error { out, err = s.Store.Create(ctx, sb); return err })
	return out, err
}

func (s faultySandboxes) Update(ctx context.Context, sb sandboxstore.Sandbox, paths ...string) (out sandboxstore.Sandbox, err error) {
	err = s.f.around("sandbox.Update", func() error { out, err = s.Store.Update(ctx, sb, paths...); return err })
	return out, err
}

func (s faultySandboxes) Delete(ctx context.Context, id string) error {
	return s.f.around("sandbox.Delete", func() error { return s.Store.Delete(ctx, id) })
}

type faultyContainers struct {
	containers.Store
	f *faults
}

func (s faultyContainers) Create(ctx context.Context, c containers.Container) (out containers.Container, err error) {
	kind := "container"
	if c.Labels[labelKind] == kindSandbox {
		kind = "pause"
	}
	s.f.mu.Lock()
	s.f.kinds[c.ID] = kind
	s.f.mu.Unlock()
	err = s.f.around(kind+".Create", func() error { out, err = s.Store.Create(ctx, c); return err })
	return out, err
}

func (s faultyContainers) Update(ctx context.Context, c containers.Container, paths ...string) (out containers.Container, err error) {
	err = s.f.around(s.f.kind(c.ID)+".Update", func() error { out, err = s.Store.Update(ctx, c, paths...); return err })
	return out, err
}

func (s faultyContainers) Delete(ctx context.Context, id string) error {
	return s.f.around(s.f.kind(id)+".Delete", func() error { return s.Store.Delete(ctx, id) })
}

func viewKind(key string) string {
	if strings.HasPrefix(key, volumePrefix) {
		return "volume"
	}
	return "view"
}

type faultySnapshots struct {
	snapshots.Snapshotter
	f *faults
}

func (s faultySnapshots) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (out []mount.Mount, err error) {
	err = s.f.around(viewKind(key)+".View", func() error { out, err = s.Snapshotter.View(ctx, key, parent, opts...); return err })
	return out, err
}

func (s faultySnapshots) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) (out []mount.Mount, err error) {
	err = s.f.around("snapshot.Prepare", func() error { out, err = s.Snapshotter.Prepare(ctx, key, parent, opts...); return err })
	return out, err
}

func (s faultySnapshots) Remove(ctx context.Context, key string) error {
	kind := "snapshot"
	if s.f.kind(key) == "unknown" {
		kind = viewKind(key)
	}
	return s.f.around(kind+".Remove", func() error { return s.Snapshotter.Remove(ctx, key) })
}

type faultyTasks struct {
	tasks.TasksClient
	f *faults
}

func (s faultyTasks) Create(ctx context.Context, in *tasks.CreateTaskRequest, opts ...grpc.CallOption) (out *tasks.CreateTaskResponse, err error) {
	err = s.f.around(s.f.kind(in.ContainerID)+".task.Create", func() error { out, err = s.TasksClient.Create(ctx, in, opts...); return err })
	return out, err
}

func (s faultyTasks) Start(ctx context.Context, in *tasks.StartRequest, opts ...grpc.CallOption) (out *tasks.StartResponse, err error) {
	err = s.f.around(s.f.kind(in.ContainerID)+".task.Start", func() error { out, err = s.TasksClient.Start(ctx, in, opts...); return err })
	return out, err
}

func (s faultyTasks) Delete(ctx context.Context, in *tasks.DeleteTaskRequest, opts ...grpc.CallOption) (out *tasks.DeleteResponse, err error) {
	err = s.f.around(s.f.kind(in.ContainerID)+".task.Delete", func() error { out, err = s.TasksClient.Delete(ctx, in, opts...); return err })
	return out, err
}

// faultyNetwork is a network with faults.
type faultyNetwork struct {
	cni.Network
	f *faults
}

func (n faultyNetwork) Add(ctx context.Context, p cni.Pod) (out cni.Result, err error) {
	err = n.f.around("network.Add", func() error { out, err = n.Network.Add(ctx, p); return err })
	return out, err
}

func (n faultyNetwork) Del(ctx context.Context, p cni.Pod) error {
	return n.f.around("network.Del", func() error { return n.Network.Del(ctx, p) })
}

// programs stands before runc and the shim: a file says at which of their commands something shall happen, once.
type programs string // the folder

const programScript = `#!/bin/sh
if read -r at what 2>/dev/null < %[1]s/%[2]s.fault; then
	for arg; do
		if [ "$arg" = "$at" ]; then
			rm %[1]s/%[2]s.fault
			case $what in
			fail)
				while [ $# -gt 0 ]; do # runc is asked in its log for what went wrong
					if [ "$1" = --log ]; then echo '{"level":"error","msg":"injected failure of %[2]s '$at'"}' >> "$2"; fi
					shift
				done
				echo "injected failure of %[2]s $at" >&2
				exit 1;;
			*) kill -9 $what;;
			esac
			break
		fi
	done
fi
exec %[3]s "$@"
`

// install puts the folder's programs in the places of r's. No call may be under way.
func (p programs) install(r *Containerd) error {
	var options runcoptions.Options
	if err := typeurl.UnmarshalTo(r.runtimeOptions, &options); err != nil {
		return err
	}
	for name, real := range map[string]string{"runc": options.BinaryName, "shim": r.shim} {
		at := filepath.Join(string(p), name)
		if !strings.HasPrefix(real, string(p)) {
			if err := os.WriteFile(at, fmt.Appendf(nil, programScript, string(p), name, real), 0o755); err != nil {
				return err
			}
		}
	}
	options.BinaryName, r.shim = filepath.Join(string(p), "runc"), filepath.Join(string(p), "shim")
	var err error
	r.runtimeOptions, err = typeurl.MarshalAny(&options)
	return err
}

// arm lets the next such command of a program fail, or kill a process first.
func (p programs) arm(program, command, what string) error {
	return os.WriteFile(filepath.Join(string(p), program+".fault"), []byte(command+" "+what+"\n"), 0o644)
}
