// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// unified is cgroup v2: one tree for all controllers.
type unified struct {
	mount string
	mkdir func(string) error
}

// unifiedControllers are handed down to the pods' cgroups, where the kernel has them; cpuset and io for what runc sets.
var unifiedControllers = []string{"cpu", "cpuset", "hugetlb", "io", "memory", "pids"}

func (h unified) dir(path string) string { return filepath.Join(h.mount, path) }

// create makes the cgroup and all above it. A controller works in a cgroup only if every one above hands it down.
func (h unified) create(path string) error {
	at := h.mount
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if err := h.handDown(at); err != nil {
			return err
		}
		at = filepath.Join(at, name)
		if err := h.mkdir(at); err != nil {
			return err
		}
	}
	return h.handDown(at)
}

func (h unified) handDown(dir string) error {
	words := func(name string) ([]string, error) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		return strings.Fields(string(data)), err
	}
	have, err := words("cgroup.controllers")
	if err != nil {
		return err
	}
	done, err := words("cgroup.subtree_control")
	if err != nil {
		return err
	}
	var missing []string
	for _, c := range unifiedControllers {
		if slices.Contains(have, c) && !slices.Contains(done, c) {
			missing = append(missing, "+"+c)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := put(dir, "cgroup.subtree_control", strings.Join(missing, " ")); err != nil {
		return fmt.Errorf("hand %s down: %w", strings.Join(missing, " "), err)
	}
	return nil
}

func (h unified) set(path string, l limits) error {
	dir := h.dir(path)
	var errs []error
	if l.shares > 0 {
		errs = append(errs, putInt(dir, "cpu.weight", int64(weightOf(l.shares))))
	}
	switch {
	case l.quota > 0:
		errs = append(errs, put(dir, "cpu.max", fmt.Sprintf("%d %d", l.quota, period)))
	case l.quota < 0:
		errs = append(errs, put(dir, "cpu.max", fmt.Sprintf("max %d", period)))
	}
	switch {
	case l.memory > 0:
		errs = append(errs, limitMemory(dir, l.memory))
	case l.memory < 0:
		errs = append(errs, put(dir, "memory.max", "max"))
	}
	if l.pids > 0 {
		errs = append(errs, putInt(dir, "pids.max", l.pids))
	}
	for size, n := range l.hugepages {
		errs = append(errs, putInt(dir, "hugetlb."+size+".max", n))
	}
	return errors.Join(errs...)
}

// limitMemory sets memory.max, unless what is used already would not fit: v1 refuses that with EBUSY by itself, v2 kills.
func limitMemory(dir string, limit int64) error {
	if used, err := Lowers(dir, limit); err != nil {
		return err
	} else if used > 0 {
		return fmt.Errorf("memory limit %d is below current usage %d: %w", limit, used, unix.EBUSY)
	}
	return putInt(dir, "memory.max", limit)
}

// Lowers reports whether a memory limit in bytes would be lower than the one that the cgroup v2 in dir has and not above what it
// uses: then used is that, else 0. A cgroup that is gone uses nothing.
func Lowers(dir string, limit int64) (used uint64, err error) {
	has, err := number(dir, "memory.max")
	if err == nil && (has == 0 || has > uint64(limit)) {
		used, err = number(dir, "memory.current")
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return 0, nil
	}
	if err != nil || used < uint64(limit) {
		return 0, err
	}
	return used, nil
}

// weightOf turns v1's shares (2 to 262144, usually 1024) into v2's weight (1 to 10000, usually 100), by the curve through
// the least, the usual and the greatest of both that OCI runtimes use (github.com/opencontainers/cgroups).
func weightOf(shares uint64) uint64 {
	switch {
	case shares <= minShares:
		return 1
	case shares >= maxShares:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

func (h unified) stats(path string) (Stats, error) {
	dir := h.dir(path)
	var s Stats
	cpu, err := table(dir, "cpu.stat")
	if err != nil {
		return Stats{}, err
	}
	s.CPUNanos = cpu["usage_usec"] * 1000
	if s.MemoryBytes, err = number(dir, "memory.current"); err != nil {
		return Stats{}, err
	}
	memory, err := table(dir, "memory.stat")
	if err != nil {
		return Stats{}, err
	}
	s.WorkingSet = workingSet(s.MemoryBytes, memory["inactive_file"])
	s.RSSBytes, s.PageFaults, s.MajorFaults = memory["anon"], memory["pgfault"], memory["pgmajfault"]
	if s.MemoryLimited, err = number(dir, "memory.max"); err != nil {
		return Stats{}, err
	}
	s.Processes, err = number(dir, "pids.current")
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return s, err
}

func (h unified) dirs(path string) []string { return []string{h.dir(path)} }

// kill uses a file that Linux has since 5.14.
func (h unified) kill(dir string) bool {
	return put(dir, "cgroup.kill", strconv.Itoa(1)) == nil
}
