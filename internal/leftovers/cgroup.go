package leftovers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CgroupMount is where the machine's cgroup trees are.
const CgroupMount = "/sys/fs/cgroup"

// Hierarchies are the roots of the machine's cgroup trees: one with cgroup v2, one a controller with v1.
func Hierarchies() ([]string, error) {
	if _, err := os.Stat(filepath.Join(CgroupMount, "cgroup.controllers")); err == nil {
		return []string{CgroupMount}, nil
	}
	entries, err := os.ReadDir(CgroupMount)
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	var roots []string
	for _, e := range entries {
		if e.IsDir() {
			roots = append(roots, filepath.Join(CgroupMount, e.Name()))
		}
	}
	return roots, nil
}

// ClearCgroup kills every process below the cgroup in every tree and removes it. Killing repeats until none is left, since
// a process may fork meanwhile, for at most a few seconds.
func ClearCgroup(cgroup string) error {
	roots, err := Hierarchies()
	if err != nil {
		return err
	}
	var errs []error
	for _, root := range roots {
		if err := clearTree(filepath.Join(root, cgroup)); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func clearTree(top string) error {
	var last error
	for range 100 {
		dirs := subdirs(top)
		if len(dirs) == 0 {
			return nil
		}
		last = nil
		for _, dir := range dirs { // deepest first
			for _, pid := range pidsOf(dir) {
				if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
					last = fmt.Errorf("kill process %d of cgroup %s: %w", pid, dir, err)
				}
			}
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				last = fmt.Errorf("remove cgroup %s: %w", dir, err)
			}
		}
		if last == nil {
			return nil
		}
		// A killed process leaves its cgroup when the kernel has torn it down, and nothing tells when.
		time.Sleep(20 * time.Millisecond)
	}
	return last
}

// subdirs lists top and everything below it, deepest first; nothing if there is no top.
func subdirs(top string) []string {
	var dirs []string
	_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil // what vanishes while walking is what we want
	})
	slices.Reverse(dirs)
	return dirs
}

func pidsOf(dir string) []int {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for _, line := range strings.Fields(string(b)) {
		if pid, err := strconv.Atoi(line); err == nil && pid > 1 {
			pids = append(pids, pid)
		}
	}
	return pids
}
