package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// control reads a control file of the machine; dir is a cgroup's path.
func control(dir, file string) (string, error) {
	b, err := os.ReadFile(filepath.Join(unifiedMount, dir, file))
	return strings.TrimSpace(string(b)), err
}

// expect holds control files of one cgroup against what they must say.
func expect(dir string, want map[string]string) error {
	var errs []error
	for file, value := range want {
		if got, err := control(dir, file); err != nil {
			errs = append(errs, err)
		} else if got != value {
			errs = append(errs, fmt.Errorf("%s is %q, want %q", filepath.Join(dir, file), got, value))
		}
	}
	return errors.Join(errs...)
}

// expectInside holds control files as a pod's container sees them against what they must say, and shows them.
func expectInside(ctx context.Context, pod string, names []string, want ...string) error {
	line := "cd " + unifiedMount + " && /bin/busybox cat " + strings.Join(names, " ")
	out, err := shell(ctx, pod, line)
	if err != nil {
		return err
	}
	got := strings.Split(out, "\n")
	if !slices.Equal(got, want) {
		return fmt.Errorf("inside pod %s %v are %q, want %q", pod, names, got, want)
	}
	var shown []string
	for i, name := range names {
		shown = append(shown, name+" "+got[i])
	}
	say("    inside pod %s: %s", pod, strings.Join(shown, ", "))
	return nil
}

// counter reads one line of a control file with lines of a name and a number.
func counter(dir, file, name string) (uint64, error) {
	text, err := control(dir, file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if key, value, _ := strings.Cut(strings.TrimSpace(line), " "); key == name {
			return strconv.ParseUint(value, 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", filepath.Join(dir, file), name)
}

// gone is an error while there is such a cgroup.
func gone(dir string) error {
	if _, err := os.Stat(filepath.Join(unifiedMount, dir)); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cgroup %s is still there (%v)", dir, err)
	}
	return nil
}
