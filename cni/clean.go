package cni

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mini-k8s/mini/internal/iptables"
)

// Clean removes everything that Node and the plugin have made on this node: links, addresses, routes, rules and files;
// sysctls get the values back that they had. It does not need that anything is there, nor that Run ever ran, and must not
// be called while it runs. Only DataDir, Bridge, BinDir and IPTables of cfg are used.
func Clean(ctx context.Context, cfg Config) error {
	if cfg.Bridge == "" {
		cfg.Bridge = DefaultBridge
	}
	if cfg.BinDir == "" {
		cfg.BinDir = filepath.Join(cfg.DataDir, "bin")
	}
	var errs []error
	attach := attacher{leases: leaseFile{cfg.DataDir}, ports: func(context.Context, []lease) error { return nil }}
	if cfg.DataDir != "" {
		errs = append(errs,
			newForeign(cfg, &attach).prune(ctx, func(string) bool { return false }),
			attach.prune(ctx, func(lease) bool { return false }))
	}
	for _, name := range []string{tunnelName, cfg.Bridge} {
		errs = append(errs, removeLink(name))
	}
	errs = append(errs, removeRoutes())
	cmd, err := iptables.Find(cfg.IPTables)
	switch {
	case err == nil:
		errs = append(errs, iptables.Clean(ctx, cmd, chainPrefix, "nat", "filter"))
	case !errors.Is(err, iptables.ErrNotInstalled): // without the command there never were rules
		errs = append(errs, err)
	}
	if cfg.DataDir != "" {
		errs = append(errs, sysctlRecord(cfg.DataDir).Restore())
		for _, name := range []string{"leases.json", "network.json", "lock", "attached"} {
			errs = append(errs, os.RemoveAll(filepath.Join(cfg.DataDir, name)))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the pod network: %w", err)
	}
	return nil
}

func removeRoutes() error {
	routes, err := ownRoutes()
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range routes {
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("delete route to %s: %w", r.Dst, err))
		}
	}
	return errors.Join(append(errs, syncRule(network{}))...)
}
