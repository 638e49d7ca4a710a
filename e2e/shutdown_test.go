package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mini-k8s/mini/e2e/scenario"
)

// endPods tell in a file of the node what happens to them when the node is shut down.
const endPods = `
apiVersion: v1
kind: Pod
metadata: {name: ordinary}
spec:
  containers:
  - name: c
    image: docker.io/mini/e2e:1
    command: [sh, -c, 'trap "echo ordinary-term >> /told/file; exit 0" TERM; echo up; while :; do sleep 0.1; done']
    lifecycle: {preStop: {exec: {command: [sh, -c, 'echo ordinary-prestop >> /told/file; sleep 1']}}}
    volumeMounts: [{name: told, mountPath: /told}]
  volumes: [{name: told, hostPath: {path: %[1]s}}]
---
apiVersion: v1
kind: Pod
metadata: {name: critical, namespace: kube-system}
spec:
  priorityClassName: system-node-critical
  containers:
  - name: c
    image: docker.io/mini/e2e:1
    command: [sh, -c, 'trap "echo critical-term >> /told/file; exit 0" TERM; echo up; while :; do sleep 0.1; done']
    volumeMounts: [{name: told, mountPath: /told}]
  volumes: [{name: told, hostPath: {path: %[1]s}}]
`

// TestStopPods: with --stop-pods SIGTERM ends a node's pods before mini ends, the critical ones last; the API knows of it, and after
// the next start controllers replace what was theirs and static pods run again. (Without the flag pods run on: TestKill, TestCleanup.)
func TestStopPods(t *testing.T) {
	dir := scenario.TempDir(t)
	told, manifests := filepath.Join(dir, "told"), filepath.Join(dir, "manifests")
	for _, d := range []string{told, manifests} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	static := "apiVersion: v1\nkind: Pod\nmetadata: {name: static}\nspec:\n  containers: [{name: c, image: 'docker.io/mini/e2e:1'}]\n"
	if err := os.WriteFile(filepath.Join(manifests, "static.yaml"), []byte(static), 0o644); err != nil {
		t.Fatal(err)
	}
	c := scenario.Start(t, scenario.Options{Dir: dir, NodeArgs: []string{"--stop-pods", "--pod-manifest-path", manifests}})
	c.Apply(fmt.Sprintf(endPods, told))
	c.Apply(fmt.Sprintf(web, 2))
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	c.Kubectl("wait", "--for=condition=Ready", "pod/ordinary", "--timeout=60s")
	c.Kubectl("wait", "--for=condition=Ready", "-n", "kube-system", "pod/critical", "--timeout=60s")
	c.Eventually(60*time.Second, func() error {
		_, err := c.TryKubectl(time.Minute, "wait", "--for=condition=Ready", "pod/static-server", "--timeout=60s")
		return err
	})
	// Their shells set the trap before they speak.
	c.Eventually(60*time.Second, func() error { return contains(c.Kubectl("logs", "ordinary"), "up") })
	c.Eventually(60*time.Second, func() error { return contains(c.Kubectl("logs", "-n", "kube-system", "critical"), "up") })
	was, _ := podsOf(t, c, "web")

	node := c.Nodes[0]
	if err := unix.Kill(node.PID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	scenario.Eventually(t, 90*time.Second, func() error {
		if node.Running() {
			return fmt.Errorf("mini (pid %d) has not ended", node.PID)
		}
		return nil
	})
	b, err := os.ReadFile(filepath.Join(told, "file"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Fields(string(b)), []string{"ordinary-prestop", "ordinary-term", "critical-term"}; !slices.Equal(got, want) {
		t.Errorf("the pods ended as %q, want %q", got, want)
	}
	if log, err := os.ReadFile(c.LogFile("server")); err != nil || !strings.Contains(string(log), "the pods of this node have ended") {
		t.Errorf("the log does not say that all pods have ended: %v", err)
	}

	if err := c.Cluster.Start(t.Context(), "server"); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	const form = `{.status.phase} {.status.reason}: {.status.message} {.status.conditions[?(@.type=="DisruptionTarget")].reason}`
	for _, p := range []string{"ordinary", "critical -n kube-system"} {
		out := c.Kubectl(append(strings.Fields("get pod "+p+" -o"), "jsonpath="+form)...)
		if want := "Failed Terminated: Pod was terminated in response to imminent node shutdown. TerminationByKubelet"; out != want {
			t.Errorf("%s: %q, want %q", p, out, want)
		}
	}
	c.Eventually(60*time.Second, func() error {
		return contains(c.Kubectl("get", "pod", "static-server", "-o", "jsonpath={.status.phase} {.status.reason}"), "Running ")
	})
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	c.Eventually(60*time.Second, func() error { return onNode(t, c, "server", 2) })
	out := c.Kubectl("get", "pods", "-l", "app=web", "--field-selector=status.phase=Running", "-o", "jsonpath={.items[*].metadata.name}")
	for _, name := range strings.Fields(out) {
		if slices.Contains(was, name) {
			t.Errorf("%s was ended and runs again", name)
		}
	}
}
