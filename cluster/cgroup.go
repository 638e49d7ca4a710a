package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/mini-k8s/mini/internal/leftovers"
)

// joinCgroup puts a process into a cgroup, which it makes. With v1 only in the trees that count what the node itself uses:
// the others (cpuset above all) would want settings first.
func joinCgroup(cgroup string, pid int) error {
	roots, err := leftovers.Hierarchies()
	if err != nil {
		return err
	}
	v1 := []string{"memory", "cpu", "cpuacct", "pids"}
	joined := false
	for _, root := range roots {
		if len(roots) > 1 && !slices.Contains(v1, filepath.Base(root)) {
			continue
		}
		dir := filepath.Join(root, cgroup)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
		joined = true
	}
	if !joined {
		return fmt.Errorf("no cgroup tree in %s to put the node into; `mini check` says what is missing", leftovers.CgroupMount)
	}
	return nil
}
