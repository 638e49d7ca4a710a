package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/e2e/scenario"
	"github.com/mini-k8s/mini/internal/leftovers"
)

// losing are pods in every state in which a power loss may find one. Each start of restarted leaves a line in its volume, and
// its first one fails.
const losing = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: main, image: "docker.io/mini/e2e:1", readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {name: restarted}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: docker.io/mini/e2e:1
    command: [sh, -c, 'echo started >> /data/starts; [ $(wc -l < /data/starts) -gt 1 ] || exit 1; exec sleep 3600']
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: completed}
spec:
  restartPolicy: Never
  containers: [{name: main, image: "docker.io/mini/e2e:1", command: [sh, -c, "echo done"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: never}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "docker.io/mini/e2e:1", command: [sleep, "3600"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: halfway}
spec:
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 0
  containers:
  - {name: ended, image: "docker.io/mini/e2e:1", command: ["true"]}
  - {name: works, image: "docker.io/mini/e2e:1", command: [sleep, "3600"]}
`

// imageless can get a sandbox, and no container.
const imageless = `
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "docker.io/mini/nowhere:1", imagePullPolicy: Never}]
`

// TestPowerLoss: everything of a node ends at once, and what was in memory is gone. The node repairs itself: its pods run
// again on their volumes, what ended stays ended, and each container that died counts one restart and no other any.
func TestPowerLoss(t *testing.T) {
	c := scenario.Start(t, scenario.Options{})
	c.Apply(losing + "---" + fmt.Sprintf(imageless, "imageless"))
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	before := map[string]string{
		"web/main": "Running 0", "restarted/main": "Running 1", "completed/main": "Succeeded 0 Completed", "never/main": "Running 0",
		"halfway/ended": "Running 0 Completed", "halfway/works": "Running 0", "imageless/main": "Pending 0 ErrImageNeverPull",
	}
	c.Eventually(60*time.Second, func() error { return podsAre(t, c, before) })

	sandboxes := sandboxesOf(t, c)
	c.Apply(fmt.Sprintf(imageless, "half"))
	c.Eventually(30*time.Second, func() error {
		if sandboxesOf(t, c) == sandboxes {
			return errors.New("no sandbox is begun")
		}
		return nil
	})
	losePower(t, c, "server")
	if err := c.Cluster.Start(t.Context(), "server"); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	after := map[string]string{
		"web/main": "Running 1", "restarted/main": "Running 2", "completed/main": "Succeeded 0 Completed", "never/main": "Failed 0",
		"halfway/ended": "Running 0 Completed", "halfway/works": "Running 1", "imageless/main": "Pending 0 ErrImageNeverPull",
		"half/main": "Pending 0 ErrImageNeverPull",
	}
	c.Eventually(90*time.Second, func() error { return podsAre(t, c, after) })
	if starts := c.Kubectl("exec", "restarted", "--", "cat", "/data/starts"); starts != "started\nstarted\nstarted\n" {
		t.Errorf("in the volume: %q", starts)
	}
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	names, ips := podsOf(t, c, "web")
	if out := c.Kubectl("exec", names[0], "--", "/testserver", "get", "http://"+ips[1]+":8080"); !strings.HasPrefix(out, names[1]) {
		t.Errorf("pod %s to pod %s: %q", names[0], names[1], out)
	}
	leavesNothing(t, c)
}

// podsAre compares what the containers of the pods show: phase, restarts, and why one does not run. The pods of a Deployment
// go by its name.
func podsAre(t *testing.T, c *scenario.Cluster, want map[string]string) error {
	list, err := c.Client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, p := range list.Items {
		name := p.Name
		if app := p.Labels["app"]; app != "" {
			name = app
		}
		for _, s := range p.Status.ContainerStatuses {
			key := name + "/" + s.Name
			is := fmt.Sprintf("%s %d", p.Status.Phase, s.RestartCount)
			switch {
			case s.State.Waiting != nil:
				is += " " + s.State.Waiting.Reason
			case s.State.Terminated != nil && s.State.Terminated.ExitCode == 0:
				is += " " + s.State.Terminated.Reason
			case s.State.Terminated == nil && !s.Ready:
				is += " not ready"
			}
			if seen[key] = true; is != want[key] {
				return fmt.Errorf("%s is %q, want %q", key, is, want[key])
			}
		}
	}
	if len(seen) != len(want) {
		return fmt.Errorf("only %d of %d containers have a status", len(seen), len(want))
	}
	return nil
}

// sandboxesOf counts network namespaces: one is made early in the life of a sandbox.
func sandboxesOf(t *testing.T, c *scenario.Cluster) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(c.DataDir("server"), "agent/containerd/netns"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // it comes with the first
		t.Fatal(err)
	}
	return len(entries)
}

// losePower ends all that runs on a node and takes away what a machine that is switched off forgets: mounts, links, rules.
// The databases' note of the boot becomes that of another.
func losePower(t *testing.T, c *scenario.Cluster, node string) {
	t.Helper()
	dir := c.DataDir(node)
	err := errors.Join(
		c.Kill(t.Context(), node), leftovers.ClearCgroup(c.CgroupRoot(node)), leftovers.UnmountBelow(dir),
		os.WriteFile(filepath.Join(dir, "agent/containerd/root/boot"), []byte("another boot"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.InNode(node, 20*time.Second, "sh", "-c", `
		for link in $(ip -o link | sed -n 's/^[0-9]*: \([^:@]*\).*/\1/p'); do
			case $link in lo|eth*) ;; *) ip link del $link 2>/dev/null;; esac
		done
		for table in nat filter mangle; do iptables -t $table -F && iptables -t $table -X || exit 1; done`)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// leavesNothing deletes all pods and looks for what stays of them.
func leavesNothing(t *testing.T, c *scenario.Cluster) {
	t.Helper()
	c.Kubectl("delete", "deployment,pod", "--all", "--timeout=60s")
	c.Eventually(60*time.Second, func() error {
		list, err := c.Client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(list.Items) > 0 {
			return fmt.Errorf("%d pods", len(list.Items))
		}
		links, err := c.InNode("server", 10*time.Second, "sh", "-c", "ip -o link | grep -c veth; true")
		if err != nil {
			return err
		}
		dir := c.DataDir("server")
		left := []string{"veths " + strings.TrimSpace(string(links))}
		for _, pattern := range []string{
			dir + "/agent/containerd/netns/*", dir + "/agent/containerd/shm/*", dir + "/agent/containerd/mounts/*", dir + "/agent/containerd/s/log-*",
			dir + "/agent/containerd/state/runc/k8s.io/*", dir + "/agent/containerd/state/io.containerd.runtime.v2.task/k8s.io/*",
			"/sys/fs/cgroup/*" + c.CgroupRoot("server") + "/kubepods/pod*", "/sys/fs/cgroup/*" + c.CgroupRoot("server") + "/kubepods/*/pod*",
		} {
			found, err := filepath.Glob(pattern)
			if err != nil {
				return err
			}
			left = append(left, found...)
		}
		for _, m := range leftovers.MountsBelow(dir) {
			if !strings.HasSuffix(m, "/agent/containerd/state") { // the node's own
				left = append(left, m)
			}
		}
		commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, file := range commands {
			command, _ := os.ReadFile(file)
			if strings.Contains(string(command), "containerd-shim") && strings.Contains(string(command), dir) {
				left = append(left, "shim "+strings.ReplaceAll(string(command), "\x00", " "))
			}
		}
		if now := strings.Join(left, "\n"); now != "veths 0" {
			return fmt.Errorf("left behind:\n%s", now)
		}
		return nil
	})
}
