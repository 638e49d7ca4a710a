package leftovers

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// EndPrograms kills every process whose program lies below dir, and waits until they are gone, for at most a few seconds.
func EndPrograms(dir string) error {
	var last error
	for range 100 {
		pids := programs(dir)
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if err := kill(pid, dir); err != nil {
				last = fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
		time.Sleep(20 * time.Millisecond) // many processes have no common event of their end
	}
	return errors.Join(fmt.Errorf("processes of %s do not end: %v", dir, programs(dir)), last)
}

// kill sends the signal to what is still the process that was found: the pid may be another's by now.
func kill(pid int, dir string) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !runsFrom(pid, dir) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

func programs(dir string) []int {
	entries, _ := filepath.Glob("/proc/[0-9]*") // the pattern is fine
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(filepath.Base(e)); err == nil && pid != os.Getpid() && runsFrom(pid, dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func runsFrom(pid int, dir string) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && strings.HasPrefix(exe, dir+"/")
}
