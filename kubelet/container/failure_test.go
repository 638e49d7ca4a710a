// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// failure is something that goes wrong once in a pod's life.
type failure struct {
	// step at which it shows: one of those of steps, or "" if it is dealt with unseen.
	step string
	want string // part of the error
	// begin lets it happen and gives what mends it.
	begin func(t *testing.T, n *node) (mend func())
}

// fails is a failure of one of containerd's stores: a full disk.
func (f *faults) fails(point string) func(*testing.T, *node) func() {
	return func(*testing.T, *node) func() {
		once := false
		f.set(func(at string) error {
			if at == point && !once {
				once = true
				return fmt.Errorf("%s: %w", at, syscall.ENOSPC)
			}
			return nil
		})
		return func() { f.set(nil) }
	}
}

// unwritable puts a read-only mount over a folder of the node.
func unwritable(dir string) func(*testing.T, *node) func() {
	return func(t *testing.T, n *node) func() {
		at := filepath.Join(n.dir, dir)
		err := errors.Join(os.MkdirAll(at, 0o711), unix.Mount(at, at, "", unix.MS_BIND, ""),
			unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		if err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := unix.Unmount(at, 0); err != nil {
				t.Error(err)
			}
		}
	}
}

// program fails at its next such command for what part does.
func (f *faults) program(name, command, point string) func(*testing.T, *node) func() {
	return func(_ *testing.T, n *node) func() {
		once := false
		f.set(func(at string) error {
			if at == point && !once {
				once = true
				return programs(n.dir).arm(name, command, "fail")
			}
			return nil
		})
		return func() { f.set(nil) }
	}
}

// noConfig takes the config out of the store of an image, as a damaged disk may, and mends it by an import.
func noConfig(t *testing.T, n *node) func() {
	ctx := engineContext(t.Context(), quietLogger())
	img, err := n.client.ImageService().Get(ctx, testImage)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := images.Manifest(ctx, n.client.ContentStore(), img.Target, platforms.Default())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(blobPath(n, manifest.Config.Digest)); err != nil {
		t.Fatal(err)
	}
	n.infos.mu.Lock()
	n.infos.info = nil
	n.infos.mu.Unlock()
	if list, err := n.ListImages(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("a damaged image is listed: %+v, %v", list, err)
	}
	return func() { n.importImage(testImage, nil) }
}

func blobPath(n *node, d digest.Digest) string {
	return filepath.Join(n.dir, "agent/containerd/root/io.containerd.content.v1.content/blobs", d.Algorithm().String(), d.Encoded())
}

