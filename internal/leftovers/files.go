package leftovers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// UnmountBelow unmounts everything below dir; processes that still use a mount keep it until they end.
func UnmountBelow(dir string) error {
	var errs []error
	for _, mount := range MountsBelow(dir) {
		if err := unix.Unmount(mount, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", mount, err))
		}
	}
	return errors.Join(errs...)
}

// MountsBelow lists the mount points below dir, the latest first, so that each is unmounted before what it stands on.
func MountsBelow(dir string) []string {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var mounts []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		point := unescapeMount(f[4])
		if strings.HasPrefix(point, dir+"/") {
			mounts = append(mounts, point)
		}
	}
	slices.Reverse(mounts)
	return mounts
}

// mountEscapes undoes the octal escapes of proc(5) for blanks and backslashes in mount points.
var mountEscapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

func unescapeMount(s string) string { return mountEscapes.Replace(s) }

// RemoveSocketLinks takes away the links by which nodes with a long data dir give their sockets a short path (package
// kubelet/container).
func RemoveSocketLinks(dir string) error {
	links, _ := filepath.Glob("/run/mini/*") // only a malformed pattern is an error
	var errs []error
	for _, link := range links {
		to, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(to, dir+"/") {
			continue
		}
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	_ = os.Remove("/run/mini") // only if no other node has a link there
	return errors.Join(errs...)
}
