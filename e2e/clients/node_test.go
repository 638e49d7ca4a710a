//go:build clients

package clients

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/mini-k8s/mini/e2e/scenario"
)

func TestMain(m *testing.M) { os.Exit(scenario.Main(m)) }

// TestNode runs node/client.js, which says what it does.
func TestNode(t *testing.T) {
	c := scenario.Start(t, scenario.Options{Agents: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	node := exec.CommandContext(ctx, "node", "client.js", c.Kubeconfig())
	node.Dir, node.Stdout, node.Stderr = "node", os.Stdout, os.Stderr
	if err := node.Run(); err != nil {
		t.Fatalf("client.js: %v", err)
	}
}
