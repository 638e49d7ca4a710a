// SPDX-License-Identifier: Apache-2.0

package container

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mini-k8s/mini/cni"
	"github.com/mini-k8s/mini/internal/helpers"
)

// fakeNetwork gives addresses and remembers who has one.
type fakeNetwork struct {
	mu      sync.Mutex
	live    map[string]bool
	next    byte
	failAdd error
	failDel error
	pruned  []string
}

func (n *fakeNetwork) Add(_ context.Context, p cni.Pod) (cni.Result, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.live == nil {
		n.live = make(map[string]bool)
	}
	n.live[p.SandboxID] = true // also when it fails: half of it may be there
	if n.failAdd != nil {
		return cni.Result{}, n.failAdd
	}
	if _, err := os.Stat(p.NetNS); err != nil {
		return cni.Result{}, err
	}
	n.next++
	return cni.Result{IPs: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, n.next})}}, nil
}

func (n *fakeNetwork) Del(_ context.Context, p cni.Pod) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.failDel != nil {
		return n.failDel
	}
	delete(n.live, p.SandboxID)
	return nil
}

func (n *fakeNetwork) Prune(_ context.Context, live []string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pruned = live
	return nil
}

func (n *fakeNetwork) connected() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.live)
}

const testImage = "example.test/busybox:1"

// busyboxImage is an OCI archive with busybox, its usual links, and some users.
func busyboxImage(t testing.TB, name string, change func(*imagespec.ImageConfig)) []byte {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs Debian's busybox-static: ", err)
	}
	layer := tarball(t, func(add func(name, link string, mode int64, data []byte)) {
		for _, dir := range []string{"bin/", "etc/", "tmp/", "dev/", "proc/", "sys/"} {
			add(dir, "", 0o755, nil)
		}
		add("bin/busybox", "", 0o755, program)
		for _, applet := range []string{"sh", "sleep", "cat", "echo", "id", "ls", "seq", "kill", "ps", "env", "stat", "hostname", "pwd", "touch", "nc", "tty", "stty", "true", "false", "dd", "mount", "grep", "mkdir", "mknod"} {
			add("bin/"+applet, "busybox", 0o777, nil)
		}
		add("etc/passwd", "", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:web:/:/bin/sh\n"))
		add("etc/group", "", 0o644, []byte("root:x:0:\nweb:x:102:\nextra:x:103:web,other\n"))
	})
	config := imagespec.Image{
		Platform: imagespec.Platform{Architecture: goarch(), OS: "linux"},
		Config:   imagespec.ImageConfig{Env: []string{"FROM=image", "PATH=/bin"}, Cmd: []string{"/bin/sh"}},
		RootFS:   imagespec.RootFS{Type: "layers"},
	}
	if change != nil {
		change(&config.Config)
	}
	return ociArchive(t, name, config, layer)
}

func ociArchive(t testing.TB, name string, config imagespec.Image, layer []byte) []byte {
	blobs := make(map[string][]byte)
	put := func(mediaType string, data []byte) imagespec.Descriptor {
		sum := sha256.Sum256(data)
		blobs["blobs/sha256/"+hex.EncodeToString(sum[:])] = data
		return imagespec.Descriptor{MediaType: mediaType, Digest: digestOf(data), Size: int64(len(data))}
	}
	encode := func(v any) []byte {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	layerDesc := put(imagespec.MediaTypeImageLayer, layer)
	config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layerDesc.Digest)
	manifest := put(imagespec.MediaTypeImageManifest, encode(imagespec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageManifest,
		Config: put(imagespec.MediaTypeImageConfig, encode(config)), Layers: []imagespec.Descriptor{layerDesc},
	}))
	manifest.Annotations = map[string]string{"io.containerd.image.name": name}
	blobs["index.json"] = encode(imagespec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageIndex,
		Manifests: []imagespec.Descriptor{manifest},
	})
	blobs["oci-layout"] = []byte(`{"imageLayoutVersion":"1.0.0"}`)
	return tarball(t, func(add func(name, link string, mode int64, data []byte)) {
		for name, data := range blobs {
			add(name, "", 0o644, data)
		}
	})
}

