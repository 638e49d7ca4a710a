// SPDX-License-Identifier: Apache-2.0

package helpers

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/klauspost/compress/zstd"
)

// packed is an embedded folder with one helper called tool.
func packed(t *testing.T, content []byte) fstest.MapFS {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return fstest.MapFS{
		"bin/tool.zst": {Data: enc.EncodeAll(content, nil)},
		"bin/tool.sum": {Data: fmt.Appendf(nil, "%x %d\n", sha256.Sum256(content), len(content))},
	}
}

func TestUnpackIsAtomicAndShared(t *testing.T) {
	dir := t.TempDir()
	files := packed(t, []byte("#!/bin/sh\necho hello\n"+strings.Repeat("#", 1<<20)))
	var wg sync.WaitGroup
	paths := make([]string, 16)
	for i := range paths {
		wg.Go(func() {
			path, err := unpack(files, dir, "tool")
			if err != nil {
				t.Error(err)
				return
			}
			paths[i] = path
			if out, err := exec.Command(path).Output(); err != nil || string(out) != "hello\n" {
				t.Errorf("run: %q, %v", out, err)
			}
		})
	}
	wg.Wait()
	for _, p := range paths {
		if p != paths[0] {
			t.Fatalf("two paths for one content: %s and %s", p, paths[0])
		}
	}
	left, err := os.ReadDir(filepath.Dir(paths[0]))
	if err != nil || len(left) != 1 {
		t.Fatalf("left beside the helper: %v, %v", left, err)
	}

	before, _ := os.Stat(paths[0])
	if _, err := unpack(files, dir, "tool"); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Stat(paths[0]); !os.SameFile(before, after) {
		t.Error("a complete helper was written again")
	}
	if err := os.Truncate(paths[0], 5); err != nil {
		t.Fatal(err)
	}
	if _, err := unpack(files, dir, "tool"); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Stat(paths[0]); after.Size() != before.Size() {
		t.Error("a helper cut short by a crash was not written again")
	}

	other, err := unpack(packed(t, []byte("other")), dir, "tool")
	if err != nil || other == paths[0] {
		t.Errorf("another content went to %s, %v", other, err)
	}
}

func TestUnpackRefuses(t *testing.T) {
	wrong := packed(t, []byte("content"))
	wrong["bin/tool.sum"] = &fstest.MapFile{Data: []byte(strings.Repeat("0", 64) + " 7\n")}
	broken := packed(t, []byte("content"))
	broken["bin/tool.zst"] = &fstest.MapFile{Data: []byte("not compressed")}
	garbled := packed(t, []byte("content"))
	garbled["bin/tool.sum"] = &fstest.MapFile{Data: []byte("?")}
	for name, tc := range map[string]struct {
		files fs.FS
		want  string
	}{
		"not_built":      {fstest.MapFS{"bin/.gitkeep": {}}, "make helpers"},
		"wrong_hash":     {wrong, "has hash"},
		"not_compressed": {broken, "magic"},
		"garbled_sum":    {garbled, "malformed checksum"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := unpack(tc.files, dir, "tool")
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error %v does not say %q", err, tc.want)
			}
			if errors.Is(err, ErrMissing) != (name == "not_built") {
				t.Errorf("ErrMissing: %v", err)
			}
			left, _ := filepath.Glob(filepath.Join(dir, "*", "*"))
			if hidden, _ := filepath.Glob(filepath.Join(dir, "*", ".*")); len(left)+len(hidden) > 0 {
				t.Errorf("left behind: %v %v", left, hidden)
			}
		})
	}
}

// built unpacks a real helper, or skips the test if this binary was linked without.
func built(t *testing.T, name string) string {
	t.Helper()
	path, err := Unpack(t.TempDir(), name)
	if errors.Is(err, ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHelpersRun(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		Shim:    {[]string{"-v"}, "v2."},
		Runc:    {[]string{"--version"}, "libseccomp:"},
		Kubectl: {[]string{"version", "--client"}, "Client Version: v1."},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := exec.Command(built(t, name), tc.args...).CombinedOutput()
			if err != nil || !bytes.Contains(out, []byte(tc.want)) {
				t.Errorf("%v: %v\n%s", tc.args, err, out)
			}
		})
	}
}

// TestPauseReapsAndEnds runs pause as process 1 of a PID namespace: it must collect orphans and end on TERM, which the
// kernel keeps from a process 1 that does not ask for it.
func TestPauseReapsAndEnds(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for a PID namespace")
	}
	path := built(t, Pause)
	// The shell becomes process 1's program after it has left it a child that ends.
	cmd := exec.Command("/bin/sh", "-c", "sleep 0.05 & exec "+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	children := fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid)
	deadline := time.Now().Add(30 * time.Second)
	for {
		exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", cmd.Process.Pid))
		kids, _ := os.ReadFile(children)
		if exe == path && len(bytes.TrimSpace(kids)) == 0 {
			break
		}
		if time.Now().After(deadline) {
			cmd.Process.Kill()
			t.Fatalf("child %s of %s was not collected", kids, exe)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("pause ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		cmd.Process.Kill()
		t.Error("pause did not end on SIGTERM")
	}
}
