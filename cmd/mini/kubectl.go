package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/mini-k8s/mini/internal/helpers"
)

func kubectlCommand(s streams) *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl",
		Short:              "The real kubectl, for this node's cluster unless a kubeconfig is chosen",
		DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error {
			dir, err := os.UserCacheDir()
			if err != nil {
				dir = os.TempDir()
			}
			path, err := helpers.Unpack(filepath.Join(dir, "mini"), "kubectl")
			if err != nil {
				return err
			}
			cmd := exec.CommandContext(c.Context(), path, args...)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = s.in, s.out, s.err
			cmd.Env = append(os.Environ(), nodeKubeconfig()...)
			// kubectl gets the terminal's signals itself; only it knows what they mean for what it does.
			cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
			return cmd.Run()
		},
	}
}

// nodeKubeconfig points kubectl at the kubeconfig of this node's server where the user has none.
func nodeKubeconfig() []string {
	if os.Getenv("KUBECONFIG") != "" {
		return nil
	}
	if home, err := os.UserHomeDir(); err == nil {
		if _, err := os.Stat(filepath.Join(home, ".kube", "config")); !errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	own := filepath.Join(defaultDataDir, "kubeconfig")
	if _, err := os.Stat(own); err != nil {
		return nil
	}
	return []string{"KUBECONFIG=" + own}
}