func tarball(t testing.TB, fill func(add func(name, link string, mode int64, data []byte))) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	fill(func(name, link string, mode int64, data []byte) {
		h := &tar.Header{Name: name, Mode: mode, Size: int64(len(data)), Typeflag: tar.TypeReg}
		switch {
		case link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, link
		case strings.HasSuffix(name, "/"):
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// node is a Containerd under test, with everything it may touch.
type node struct {
	*Containerd
	t       testing.TB
	dir     string
	cgroup  string
	network *fakeNetwork
	up      bool
	stop    func()
}

// newNode starts a runtime of its own and makes sure that nothing of it is left after the test.
func newNode(t testing.TB) *node {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := helpers.Unpack(t.TempDir(), helpers.Runc); errors.Is(err, helpers.ErrMissing) {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "mini-rt-")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, dir: dir, cgroup: "/" + filepath.Base(dir), network: &fakeNetwork{}}
	t.Cleanup(func() { n.destroy() })
	n.start()
	return n
}

func (n *node) config() Config {
	return Config{
		DataDir: n.dir, HelperDir: sharedHelpers(), CgroupRoot: n.cgroup, Network: n.network, Logger: testLogger(n.t),
	}
}

// sharedHelpers is unpacked once for all tests.
func sharedHelpers() string { return filepath.Join(os.TempDir(), "mini-test-helpers") }

func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
}

func quietLogger() *slog.Logger { return slog.New(slog.DiscardHandler) }

func (n *node) start() {
	n.t.Helper()
	c, err := New(n.config())
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	n.Containerd, n.up = c, true
	n.stop = sync.OnceFunc(func() {
		cancel()
		n.up = false
		if err := <-done; err != nil {
			n.t.Errorf("run: %v", err)
		}
	})
	select {
	case <-c.Ready():
	case err := <-done:
		n.stop = func() {}
		n.t.Fatalf("run: %v", err)
	case <-time.After(20 * time.Second):
		n.t.Fatal("not ready after 20 s")
	}
}

// destroy removes all pods and then looks for leftovers.
func (n *node) destroy() {
	t := n.t
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	n.network.failDel = nil
	sandboxes, _, err := n.List(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, s := range sandboxes {
		if err := n.RemoveSandbox(ctx, s.ID); err != nil {
			t.Errorf("remove sandbox: %v", err)
		}
	}
	if err == nil {
		for _, left := range n.leftovers() {
			t.Errorf("left behind: %s", left)
		}
	}
	n.stop()
	for _, left := range n.leftovers() {
		t.Errorf("left behind: %s", left)
	}
	if n.network.connected() > 0 {
		t.Errorf("left connected: %v", n.network.live)
	}
	if err := os.RemoveAll(n.dir); err != nil {
		t.Error(err)
	}
	n.removeCgroups()
}

// leftovers lists what there still is of pods: mounts, processes, containers' cgroups, files, and while the node runs
// what containerd holds.
func (n *node) leftovers() []string {
	var left []string
	deadline := time.Now().Add(20 * time.Second) // shims end by themselves, a moment after their last task
	for {
		left = nil
		if n.up {
			left = n.stored()
		}
		mounts, _ := os.ReadFile("/proc/self/mountinfo")
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, n.dir) && !(n.up && strings.Contains(line, "/containerd/state ")) {
				left = append(left, "mount "+strings.TrimSpace(line))
			}
		}
		procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, p := range procs {
			cmd, _ := os.ReadFile(p)
			if bytes.Contains(cmd, []byte(n.dir)) && !strings.HasPrefix(p, fmt.Sprintf("/proc/%d/", os.Getpid())) {
				left = append(left, "process "+strings.ReplaceAll(string(cmd), "\x00", " "))
			}
		}
		for _, dir := range []string{
			"netns", "shm", "volumes", "fifo", "s", "mounts", "state/runc/k8s.io", "state/io.containerd.runtime.v2.task/k8s.io", "root/io.containerd.runtime.v2.task/k8s.io",
		} {
			for _, e := range readDir(filepath.Join(n.dir, "agent/containerd", dir)) {
				if !strings.HasPrefix(e, "containerd.sock") {
					left = append(left, dir+"/"+e)
				}
			}
		}
		groups, _ := filepath.Glob("/sys/fs/cgroup/*" + n.cgroup + "/*/cgroup.procs")
		left = append(left, groups...)
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// stored lists what containerd holds beside images and their layers.
func (n *node) stored() (left []string) {
	ctx := engineContext(context.Background(), quietLogger())
	add := func(kind, id string) { left = append(left, kind+" "+id) }
	layers := 0
	err := n.client.SnapshotService(n.snapshotter).Walk(ctx, func(_ context.Context, s snapshots.Info) error {
		if layers++; s.Kind != snapshots.KindCommitted {
			add("snapshot", s.Name)
		}
		return nil
	})
	leased, e := n.client.LeasesService().List(ctx)
	err = errors.Join(err, e)
	for _, l := range leased {
		add("lease", l.ID)
	}
	containers, e := n.client.ContainerService().List(ctx)
	err = errors.Join(err, e)
	for _, c := range containers {
		add("container", c.ID)
	}
	sandboxes, e := n.client.SandboxStore().List(ctx)
	err = errors.Join(err, e)
	for _, s := range sandboxes {
		add("sandbox", s.ID)
	}
	ingests, e := n.client.ContentStore().ListStatuses(ctx)
	err = errors.Join(err, e)
	for _, i := range ingests {
		add("ingest", i.Ref)
	}
	// The disk space of what was removed comes back with the garbage collection that this waits for.
	lease, e := n.client.LeasesService().Create(ctx, leases.WithRandomID())
	if err = errors.Join(err, e); e == nil {
		err = errors.Join(err, n.client.LeasesService().Delete(ctx, lease, leases.SynchronousDelete))
	}
	if dirs := readDir(filepath.Join(n.dir, "agent/containerd/root/io.containerd.snapshotter.v1.overlayfs/snapshots")); n.snapshotter == "overlayfs" && len(left) == 0 && len(dirs) != layers {
		add("snapshots on disk", fmt.Sprint(len(dirs), " for ", layers))
	}
	if err != nil {
		left = append(left, err.Error())
	}
	return left
}

func (n *node) removeCgroups() {
	tops, _ := filepath.Glob("/sys/fs/cgroup/*" + n.cgroup)
	for _, top := range append(tops, "/sys/fs/cgroup"+n.cgroup) {
		os.Remove(top)
	}
}

func (n *node) importImage(name string, change func(*imagespec.ImageConfig)) {
	n.t.Helper()
	if _, err := n.Import(n.t.Context(), bytes.NewReader(busyboxImage(n.t, name, change))); err != nil {
		n.t.Fatal(err)
	}
}

func testPod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)}}
}

