package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/e2e/scenario"
)

// TestJoin: what keeps an agent from joining is one clear line; it exits where waiting cannot help, and waits where it can.
func TestJoin(t *testing.T) {
	c := scenario.Start(t, scenario.Options{Agents: 1})
	if err := c.Stop(t.Context(), "agent-1"); err != nil { // its place is used by the agents of this test
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(c.DataDir("server"), "token"))
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(string(b))
	parts := strings.Split(token, ".")
	url := "https://" + c.Nodes[0].IP.String() + ":6443"
	args := func(join, token string) []string {
		return []string{"agent", "--join", join, "--token", token, "--data-dir", filepath.Join(c.Dir(), "other"), "--node-name", "other",
			"--node-ip", c.Nodes[1].IP.String(), "--cgroup-root", c.CgroupRoot("agent-1")}
	}
	for name, tt := range map[string]struct {
		token, want string
		code        int
	}{
		"wrong-secret": {strings.Join([]string{parts[0], parts[1], parts[2], "aaaaaaaaaaaaaaaa"}, "."), "the server does not accept the token: it is wrong, was deleted, or has expired", 1},
		"unknown-id":   {strings.Join([]string{parts[0], parts[1], "aaaaaa", parts[3]}, "."), "the server does not accept the token", 1},
		"wrong-ca":     {strings.Join([]string{parts[0], strings.Repeat("0", 64), parts[2], parts[3]}, "."), "the token is of another cluster, or something stands between", 1},
		"wrong-short":  {parts[2] + ".aaaaaaaaaaaaaaaa", "the server cannot prove that it knows the token's secret", 1},
		"no-token":     {"not a token", "--token", 2},
	} {
		out, err := c.InNode("agent-1", time.Minute, append([]string{scenario.Binary()}, args(url, tt.token)...)...)
		code := -1
		if exit, ok := err.(*exec.ExitError); ok {
			code = exit.ExitCode()
		}
		var about []string
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, tt.want) {
				about = append(about, line)
			}
		}
		if code != tt.code || len(about) != 1 || strings.Contains(string(out), tt.token) {
			t.Errorf("%s: exit code %d, want %d and one line with %q, without the token, of\n%s", name, code, tt.code, tt.want, out)
		}
	}

	// A server that is not there yet is waited for, and told once.
	if err := c.Stop(t.Context(), "server"); err != nil {
		t.Fatal(err)
	}
	agent := startIn(t, c, "agent-1", args(url, token)...)
	agent.wait("nothing answers there (connection refused): is the server running?")
	if err := c.Cluster.Start(t.Context(), "server"); err != nil {
		t.Fatal(err)
	}
	agent.wait("Joined the cluster")
	c.Eventually(60*time.Second, func() error {
		_, err := c.Client.CoreV1().Nodes().Get(t.Context(), "other", metav1.GetOptions{})
		return err
	})
	c.Kubectl("wait", "--for=condition=Ready", "node/other", "--timeout=60s")
	if n := strings.Count(agent.said(), "Cannot join yet"); n != 1 {
		t.Errorf("%d lines about waiting, want 1:\n%s", n, agent.said())
	}
	if code := agent.end(); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
}

// TestPortTaken: a port that somebody has is named, by the node that wants it and by the API.
func TestPortTaken(t *testing.T) {
	c := scenario.Start(t, scenario.Options{Agents: 1})
	if err := c.Stop(t.Context(), "agent-1"); err != nil {
		t.Fatal(err)
	}
	for _, port := range []string{"6443", "10250"} {
		var l net.Listener
		if err := c.Do("agent-1", func() (err error) { l, err = net.Listen("tcp4", ":"+port); return err }); err != nil {
			t.Fatal(err)
		}
		out, err := c.InNode("agent-1", time.Minute, scenario.Binary(), "server", "--data-dir", filepath.Join(c.Dir(), "other"),
			"--node-name", "other", "--node-ip", c.Nodes[1].IP.String(), "--cgroup-root", c.CgroupRoot("agent-1"))
		if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 1 || !strings.Contains(string(out), "port "+port+": taken by another program") {
			t.Errorf("server with port %s taken: %v, said %s", port, err, out)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	service := "apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {type: NodePort, ports: [{port: 80, nodePort: 30123}]}\n"
	c.Apply(fmt.Sprintf(service, "first"))
	out, err := c.TryKubectlInput(time.Minute, fmt.Sprintf(service, "second"), "create", "-f", "-")
	if err == nil || !strings.Contains(string(out), "Invalid value: 30123: provided port is already allocated") {
		t.Errorf("a node port twice: %v, said %s", err, out)
	}
	pod := `
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 1
  nodeSelector: {kubernetes.io/hostname: server}
  containers: [{name: c, image: "docker.io/mini/e2e:1", ports: [{containerPort: 8080, hostPort: 8123}]}]
`
	c.Apply(fmt.Sprintf(pod, "first"))
	c.Kubectl("wait", "--for=condition=Ready", "pod/first", "--timeout=60s")
	c.Apply(fmt.Sprintf(pod, "second"))
	c.Eventually(60*time.Second, func() error {
		return contains(c.Kubectl("describe", "pod", "second"), "1 node(s) didn't have free ports for the requested pod ports")
	})
	c.Kubectl("delete", "pod", "first", "--timeout=60s")
	c.Kubectl("wait", "--for=condition=Ready", "pod/second", "--timeout=60s")
	// Ready is when the program has started: it may not listen yet.
	c.Eventually(60*time.Second, func() error {
		_, err := c.Get("server", "http://"+c.Nodes[0].IP.String()+":8123")
		return err
	})
}

// program is a mini that runs in a node's network while a test goes on.
type program struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// startIn starts mini in a node's network; it ends with the test at the latest.
func startIn(t *testing.T, c *scenario.Cluster, node string, args ...string) *program {
	t.Helper()
	p := &program{t: t, log: filepath.Join(t.TempDir(), "log"), done: make(chan struct{})}
	out, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), scenario.Binary(), args...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	if err := c.Do(node, p.cmd.Start); err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); <-p.done })
	return p
}

func (p *program) said() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}

// wait waits until the program has said the text.
func (p *program) wait(text string) {
	p.t.Helper()
	scenario.Eventually(p.t, time.Minute, func() error {
		select {
		case <-p.done:
			p.t.Fatalf("it ended (%v):\n%s", p.cmd.ProcessState, p.said())
		default:
		}
		return contains(p.said(), text)
	})
}

// end ends the program as a person would, and returns its exit code.
func (p *program) end() int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(unix.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		p.t.Fatalf("it does not end:\n%s", p.said())
	}
	return p.cmd.ProcessState.ExitCode()
}
