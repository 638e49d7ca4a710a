package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/mini-k8s/mini/internal/leftovers"
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
	errs = append(errs, leftovers.UnmountBelow(c.dir))
	entries, _ := os.ReadDir(filepath.Join(c.dir, "netns"))
	for _, e := range entries {
		errs = append(errs, netns.Delete(filepath.Join(c.dir, "netns", e.Name())))
	}
	errs = append(errs, c.forgetContext())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("delete cluster %s: %w", c.Name, err)
	}
	if err := leftovers.RemoveSocketLinks(c.dir); err != nil {
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
