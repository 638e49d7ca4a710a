package check

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mini-k8s/mini/internal/netns"
)

func TestCgroups(t *testing.T) {
	v1 := func(t *testing.T, controllers ...string) string {
		dir := t.TempDir()
		for _, c := range controllers {
			if err := os.MkdirAll(filepath.Join(dir, c), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, c, "cgroup.procs"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	v2 := func(t *testing.T, controllers string) string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "cgroup.controllers"), []byte(controllers), 0o644); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	table := func(t *testing.T, content string) string {
		path := filepath.Join(t.TempDir(), "cgroups")
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pi := table(t, "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\nmemory\t0\t1\t0\n")
	for name, tt := range map[string]struct {
		mount, table string
		level        Level
		want         string
	}{
		"v1":              {v1(t, "cpu", "cpuset", "memory", "pids"), pi, OK, "v1 with"},
		"v2":              {v2(t, "cpuset cpu io memory pids"), pi, OK, "v2 with"},
		"raspberry-pi":    {v2(t, "cpuset cpu io pids"), pi, Fatal, "cgroup_enable=memory"},
		"v1-without-pids": {v1(t, "cpu", "cpuset", "memory"), pi, Fatal, "v1 lacks pids"},
		"nothing":         {t.TempDir(), filepath.Join(t.TempDir(), "absent"), Fatal, "lacks cpu, cpuset, memory, pids"},
	} {
		t.Run(name, func(t *testing.T) {
			found := cgroups(tt.mount, tt.table)[0]
			if found.Level != tt.level || !strings.Contains(found.What+" "+found.Fix, tt.want) {
				t.Errorf("%+v, want %s with %q", found, tt.level, tt.want)
			}
		})
	}
}

// TestWithoutIPTables: what is missing is named with the package that brings it, and is fatal.
func TestWithoutIPTables(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("makes a network namespace")
	}
	t.Setenv("PATH", t.TempDir())
	err := Err(Run(t.Context(), Options{DataDir: t.TempDir(), Agent: true}))
	if err == nil || !strings.Contains(err.Error(), "apt-get install iptables") {
		t.Errorf("%v", err)
	}
}

func TestThisMachine(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("makes a network namespace")
	}
	found := Run(t.Context(), Options{DataDir: t.TempDir(), Agent: true})
	if err := Err(found); err != nil {
		t.Error(err)
	}
	for _, f := range found {
		t.Logf("%+v", f)
	}
}

// TestRemoveStale leaves the probe of a process that is there, and removes that of one that was killed.
func TestRemoveStale(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	probe := func(pid int) string {
		at := filepath.Join(dir, fmt.Sprintf("%s%d-1", probeDirs, pid))
		if err := errors.Join(os.Mkdir(at, 0o700), netns.Create(filepath.Join(at, "netns"))); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { netns.Delete(filepath.Join(at, "netns")) })
		return at
	}
	own, other := probe(os.Getpid()), probe(ended.Process.Pid)
	removeStale(dir)
	if _, err := os.Stat(filepath.Join(own, "netns")); err != nil {
		t.Errorf("the probe of a process that is there: %v", err)
	}
	if _, err := os.Stat(other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the probe of a process that was killed: %v", err)
	}
}