// TestFailures lets each step of a pod's life fail once. What has failed leaves nothing, and the next try succeeds.
func TestFailures(t *testing.T) {
	n := newNode(t)
	n.importImage(testImage, nil)
	f := &faults{}
	if err := errors.Join(f.install(n.Containerd), programs(n.dir).install(n.Containerd)); err != nil {
		t.Fatal(err)
	}
	setNetwork := func(add, del error) {
		n.network.mu.Lock()
		defer n.network.mu.Unlock()
		n.network.failAdd, n.network.failDel = add, del
	}
	const full = "no space left on device"
	failures := map[string]failure{
		"image":                {"create", "not found", noConfig},
		"sandbox_record":       {"sandbox", full, f.fails("before sandbox.Create")},
		"sandbox_record_late":  {"sandbox", full, f.fails("after sandbox.Create")},
		"network_namespace":    {"sandbox", "read-only file system", unwritable("agent/containerd/netns")},
		"shared_memory":        {"sandbox", "read-only file system", unwritable("agent/containerd/shm")},
		"pause_record":         {"sandbox", full, f.fails("before pause.Create")},
		"shim":                 {"sandbox", "injected failure of shim start", f.program("shim", "start", "before pause.task.Create")},
		"pause_create":         {"sandbox", "injected failure of runc create", f.program("runc", "create", "before pause.task.Create")},
		"pause_create_late":    {"sandbox", full, f.fails("after pause.task.Create")},
		"pause_start":          {"sandbox", "injected failure of runc start", f.program("runc", "start", "before pause.task.Start")},
		"sandbox_ready":        {"sandbox", full, f.fails("before sandbox.Update")},
		"volume":               {"create", "read-only file system", unwritable("agent/containerd/volumes")},
		"volume_view":          {"create", full, f.fails("before volume.View")},
		"volume_view_late":     {"create", full, f.fails("after volume.View")},
		"volume_forgotten":     {"stop sandbox", full, f.fails("before volume.Remove")},
		"volume_gone":          {"stop sandbox", full, f.fails("after volume.Remove")},
		"look_into_image":      {"create", full, f.fails("after view.View")},
		"container_record":     {"create", full, f.fails("before container.Create")},
		"snapshot":             {"create", "read-only file system", unwritable("agent/containerd/root/io.containerd.snapshotter.v1.overlayfs/snapshots")},
		"snapshot_late":        {"create", full, f.fails("after snapshot.Prepare")},
		"log":                  {"start", "read-only file system", unwritable("logs")},
		"container_create":     {"start", "injected failure of runc create", f.program("runc", "create", "before container.task.Create")},
		"container_start":      {"start", "injected failure of runc start", f.program("runc", "start", "before container.task.Start")},
		"container_start_note": {"start", full, f.fails("before container.Update")},
		"container_start_late": {"start", full, f.fails("after container.task.Start")},
		"container_delete":     {"", "", f.program("runc", "delete", "before container.task.Delete")},
		"root_file_system":     {"remove", full, f.fails("before snapshot.Remove")},
		"container_forgotten":  {"remove", full, f.fails("before container.Delete")},
		"pause_delete":         {"", "", f.program("runc", "delete", "before pause.task.Delete")},
		"pause_forgotten":      {"remove sandbox", full, f.fails("before pause.Delete")},
		"sandbox_forgotten":    {"remove sandbox", full, f.fails("before sandbox.Delete")},
		"network": {"sandbox", "no addresses left", func(*testing.T, *node) func() {
			setNetwork(errors.New("no addresses left"), nil)
			return func() { setNetwork(nil, nil) }
		}},
		"network_busy": {"stop sandbox", "busy", func(*testing.T, *node) func() {
			setNetwork(nil, errors.New("busy"))
			return func() { setNetwork(nil, nil) }
		}},
	}
	for _, name := range slices.Sorted(maps.Keys(failures)) {
		failure := failures[name]
		t.Run(name, func(t *testing.T) {
			n.infos.mu.Lock()
			n.infos.users = nil // each looks into the image
			n.infos.mu.Unlock()
			if err := os.MkdirAll(filepath.Join(n.dir, "logs"), 0o755); err != nil {
				t.Fatal(err)
			}
			n.lifeWith(t, name, failure)
		})
	}
}

