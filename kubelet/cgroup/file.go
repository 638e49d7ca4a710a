// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// killTime bounds the wait for killed processes to be gone.
const killTime = 5 * time.Second

// put writes one control file. It never makes one: in a cgroup that would fail less clearly.
func put(dir, name, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func putInt(dir, name string, value int64) error { return put(dir, name, strconv.FormatInt(value, 10)) }

// number reads a control file with one number; "max" and what v1 shows for no limit are 0.
func number(dir, name string) (uint64, error) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return 0, err
	}
	text := strings.TrimSpace(string(data))
	if text == "max" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", filepath.Join(dir, name), err)
	}
	return n, nil
}

// table reads a control file with lines of a name and a number.
func table(dir, name string) (map[string]uint64, error) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	values := make(map[string]uint64)
	for line := range strings.Lines(string(data)) {
		key, text, ok := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(text, 10, 64); ok && err == nil {
			values[key] = n
		}
	}
	return values, nil
}

// workingSet is usage without the file pages that nobody used lately.
func workingSet(usage, inactiveFile uint64) uint64 {
	if inactiveFile > usage {
		return 0
	}
	return usage - inactiveFile
}

// remove takes away the cgroup at path in every controller.
func (m *Manager) remove(path string) error {
	var errs []error
	for _, dir := range m.h.dirs(path) {
		errs = append(errs, m.removeDir(dir))
	}
	return errors.Join(errs...)
}

func (m *Manager) removeDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := m.removeDir(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	err = m.rmdir(dir)
	if errors.Is(err, unix.EBUSY) {
		if err := m.killAll(dir); err != nil {
			return err
		}
		err = m.rmdir(dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// killAll kills the processes of one cgroup until there are none, new ones included.
func (m *Manager) killAll(dir string) error {
	deadline := time.Now().Add(killTime)
	for {
		pids, err := processes(dir)
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: processes %v did not end when killed", dir, pids)
		}
		atOnce := m.h.kill(dir)
		for _, pid := range pids {
			if err := killPid(pid, !atOnce, deadline); err != nil {
				return err
			}
		}
	}
}

func processes(dir string) ([]int, error) {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var pids []int
	for line := range strings.Lines(string(data)) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// killPid kills a process, unless that is done already, and waits until it has ended.
func killPid(pid int, send bool, deadline time.Time) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	} else if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if send {
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill process %d: %w", pid, err)
		}
	}
	for {
		wait := time.Until(deadline)
		if wait <= 0 {
			return nil // the caller sees that it is still there
		}
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(wait/time.Millisecond)+1)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
