package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/mini-k8s/mini/internal/netns"
)

// Delete ends every process of the cluster and removes all that it made: cgroups, mounts, namespaces with their links,
// addresses and rules, files, and its context in the kubeconfig. It works on a half-made or half-removed cluster, and a
// second call continues where the first one failed.
func (c *Cluster) Delete(ctx context.Context) error {
	if err := c.StopAll(ctx); err != nil {
		return err
	}
	var errs []error
	for _, mount := range mountsBelow(c.dir) {
		if err := unix.Unmount(mount, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", mount, err))
		}
	}
	entries, _ := os.ReadDir(filepath.Join(c.dir, "netns"))
	for _, e := range entries {
		errs = append(errs, netns.Delete(filepath.Join(c.dir, "netns", e.Name())))
	}
	errs = append(errs, c.forgetContext())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("delete cluster %s: %w", c.Name, err)
	}
	if err := removeSocketLinks(c.dir); err != nil {
		return fmt.Errorf("delete cluster %s: %w", c.Name, err)
	}
	// Last, since cluster.json is what a second try starts from. Mounts are gone by now; that RemoveAll cannot wander into
	// a volume that failed to unmount is why the errors above end the call.
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("delete cluster %s: %w", c.Name, err)
	}
	return nil
}

// stopNodes stops the nodes' mini processes side by side.
func (c *Cluster) stopNodes(ctx context.Context) error {
	errs := make([]error, len(c.Nodes))
	var wg sync.WaitGroup
	for i, n := range c.Nodes {
		wg.Go(func() { errs[i] = c.Stop(ctx, n.Name) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// mountsBelow lists the mount points below dir, the latest first, so that each is unmounted before what it stands on.
func mountsBelow(dir string) []string {
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

// unescapeMount undoes the octal escapes of proc(5) for blanks and backslashes in mount points.
var mountEscapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

func unescapeMount(s string) string { return mountEscapes.Replace(s) }

// removeSocketLinks takes away the links by which nodes with a long data dir give their sockets a short path (package
// kubelet/container).
func removeSocketLinks(dir string) error {
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
