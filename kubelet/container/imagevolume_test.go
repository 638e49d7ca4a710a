// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// importData imports an image without a program: files, and links within and out of it.
func (n *node) importData(name, word string) {
	n.t.Helper()
	layer := tarball(n.t, func(add func(name, link string, mode int64, data []byte)) {
		for _, dir := range []string{"data/", "data/sub/"} {
			add(dir, "", 0o755, nil)
		}
		add("data/word", "", 0o644, []byte(word+"\n"))
		add("data/sub/run", "", 0o755, []byte("#!/bin/sh\necho ran\n"))
		add("inside", "/data", 0o777, nil)
		add("outside", "../../../../../../../../../../etc", 0o777, nil)
	})
	archive := ociArchive(n.t, name, imagespec.Image{
		Platform: imagespec.Platform{Architecture: goarch(), OS: "linux"}, RootFS: imagespec.RootFS{Type: "layers"}}, layer)
	if _, err := n.Import(n.t.Context(), bytes.NewReader(archive)); err != nil {
		n.t.Fatal(err)
	}
}

const dataImage = "example.test/data:1"

func imageMount(at, image, sub string) Mount {
	return Mount{ContainerPath: at, Image: image, SubPath: sub}
}

// volumeMounts are the image volumes of a sandbox that are mounted.
func (n *node) volumeMounts(sandboxID string) (mounted []string) {
	for _, name := range readDir(n.volumesPath(sandboxID)) {
		if isMountPoint(filepath.Join(n.volumesPath(sandboxID), name)) {
			mounted = append(mounted, name)
		}
	}
	return mounted
}

func TestImageVolumes(t *testing.T) {
	n := newNode(t)
	n.importImage(testImage, nil)
	n.importData(dataImage, "one")
	t.Run("mounted", n.volumesMounted)
	t.Run("impossible", n.volumesImpossible)
	t.Run("forgotten", n.volumesForgotten)
	t.Run("outlive", n.volumesOutlive)
}

// volumesMounted mounts images into the containers of one sandbox.
func (n *node) volumesMounted(t *testing.T) {
	pod := testPod("volumes")
	s := n.run(pod)
	for _, tc := range []struct {
		name, script string
		mounts       []Mount
		want         string
	}{
		{"whole", "cat /m/data/word; ls /m", []Mount{imageMount("/m", dataImage, "")}, "one\ndata\ninside\noutside\n"},
		{"folder", "cat /m/word /m/sub/run", []Mount{imageMount("/m", dataImage, "data")}, "one\n#!/bin/sh\necho ran\n"},
		{"folder-in-folder", "ls /m", []Mount{imageMount("/m", dataImage, "data/sub")}, "run\n"},
		{"link", "cat /m/word", []Mount{imageMount("/m", dataImage, "inside")}, "one\n"},
		{"read-only", "echo x > /m/word || touch /m/new || mkdir /m/sub/new || echo none", []Mount{{ContainerPath: "/m", Image: dataImage, SubPath: "data"}}, "none\n"},
		{"not-executable", "/m/run || cat /m/run", []Mount{imageMount("/m", dataImage, "data/sub")}, "#!/bin/sh\necho ran\n"},
		{"options", "grep ' /m ' /proc/self/mountinfo | grep -q ' ro,.*noexec' && echo so", []Mount{imageMount("/m", dataImage, "")}, "so\n"},
		{"its-own", "grep -c ^root /m/passwd", []Mount{imageMount("/m", testImage, "etc")}, "1\n"},
		{"two", "cat /a/word; grep -c ^root /b/etc/group", []Mount{imageMount("/a", dataImage, "data"), imageMount("/b", testImage, "")}, "one\n1"},
		{"as-somebody", "cat /m/word", []Mount{imageMount("/m", dataImage, "data")}, "one\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := n.script(s, pod, tc.name, tc.script)
			cfg.Mounts = tc.mounts
			if tc.name == "as-somebody" {
				user := int64(12345)
				cfg.Container.SecurityContext = &corev1.SecurityContext{RunAsUser: &user}
			}
			text, c := n.output(s, pod, cfg)
			// What the shell says about its failures comes before or after, in other lines.
			var said strings.Builder
			for line := range strings.Lines(text) {
				if !strings.HasPrefix(line, "/bin/sh: ") && !strings.HasPrefix(line, "touch: ") && !strings.HasPrefix(line, "mkdir: ") {
					said.WriteString(line)
				}
			}
			if strings.TrimSuffix(said.String(), "\n") != strings.TrimSuffix(tc.want, "\n") {
				t.Errorf("exit %d: %q (%s)", c.ExitCode, text, c.Message)
			}
			if len(c.VolumeImages) != len(tc.mounts) || !strings.HasPrefix(c.VolumeImages[0], "sha256:") {
				t.Errorf("volume images %q", c.VolumeImages)
			}
		})
	}
	if got := n.volumeMounts(s.ID); len(got) != 2 {
		t.Errorf("one mount for each image and sandbox is wanted: %q", got)
	}
	if err := n.StopSandbox(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	if dirs := readDir(n.volumesPath(s.ID)); len(dirs) > 0 {
		t.Errorf("after the stop: %q", dirs)
	}
	if err := n.RemoveSandbox(t.Context(), s.ID); err != nil {
		t.Error(err)
	}
}

