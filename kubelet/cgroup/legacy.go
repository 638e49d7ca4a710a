// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// legacy is cgroup v1: one tree for each controller.
type legacy struct {
	mount string
	mkdir func(string) error
}

// legacyControllers are those that pods are limited or measured by.
var legacyControllers = []string{"cpu", "cpuacct", "memory", "pids", "hugetlb"}

func (h legacy) dir(controller, path string) string { return filepath.Join(h.mount, controller, path) }

func (h legacy) create(path string) error {
	for _, controller := range legacyControllers {
		if _, err := os.Stat(filepath.Join(h.mount, controller)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		at := filepath.Join(h.mount, controller)
		for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
			at = filepath.Join(at, name)
			if err := h.mkdir(at); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h legacy) set(path string, l limits) error {
	var errs []error
	if l.shares > 0 {
		errs = append(errs, putInt(h.dir("cpu", path), "cpu.shares", int64(l.shares)))
	}
	if l.quota != 0 {
		errs = append(errs, putInt(h.dir("cpu", path), "cpu.cfs_period_us", period),
			putInt(h.dir("cpu", path), "cpu.cfs_quota_us", l.quota))
	}
	if l.memory != 0 {
		errs = append(errs, putInt(h.dir("memory", path), "memory.limit_in_bytes", l.memory))
	}
	if l.pids > 0 {
		errs = append(errs, putInt(h.dir("pids", path), "pids.max", l.pids))
	}
	for size, n := range l.hugepages {
		errs = append(errs, putInt(h.dir("hugetlb", path), "hugetlb."+size+".limit_in_bytes", n))
	}
	return errors.Join(errs...)
}

// unlimited is from where on v1's number for a memory limit means that there is none.
const unlimited = 1 << 62

func (h legacy) stats(path string) (Stats, error) {
	var s Stats
	var err error
	if s.CPUNanos, err = number(h.dir("cpuacct", path), "cpuacct.usage"); err != nil {
		return Stats{}, err
	}
	if s.MemoryBytes, err = number(h.dir("memory", path), "memory.usage_in_bytes"); err != nil {
		return Stats{}, err
	}
	memory, err := table(h.dir("memory", path), "memory.stat")
	if err != nil {
		return Stats{}, err
	}
	s.WorkingSet = workingSet(s.MemoryBytes, memory["total_inactive_file"])
	s.RSSBytes, s.PageFaults, s.MajorFaults = memory["total_rss"], memory["total_pgfault"], memory["total_pgmajfault"]
	if s.MemoryLimited, err = number(h.dir("memory", path), "memory.limit_in_bytes"); err != nil {
		return Stats{}, err
	}
	if s.MemoryLimited >= unlimited {
		s.MemoryLimited = 0
	}
	s.Processes, err = number(h.dir("pids", path), "pids.current")
	if errors.Is(err, fs.ErrNotExist) { // the controller may be missing
		err = nil
	}
	return s, err
}

func (h legacy) dirs(path string) []string {
	entries, _ := os.ReadDir(h.mount)
	var dirs []string
	for _, e := range entries {
		// cpu and cpuacct may be two names of one tree.
		tree, err := filepath.EvalSymlinks(filepath.Join(h.mount, e.Name()))
		if dir := filepath.Join(tree, path); err == nil && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

func (legacy) kill(string) bool { return false }
