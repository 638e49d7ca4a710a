// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// mountTmpfs puts a tmpfs of size bytes (0: the kernel's default, half the memory) on dir, unless one is there.
func mountTmpfs(dir string, size int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	if st.Type == unix.TMPFS_MAGIC && isMountPoint(dir) {
		return nil
	}
	opts := "mode=0777"
	if size > 0 {
		opts += ",size=" + strconv.FormatInt(size, 10)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, opts); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	return nil
}

func mountHugePages(dir string, medium corev1.StorageMedium) error {
	if isMountPoint(dir) {
		return nil
	}
	opts := ""
	if size, ok := strings.CutPrefix(string(medium), string(corev1.StorageMediumHugePagesPrefix)); ok {
		q, err := resource.ParseQuantity(size)
		if err != nil {
			return fmt.Errorf("medium %q: %w", medium, err)
		}
		opts = "pagesize=" + strconv.FormatInt(q.Value(), 10)
	} else if medium != corev1.StorageMediumHugePages {
		return fmt.Errorf("unknown storage medium %q", medium)
	}
	if err := unix.Mount("nodev", dir, "hugetlbfs", 0, opts); err != nil {
		return fmt.Errorf("mount hugetlbfs: %w", err)
	}
	return nil
}

// isMountPoint compares the mount ID of a directory with its parent's.
func isMountPoint(dir string) bool {
	var a, b unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &a) != nil {
		return false
	}
	if unix.Statx(unix.AT_FDCWD, filepath.Dir(dir), unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &b) != nil {
		return false
	}
	return a.Mnt_id != b.Mnt_id
}

// unmountBelow takes away every mount at or below dir, the deepest first.
func unmountBelow(dir string) error {
	mounts, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	slices.Reverse(mounts)
	for _, p := range mounts {
		if err := unix.Unmount(p, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", p, err)
		}
	}
	return nil
}

// mountsBelow lists mount points at or below dir in the order in which they were made.
func mountsBelow(dir string) ([]string, error) {
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var found []string
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		if p, ok := mountPoint(sc.Text()); ok && (p == real || strings.HasPrefix(p, real+"/")) {
			found = append(found, p)
		}
	}
	return found, sc.Err()
}

// mountPoint is the fifth field of a line of mountinfo, with its octal escapes undone.
func mountPoint(line string) (string, bool) {
	fields := strings.Fields(line)
	if len(fields) < 5 {
		return "", false
	}
	p := fields[4]
	if !strings.Contains(p, `\`) {
		return p, true
	}
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		if p[i] == '\\' && i+3 < len(p) {
			if n, err := strconv.ParseUint(p[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(p[i])
	}
	return b.String(), true
}

// removeTree removes a directory, but never crosses into another filesystem: a mount that could not be taken away must not
// have its content deleted.
func removeTree(dir string) error {
	left, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("%s is still mounted", left[0])
	}
	return os.RemoveAll(dir)
}
