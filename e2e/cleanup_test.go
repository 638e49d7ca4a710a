package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/mini-k8s/mini/e2e/scenario"
)

// TestCleanup: `mini cleanup` refuses to work on a node that runs; on one that was stopped it ends the pods and removes what the
// node made, and a mini that starts again begins as on a fresh machine, with the pods it should have.
func TestCleanup(t *testing.T) {
	c := scenario.Start(t, scenario.Options{})
	cleanup := func(more ...string) (string, error) {
		args := []string{scenario.Binary(), "cleanup", "--data-dir", c.DataDir("server"), "--cgroup-root", c.CgroupRoot("server")}
		out, err := c.InNode("server", time.Minute, append(args, more...)...)
		return string(out), err
	}
	c.Apply(fmt.Sprintf(web, 2))
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	if out, err := cleanup(); err == nil || !strings.Contains(out, "stop mini first") {
		t.Errorf("cleanup of a running node: %v, said %s", err, out)
	}
	if err := c.Stop(t.Context(), "server"); err != nil {
		t.Fatal(err)
	}
	if left := madeByNode(t, c); !strings.Contains(left, "pod") || !strings.Contains(left, "MINI-") || !strings.Contains(left, "pause") {
		t.Errorf("a node that was stopped should have pods, links and rules: %s", left)
	}
	if out, err := cleanup(); err != nil {
		t.Fatalf("cleanup: %v, said %s", err, out)
	}
	if left := madeByNode(t, c); left != "" {
		t.Errorf("left on the node:\n%s", left)
	}
	if out, err := cleanup(); err != nil {
		t.Errorf("a second cleanup: %v, said %s", err, out)
	}
	if err := c.Cluster.Start(t.Context(), "server"); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	names, _ := podsOf(t, c, "web")
	vip := c.Kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	meetsAll(c, "VIP after a new start", names, func() (string, error) { return c.Get("server", "http://"+vip) })

	if err := c.Stop(t.Context(), "server"); err != nil {
		t.Fatal(err)
	}
	if out, err := cleanup("--data"); err != nil {
		t.Errorf("cleanup --data: %v, said %s", err, out)
	}
	if _, err := os.Stat(c.DataDir("server")); err == nil {
		t.Error("the data dir is still there")
	}
}

// madeByNode names what a node has made: links, addresses, rules, mounts, pods' cgroups and processes.
func madeByNode(t *testing.T, c *scenario.Cluster) string {
	t.Helper()
	script := `ip -o link | grep -E 'pod|mini'; ip -o addr show dev lo | grep 10.43; ip route show table all | grep -E 'proto (109|110)'
iptables-save | grep MINI-; grep ' ` + c.DataDir("server") + `/' /proc/self/mountinfo; ls -d /sys/fs/cgroup/*` + c.CgroupRoot("server") + `/kubepods 2>/dev/null
for p in $(cat /sys/fs/cgroup/*` + c.CgroupRoot("server") + `/kubepods/*/*/*/cgroup.procs 2>/dev/null | sort -u); do cat /proc/$p/comm; done
ls -l /proc/[0-9]*/exe 2>/dev/null | grep ` + c.DataDir("server") + `; true`
	out, err := c.InNode("server", 30*time.Second, "sh", "-c", script)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}
