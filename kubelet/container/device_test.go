// SPDX-License-Identifier: Apache-2.0

package container

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// loopDevice is a block device of 1 MiB whose first sector holds a word; without the right to make one the test is skipped.
func loopDevice(t *testing.T, word string) string {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer control.Close()
	backing, err := os.OpenFile(filepath.Join(t.TempDir(), "disk"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer backing.Close()
	if _, err := backing.WriteString(word + "\n"); err != nil {
		t.Fatal(err)
	}
	if err := backing.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	for range 16 { // another process may take the free one first
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Skip(err)
		}
		node := filepath.Join(t.TempDir(), "loop")
		if err := unix.Mknod(node, unix.S_IFBLK|0o660, int(unix.Mkdev(7, uint32(n)))); err != nil {
			t.Skip(err)
		}
		loop, err := os.OpenFile(node, os.O_RDWR, 0)
		if err != nil {
			t.Skip(err)
		}
		if err := unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_SET_FD, int(backing.Fd())); err != nil {
			loop.Close()
			os.Remove(node)
			continue
		}
		t.Cleanup(func() {
			if err := unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0); err != nil {
				t.Error(err)
			}
			loop.Close()
		})
		return node
	}
	t.Skip("no loop device is free")
	return ""
}

// TestDevices gives block devices to containers, and the cgroup's permission with them.
func TestDevices(t *testing.T) {
	n := newNode(t)
	n.importImage(testImage, nil)
	pod := testPod("devices")
	s := n.run(pod)
	run := func(t *testing.T, name, script string, devices []Device, privileged bool) (string, Container) {
		cfg := n.script(s, pod, name, script)
		cfg.Devices = devices
		if privileged {
			cfg.Container.SecurityContext = &corev1.SecurityContext{Privileged: &privileged}
		}
		return n.output(s, pod, cfg)
	}
	t.Run("node", func(t *testing.T) {
		// No driver has this major number: what may open the node is told so.
		node := filepath.Join(t.TempDir(), "node")
		if err := unix.Mknod(node, unix.S_IFBLK|0o660, int(unix.Mkdev(240, 7))); err != nil {
			t.Skip(err)
		}
		if err := os.Chmod(node, 0o660); err != nil {
			t.Fatal(err)
		}
		link := node + ".link"
		if err := os.Symlink(node, link); err != nil {
			t.Fatal(err)
		}
		const open = "stat -c %t:%T:%a /dev/x/block; dd if=/dev/x/block of=/dev/null count=1 2>&1"
		for _, privileged := range []bool{false, true} {
			text, _ := run(t, map[bool]string{false: "granted", true: "granted-privileged"}[privileged], open, []Device{{HostPath: link, ContainerPath: "/dev/x/block"}}, privileged)
			if !strings.HasPrefix(text, "f0:7:660\n") || !strings.Contains(text, "No such device") {
				t.Errorf("privileged %t: %q", privileged, text)
			}
		}
		// Another with the same number gives no permission.
		text, _ := run(t, "not-granted", "mknod /tmp/block b 240 7; dd if=/tmp/block of=/dev/null count=1 2>&1", nil, false)
		if !strings.Contains(text, "Operation not permitted") {
			t.Errorf("not granted: %q", text)
		}
	})
	t.Run("loop", func(t *testing.T) {
		node := loopDevice(t, "first")
		if text, _ := run(t, "reads", "cat /dev/disk | grep -a first", []Device{{HostPath: node, ContainerPath: "/dev/disk", ReadOnly: true}}, false); !strings.HasPrefix(text, "first\n") {
			t.Errorf("read: %q", text)
		}
		if text, _ := run(t, "read-only", "echo x | dd of=/dev/disk conv=notrunc 2>&1", []Device{{HostPath: node, ContainerPath: "/dev/disk", ReadOnly: true}}, false); !strings.Contains(text, "Operation not permitted") {
			t.Errorf("read-only: %q", text)
		}
		if _, c := run(t, "writes", "echo second | dd of=/dev/disk conv=notrunc,fsync", []Device{{HostPath: node, ContainerPath: "/dev/disk"}}, false); c.ExitCode != 0 {
			t.Errorf("write: %+v", c)
		}
		if data, err := os.ReadFile(node); err != nil || !strings.HasPrefix(string(data), "second\n") {
			t.Errorf("on the device: %.10q, %v", data, err)
		}
	})
	t.Run("none", func(t *testing.T) {
		cfg := n.script(s, pod, "none", "true")
		cfg.Devices = []Device{{HostPath: t.TempDir(), ContainerPath: "/dev/x"}}
		if _, err := n.CreateContainer(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "not a device") {
			t.Error(err)
		}
	})
	t.Run("recursively-read-only", func(t *testing.T) {
		dir := t.TempDir()
		below := filepath.Join(dir, "below")
		if err := os.Mkdir(below, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", below, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(below, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		for name, want := range map[string]string{"ro": "below\n", "rro": "none\n"} {
			cfg := n.script(s, pod, name, "touch /m/new 2>/dev/null && echo top; touch /m/below/new 2>/dev/null && echo below || echo none")
			cfg.Mounts = []Mount{{HostPath: dir, ContainerPath: "/m", ReadOnly: true, RecursiveReadOnly: name == "rro"}}
			if text, _ := n.output(s, pod, cfg); text != want {
				t.Errorf("%s: %q", name, text)
			}
		}
	})
}
