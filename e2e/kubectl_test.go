package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/mini-k8s/mini/e2e/scenario"
)

// TestKubectl does with an unmodified kubectl what people do with it, and holds its output against what they know.
func TestKubectl(t *testing.T) {
	c := scenario.Start(t, scenario.Options{})
	says := func(want string, args ...string) {
		t.Helper()
		out, err := c.TryKubectl(time.Minute, args...)
		if err != nil || !regexp.MustCompile(want).Match(out) {
			t.Errorf("kubectl %s: %v, said:\n%s\nwant %s", strings.Join(args, " "), err, out, want)
		}
	}
	says("deployment.apps/web created", "create", "deployment", "web", "--image", scenario.Image, "--replicas=2")
	says("successfully rolled out", "rollout", "status", "deployment/web", "--timeout=60s")
	says(`(?m)^web +2/2 +2 +2 +\S+ +e2e +docker.io/mini/e2e:1 +app=web`, "get", "deployment", "web", "-o", "wide")
	pod := c.Kubectl("get", "pods", "-o", "jsonpath={.items[0].metadata.name}")
	says(`(?m)^`+pod+` +1/1 +Running +0 +\S+ +10\.42\.\S+ +server +<none> +<none>$`, "get", "pod", pod, "-o", "wide")
	says(`(?s)Status: +Running.*Ready +True.*Successfully assigned default/`+pod+` to server.*Started container e2e`, "describe", "pod", pod)
	says(`kind: Pod`, "get", "pod", pod, "-o", "yaml")

	says(`^hi\n$`, "exec", pod, "--", "echo", "hi")
	if out, err := c.TryKubectlInput(time.Minute, "through the pod", "exec", "-i", pod, "--", "cat"); err != nil || string(out) != "through the pod" {
		t.Errorf("exec -i: %v, said %q", err, out)
	}
	if out, err := c.TryKubectl(time.Minute, "exec", pod, "--", "sh", "-c", "exit 7"); err == nil || !strings.Contains(string(out), "exit code 7") {
		t.Errorf("exec of what fails: %v, said %q", err, out)
	}
	followLog(t, c, pod)
	portForward(t, c, pod)

	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Kubectl("cp", file, pod+":/tmp/there")
	c.Kubectl("cp", pod+":/tmp/there", file+".back")
	if b, err := os.ReadFile(file + ".back"); err != nil || string(b) != "content" {
		t.Errorf("cp brought %q back, %v", b, err)
	}

	says("service/web exposed", "expose", "deployment/web", "--port=80", "--target-port=8080")
	says("deployment.apps/web scaled", "scale", "deployment/web", "--replicas=3")
	says("image updated", "set", "image", "deployment/web", "e2e="+scenario.Image2)
	says("successfully rolled out", "rollout", "status", "deployment/web", "--timeout=60s")
	says("(?s)REVISION.*1 .*2 ", "rollout", "history", "deployment/web")
	says("rolled back", "rollout", "undo", "deployment/web")
	says("successfully rolled out", "rollout", "status", "deployment/web", "--timeout=60s")
	says("FIELD: strategy <DeploymentStrategy>", "explain", "deployment.spec.strategy")
	says(`(?m)^deployments +deploy +apps/v1 +true +Deployment$`, "api-resources")
	says("^yes", "auth", "can-i", "delete", "pods")
	says("serverside-applied", "apply", "--server-side", "-f", writeManifest(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ssa}\ndata: {a: b}"))
	for _, what := range []string{"nodes", "pods"} {
		if out, err := c.TryKubectl(time.Minute, "top", what); err == nil || !strings.Contains(string(out), "Metrics API not available") {
			t.Errorf("top %s: %v, said %q", what, err, out)
		}
	}
	says("Server Version: v1.36", "version")
	says(`deployment.apps "web" deleted`, "delete", "deployment/web", "service/web", "--timeout=60s")
}

func writeManifest(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// background starts kubectl and returns its output by lines; it ends with the test at the latest.
func background(t *testing.T, c *scenario.Cluster, args ...string) *bufio.Scanner {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, scenario.KubectlPath(), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	return bufio.NewScanner(out)
}

// followLog sees a line that is written while the log is being followed.
func followLog(t *testing.T, c *scenario.Cluster, pod string) {
	t.Helper()
	lines := background(t, c, "logs", "-f", pod)
	if !lines.Scan() || !strings.Contains(lines.Text(), "testserver "+pod) {
		t.Errorf("logs -f began with %q", lines.Text())
	}
	c.Kubectl("exec", pod, "--", "sh", "-c", "echo written later > /proc/1/fd/1")
	if !lines.Scan() || lines.Text() != "written later" {
		t.Errorf("logs -f went on with %q", lines.Text())
	}
}

// portForward calls the pod through kubectl, on a port that kubectl chooses.
func portForward(t *testing.T, c *scenario.Cluster, pod string) {
	t.Helper()
	lines := background(t, c, "port-forward", pod, ":8080")
	if !lines.Scan() {
		t.Error("port-forward said nothing")
		return
	}
	var port int
	if _, err := fmt.Sscanf(lines.Text(), "Forwarding from 127.0.0.1:%d -> 8080", &port); err != nil {
		t.Errorf("port-forward said %q", lines.Text())
		return
	}
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil {
		t.Error(err)
		return
	}
	defer resp.Body.Close()
	answer, _ := bufio.NewReader(resp.Body).ReadString('\n')
	if answer != pod+" 1\n" {
		t.Errorf("through port-forward: %q", answer)
	}
}
