package footprint

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// quiet is how long after its beginning a process has done what only a start does.
const quiet = 15 * time.Second

// Settle trims once the start is over. It returns nil when that is done or ctx ends: a process that cannot be trimmed runs
// as well.
func Settle(ctx context.Context, logger *slog.Logger) error {
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-timer.C:
	}
	n, err := Trim()
	if err != nil {
		logger.Info("what only the start needed stays in memory", "err", err)
		return nil
	}
	logger.Debug("gave memory of the start back", "megabytes", n>>20)
	return nil
}

// Trim collects garbage, returns free heap to the kernel and unmaps the binary's pages. It returns how many bytes of the
// binary it let go of.
func Trim() (int64, error) {
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return 0, fmt.Errorf("find the binary: %w", err)
	}
	smaps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return 0, fmt.Errorf("read the memory map: %w", err)
	}
	defer smaps.Close()
	segments, err := parse(smaps, exe)
	if err != nil {
		return 0, err
	}
	var total int64
	for _, s := range segments {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, s.start, s.end-s.start, unix.MADV_DONTNEED); errno != 0 {
			return total, fmt.Errorf("let go of %x-%x of %s: %w", s.start, s.end, exe, errno)
		}
		total += s.resident
	}
	return total, nil
}

// segment is a mapping whose pages are all as the file has them.
type segment struct {
	start, end uintptr
	resident   int64 // bytes
}

// parse reads /proc/PID/smaps (proc(5)) and returns the mappings of the file exe that cannot be written and have no page
// of their own: relocations, where a binary has them, would be lost.
func parse(smaps io.Reader, exe string) ([]segment, error) {
	var out []segment
	var current *segment
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		line := lines.Text()
		key, value, _ := strings.Cut(line, ":")
		if !strings.Contains(key, " ") { // "Rss:  4 kB" of the mapping above
			if current == nil {
				continue
			}
			kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64) // other units are other keys
			switch {
			case key == "Rss":
				current.resident = kb << 10
			case key == "Anonymous" && kb == 0 && current.resident > 0:
				out = append(out, *current)
			}
			continue
		}
		current = nil
		// 00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/dbus-daemon
		f := strings.SplitN(line, " ", 6)
		if len(f) < 6 || strings.TrimSpace(f[5]) != exe || strings.Contains(f[1], "w") || !strings.HasPrefix(f[1], "r") {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		start, err := strconv.ParseUint(from, 16, 64)
		if err != nil {
			return nil, fmt.Errorf("memory map: %q: %w", line, err)
		}
		end, err := strconv.ParseUint(to, 16, 64)
		if err != nil || end <= start {
			return nil, fmt.Errorf("memory map: %q is not a range", line)
		}
		current = &segment{start: uintptr(start), end: uintptr(end)}
	}
	return out, lines.Err()
}