func (n *node) volumesImpossible(t *testing.T) {
	pod := testPod("impossible")
	s := n.run(pod)
	for name, tc := range map[string]struct {
		mount Mount
		want  string
	}{
		"image":   {imageMount("/m", "example.test/absent:1", ""), "image not found"},
		"path":    {imageMount("/m", dataImage, "nowhere"), "no such file or directory"},
		"outside": {imageMount("/m", dataImage, "outside/ssl"), "no such file or directory"},
		"file":    {imageMount("/m", dataImage, "data/word"), "only a directory can be mounted"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := n.script(s, pod, name, "true")
			cfg.Mounts = []Mount{tc.mount}
			_, err := n.CreateContainer(t.Context(), cfg)
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "ImageVolumeMountFailed: ") {
				t.Errorf("%v", err)
			}
			if err := n.holds(s.ID, ""); err != nil {
				t.Error(err)
			}
		})
	}
	if err := n.RemoveSandbox(t.Context(), s.ID); err != nil {
		t.Error(err)
	}
}

// volumesOutlive keeps what is mounted whatever becomes of the image, and gives later containers the newer one.
func (n *node) volumesOutlive(t *testing.T) {
	pod := testPod("outlive")
	s := n.run(pod)
	start := func(name string) string {
		cfg := n.script(s, pod, name, "while true; do sleep 1; done")
		cfg.Mounts = []Mount{imageMount("/m", dataImage, "data")}
		return n.launch(cfg)
	}
	read := func(id string) string {
		var out bytes.Buffer
		if code, err := n.Exec(t.Context(), id, []string{"cat", "/m/word"}, Streams{Stdout: &out}); err != nil || code != 0 {
			t.Errorf("read: %d, %v", code, err)
		}
		return out.String()
	}
	first := start("first")
	n.importData(dataImage, "two")
	second := start("second")
	if err := n.RemoveImage(t.Context(), dataImage); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if a, b := read(first), read(second); a != "one\n" || b != "two\n" {
			t.Errorf("first has %q, second %q", a, b)
		}
		if got := n.volumeMounts(s.ID); len(got) != 2 {
			t.Errorf("mounted: %q", got)
		}
		n.stop()
		n.start()
	}
	if err := n.RemoveSandbox(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	if err := n.isEmpty(); err != nil {
		t.Error(err)
	}
}

// volumesForgotten takes away volumes of which the folder or the sandbox is gone.
func (n *node) volumesForgotten(t *testing.T) {
	ctx := engineContext(t.Context(), quietLogger())
	info, err := n.imageInfo(ctx, dataImage)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"folderless", "stray"} {
		if _, err := n.mountVolume(ctx, newSandbox(id, nil, time.Now(), sandboxRecord{}), info); err != nil {
			t.Fatal(err)
		}
	}
	at := filepath.Join(n.volumesPath("folderless"), info.digest.Encoded())
	if err := errors.Join(unix.Unmount(at, 0), os.RemoveAll(n.volumesPath("folderless"))); err != nil {
		t.Fatal(err)
	}
	n.stop()
	n.start()
	if err := n.isEmpty(); err != nil {
		t.Error(err)
	}
}