// lifeWith leads a pod through its life with a failure.
func (n *node) lifeWith(t *testing.T, name string, failure failure) {
	ctx := context.Background()
	pod := testPod(name)
	var s Sandbox
	var id string
	attempt := uint32(0)
	create := func() error {
		cfg := n.crashConfig(s, pod)
		cfg.Attempt = attempt
		made, err := n.CreateContainer(ctx, cfg)
		id = made.ID
		return err
	}
	steps := []struct {
		name string
		run  func() error
		// after a failure
		check func() error
		again func() error
	}{
		{name: "sandbox", run: func() (err error) {
			s, err = n.RunSandbox(ctx, SandboxConfig{Pod: pod, Hostname: pod.Name, CgroupParent: n.cgroup})
			return err
		}, check: n.isEmpty},
		{name: "create", run: create, check: func() error { return n.holds(s.ID, "") }},
		{name: "start", run: func() error { return n.StartContainer(ctx, id) }, check: func() error {
			if c := n.status(id); c.State != Exited || c.ExitCode == 0 || c.ExitCode == 137 || !strings.Contains(c.Message, failure.want) {
				return fmt.Errorf("container %+v", c)
			}
			return n.holds(s.ID, id)
		}, again: func() error {
			if err := n.RemoveContainer(ctx, id); err != nil {
				return err
			}
			attempt++
			if err := create(); err != nil {
				return err
			}
			return n.StartContainer(ctx, id)
		}},
		{name: "runs", run: func() error {
			return n.reads(id)
		}},
		{name: "stop", run: func() error { return n.StopContainer(ctx, id, 0) }},
		{name: "remove", run: func() error { return n.RemoveContainer(ctx, id) }},
		{name: "stop sandbox", run: func() error { return n.StopSandbox(ctx, s.ID) }},
		{name: "remove sandbox", run: func() error { return n.RemoveSandbox(ctx, s.ID) }},
	}
	t.Cleanup(func() {
		sandboxes, _, _ := n.List(ctx)
		for _, s := range sandboxes { // of a test that failed
			n.RemoveSandbox(ctx, s.ID)
		}
	})
	mend := failure.begin(t, n)
	t.Cleanup(func() { mend() })
	seen := false
	for _, step := range steps {
		err := step.run()
		if err == nil {
			continue
		}
		if step.name != failure.step || !strings.Contains(err.Error(), failure.want) {
			t.Fatalf("%s: %v", step.name, err)
		}
		seen = true
		mend()
		mend = func() {}
		if step.check != nil {
			if err := step.check(); err != nil {
				t.Fatalf("after the failure: %v", err)
			}
		}
		again := step.again
		if again == nil {
			again = step.run
		}
		if err := again(); err != nil {
			t.Fatalf("the next try to %s: %v", step.name, err)
		}
		break // the rest of the life is that of the others
	}
	if err := n.RemoveSandbox(ctx, s.ID); err != nil {
		t.Fatal(err)
	}
	if !seen && failure.step != "" {
		t.Errorf("nothing failed")
	}
	mend()
	mend = func() {}
	if err := n.isEmpty(); err != nil {
		t.Errorf("at the end: %v", err)
	}
}

// isEmpty tells whether the node is as it was before its first pod.
func (n *node) isEmpty() error {
	sandboxes, list, err := n.List(context.Background())
	if err == nil && len(sandboxes)+len(list) > 0 {
		err = fmt.Errorf("listed: %+v, %+v", sandboxes, list)
	}
	if left := n.leftovers(); len(left) > 0 {
		err = errors.Join(err, errors.New("left behind: "+strings.Join(left, "\n")))
	}
	if n.network.connected() > 0 {
		err = errors.Join(err, fmt.Errorf("connected: %v", n.network.live))
	}
	return err
}

// holds tells whether containerd knows of nothing but a sandbox with its image volumes and, if it is named, one container that
// does not run.
func (n *node) holds(sandbox, id string) error {
	want := map[string]bool{"sandbox " + sandbox: true, "container " + sandbox: true}
	if id != "" {
		want["container "+id], want["snapshot "+id] = true, true
	}
	var wrong []string
	for _, what := range n.stored() {
		if name, ok := strings.CutPrefix(what, "snapshot "+volumeKey(sandbox, "")); ok && isMountPoint(filepath.Join(n.volumesPath(sandbox), name)) {
			continue
		}
		if !want[what] {
			wrong = append(wrong, what)
		}
		delete(want, what)
	}
	for _, dir := range []string{"state/runc/k8s.io", "state/io.containerd.runtime.v2.task/k8s.io"} {
		for _, e := range readDir(filepath.Join(n.dir, "agent/containerd", dir)) {
			if e != sandbox {
				wrong = append(wrong, dir+"/"+e)
			}
		}
	}
	if len(wrong)+len(want) > 0 {
		text, _ := json.Marshal(want)
		return fmt.Errorf("held too much: %v, missing: %s", wrong, text)
	}
	return nil
}
