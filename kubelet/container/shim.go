// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// shimProcess is a shim of ours that runs.
type shimProcess struct {
	pid       int
	args      []string
	sandboxID string
}

// listShims finds the shims that our containerd started, also those it does not know: a crash between the start of a shim
// and the note of it leaves one that nobody talks to.
func (r *Containerd) listShims() ([]shimProcess, error) {
	if r.engine == nil {
		return nil, nil // the affair of whoever runs containerd
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	address := filepath.Join(r.sockets, "containerd.sock")
	var list []shimProcess
	for _, e := range procs {
		var pid int
		if _, err := fmt.Sscanf(e.Name(), "%d", &pid); err != nil {
			continue
		}
		args := shimArgs(pid)
		if i := slices.Index(args, "-address"); i < 0 || i+1 >= len(args) || args[i+1] != address {
			continue
		}
		if i := slices.Index(args, "-id"); i >= 0 && i+1 < len(args) {
			list = append(list, shimProcess{pid: pid, args: args, sandboxID: args[i+1]})
		}
	}
	return list, nil
}

// shimArgs are the arguments of a process; nil of one that has ended.
func shimArgs(pid int) []string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
}

// kill ends the shim at once. That it has gone is no error.
func (s shimProcess) kill() error {
	fd, err := unix.PidfdOpen(s.pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	} else if err != nil {
		return err
	}
	defer unix.Close(fd)
	// With the descriptor held the pid cannot change hands.
	if !slices.Equal(shimArgs(s.pid), s.args) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill the shim of sandbox %s: %w", s.sandboxID, err)
	}
	return nil
}

// killShimOf ends the shim of a sandbox, if there is one.
func (r *Containerd) killShimOf(sandboxID string) error {
	shims, err := r.listShims()
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range shims {
		if s.sandboxID == sandboxID {
			errs = append(errs, s.kill())
		}
	}
	return errors.Join(errs...)
}