func (n *node) run(pod *corev1.Pod) Sandbox {
	n.t.Helper()
	s, err := n.RunSandbox(n.t.Context(), SandboxConfig{Pod: pod, Hostname: pod.Name, CgroupParent: n.cgroup})
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}

// reads tells whether a container runs and has the image volume of crashConfig.
func (n *node) reads(id string) error {
	code, err := n.Exec(context.Background(), id, []string{"grep", "root", "/image/passwd"}, Streams{})
	if err != nil || code != 0 {
		return fmt.Errorf("exec: %d, %w", code, err)
	}
	return nil
}

// config of a container that runs a shell script.
func (n *node) script(s Sandbox, pod *corev1.Pod, name, script string) ContainerConfig {
	return ContainerConfig{
		Pod: pod, Container: &corev1.Container{Name: name}, SandboxID: s.ID, Image: testImage,
		Command: []string{"/bin/sh", "-c", script}, CgroupParent: n.cgroup, Env: []string{"FROM=pod"},
		LogPath: filepath.Join(n.dir, "logs", pod.Name, name, "0.log"),
	}
}

func (n *node) launch(cfg ContainerConfig) string {
	n.t.Helper()
	made, err := n.CreateContainer(n.t.Context(), cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.StartContainer(n.t.Context(), made.ID); err != nil {
		n.t.Fatal(err)
	}
	return made.ID
}

func (n *node) status(id string) Container {
	n.t.Helper()
	_, list, err := n.List(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	for _, c := range list {
		if c.ID == id {
			return c
		}
	}
	n.t.Fatalf("container %s is not listed", id)
	return Container{}
}

// ended waits for a container's exit event.
func (n *node) ended(events <-chan Event, id string) Event {
	n.t.Helper()
	timeout := time.After(15 * time.Second)
	for {
		select {
		case e := <-events:
			if e.ContainerID == id && e.Exited {
				return e
			}
		case <-timeout:
			n.t.Fatalf("no exit of %s", id)
		}
	}
}

// output runs a script to its end and gives what it printed.
func (n *node) output(s Sandbox, pod *corev1.Pod, cfg ContainerConfig) (string, Container) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(n.t.Context())
	defer cancel()
	events := n.Events(ctx)
	id := n.launch(cfg)
	n.ended(events, id)
	return readLog(n.t, cfg.LogPath), n.status(id)
}

// readLog gives the text of a log file, its lines checked for their form.
func readLog(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(f) != 4 || f[1] != "stdout" && f[1] != "stderr" || f[2] != "F" && f[2] != "P" {
			t.Fatalf("not a log line: %q", line)
		}
		if _, err := time.Parse(time.RFC3339Nano, f[0]); err != nil {
			t.Fatalf("not a log line: %q: %v", line, err)
		}
		text.WriteString(f[3])
		if f[2] == "F" {
			text.WriteByte('\n')
		}
	}
	return text.String()
}
