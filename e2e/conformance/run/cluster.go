package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// deleteTime bounds the removal of the cluster, which goes on after an interrupt.
const deleteTime = 2 * time.Minute

// withCluster calls fn with the kubeconfig of a new cluster, or of the one that the options name, and deletes what it made.
func withCluster(ctx context.Context, o options, fn func(kubeconfig string) error) (err error) {
	if o.kubeconfig != "" {
		return fn(o.kubeconfig)
	}
	dir, err := os.MkdirTemp("", "mini-conformance-")
	if err != nil {
		return err
	}
	kubeconfig := filepath.Join(o.out, "kubeconfig")
	mini := func(ctx context.Context, args ...string) error {
		cmd := exec.CommandContext(ctx, o.mini, append([]string{"cluster"}, args...)...)
		// The user's own kubeconfig stays as it is. Nodes inherit the interval: a test waits for a compaction.
		cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig, "MINI_ETCD_COMPACTION_INTERVAL=1m")
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.WaitDelay = 10 * time.Second
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("mini cluster %s: %w\n%s", args[0], err, bytes.TrimSpace(out.Bytes()))
		}
		os.Stdout.Write(out.Bytes())
		return nil
	}
	defer func() {
		err = errors.Join(err, keepLogs(filepath.Join(dir, o.cluster), o.out))
		if o.keep {
			fmt.Printf("the cluster is kept: KUBECONFIG=%s; %s cluster delete --cluster-dir %s %s\n", kubeconfig, o.mini, dir, o.cluster)
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteTime)
		defer cancel()
		err = errors.Join(err, mini(ctx, "delete", "--cluster-dir", dir, o.cluster))
		_ = os.Remove(dir) // empty, unless the cluster is not gone
	}()
	if err := mini(ctx, "create", "--cluster-dir", dir, "--agents", strconv.Itoa(o.agents), "--image", o.images, o.cluster); err != nil {
		return err
	}
	return fn(kubeconfig)
}

// keepLogs copies the nodes' logs out of the cluster's folder.
func keepLogs(from, to string) error {
	logs, err := filepath.Glob(filepath.Join(from, "*.log"))
	if err != nil {
		return err
	}
	var errs []error
	for _, log := range logs {
		b, err := os.ReadFile(log)
		errs = append(errs, err, os.WriteFile(filepath.Join(to, "node-"+filepath.Base(log)), b, 0o644))
	}
	return errors.Join(errs...)
}
