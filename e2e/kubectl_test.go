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

// TestKubectl does with unmodified kubectls what people do with them, and holds their output against what people know: the
// machine's (or $MINI_E2E_KUBECTL) and the one that mini holds, side by side on one cluster.
func TestKubectl(t *testing.T) {
	c := scenario.Start(t, scenario.Options{})
	tried := map[string]bool{}
	t.Run("kubectls", func(t *testing.T) {
		for _, path := range []string{scenario.KubectlPath(), scenario.EmbeddedKubectl()} {
			out, err := exec.Command(path, "version", "--client").CombinedOutput()
			version := regexp.MustCompile(`v1\.\d+`).FindString(string(out))
			if err != nil || version == "" {
				t.Fatalf("%s version --client: %v, said %q", path, err, out)
			}
			if tried[version] {
				continue
			}
			tried[version] = true
			t.Run(version, func(t *testing.T) {
				t.Parallel()
				kubectlTest{t, c.With(t, path, "with-"+strings.ReplaceAll(version, ".", "-"))}.run()
			})
		}
	})
}

// kubectlTest is one kubectl in a namespace of its own.
type kubectlTest struct {
	*testing.T
	c *scenario.Cluster
}

// says runs kubectl and wants it to succeed and to print what the expression matches.
func (k kubectlTest) says(want string, args ...string) {
	k.Helper()
	out, err := k.c.TryKubectl(time.Minute, args...)
	if err != nil || !regexp.MustCompile(want).Match(out) {
		k.Errorf("kubectl %s: %v, said:\n%s\nwant %s", strings.Join(args, " "), err, out, want)
	}
}

// shows is says for what a controller or an event brings about after the call that caused it has returned.
func (k kubectlTest) shows(want string, args ...string) {
	k.Helper()
	k.c.Eventually(30*time.Second, func() error {
		out, err := k.c.TryKubectl(time.Minute, args...)
		if err != nil || !regexp.MustCompile(want).Match(out) {
			return fmt.Errorf("kubectl %s: %v, said:\n%s\nwant %s", strings.Join(args, " "), err, out, want)
		}
		return nil
	})
}

// fails runs kubectl and wants it to fail and to print the text.
func (k kubectlTest) fails(want string, args ...string) {
	k.Helper()
	if out, err := k.c.TryKubectl(time.Minute, args...); err == nil || !strings.Contains(string(out), want) {
		k.Errorf("kubectl %s: %v, said:\n%s\nwant a failure with %q", strings.Join(args, " "), err, out, want)
	}
}

// applied is what is applied first and, changed, again.
const applied = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: e2e, image: "docker.io/mini/e2e:1", readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}}]
`

func (k kubectlTest) run() {
	manifest := writeManifest(k.T, applied)
	k.says("deployment.apps/web created", "apply", "-f", manifest)
	k.says("deployment.apps/web unchanged", "apply", "-f", manifest)
	k.says("successfully rolled out", "rollout", "status", "deployment/web", "--timeout=60s")
	k.shows(`(?m)^web +2/2 +2 +2 +\S+ +e2e +docker.io/mini/e2e:1 +app=web`, "get", "deployment", "web", "-o", "wide")
	pod := k.c.Kubectl("get", "pods", "-o", "jsonpath={.items[0].metadata.name}")
	namespace := k.c.Kubectl("get", "pod", pod, "-o", "jsonpath={.metadata.namespace}")
	k.shows(`(?m)^`+pod+` +1/1 +Running +0 +\S+ +10\.42\.\S+ +server +<none> +<none>$`, "get", "pod", pod, "-o", "wide")
	k.shows(`(?m)^server +Ready +<none> +\S+ +v1\.36\S+ +172\.31\.250\.1 +<none> +\S.* +containerd://`, "get", "nodes", "-o", "wide")
	k.shows(`(?s)Status: +Running.*Ready +True.*Successfully assigned `+namespace+`/`+pod+` to server.*Started container e2e`, "describe", "pod", pod)
	k.shows(`(?s)Replicas: +2 desired \| 2 updated \| 2 total \| 2 available.*ScalingReplicaSet`, "describe", "deployment", "web")
	k.shows(`(?s)Name: +server.*Ready +True.*`+pod, "describe", "node", "server")
	k.shows(`(?s)^apiVersion: v1\nkind: Pod.*phase: Running`, "get", "pod", pod, "-o", "yaml")

	k.says(`^hi\n$`, "exec", pod, "--", "echo", "hi")
	if out, err := k.c.TryKubectlInput(time.Minute, "through the pod", "exec", "-i", pod, "--", "cat"); err != nil || string(out) != "through the pod" {
		k.Errorf("exec -i: %v, said %q", err, out)
	}
	k.fails("exit code 7", "exec", pod, "--", "sh", "-c", "exit 7")
	k.terminal(pod)
	k.followLog(pod)
	k.portForward(pod)
	k.copyFile(pod)
	k.imageVolume()

	k.says("service/web exposed", "expose", "deployment/web", "--port=80", "--target-port=8080")
	k.shows(`(?s)Endpoints: +10\.42\.\d+\.\d+:8080,10\.42\.\d+\.\d+:8080`, "describe", "service", "web")
	k.says("deployment.apps/web scaled", "scale", "deployment/web", "--replicas=3")
	k.says("deployment.apps/web configured", "apply", "-f", writeManifest(k.T, strings.ReplaceAll(applied, scenario.Image, scenario.Image2)))
	k.says("successfully rolled out", "rollout", "status", "deployment/web", "--timeout=60s")
	k.shows("(?s)REVISION.*1 .*2 ", "rollout", "history", "deployment/web")
	k.says("rolled back", "rollout", "undo", "deployment/web")
	k.says("successfully rolled out", "rollout", "status", "deployment/web", "--timeout=60s")
	k.says("^"+regexp.QuoteMeta(scenario.Image)+"$", "get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}")

	k.says("FIELD: strategy <DeploymentStrategy>", "explain", "deployment.spec.strategy")
	k.says(`(?m)^deployments +deploy +apps/v1 +true +Deployment$`, "api-resources")
	k.says("^yes", "auth", "can-i", "delete", "pods")
	k.fails("no", "auth", "can-i", "delete", "pods", "--as=system:serviceaccount:default:default")
	k.says("serverside-applied", "apply", "--server-side", "-f", writeManifest(k.T, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ssa}\ndata: {a: b}"))
	for _, what := range []string{"nodes", "pods"} {
		k.fails("Metrics API not available", "top", what)
	}
	k.says("Server Version: v1.36", "version")
	k.says(`deployment.apps "web" deleted`, "delete", "deployment/web", "service/web", "--timeout=60s")
	k.fails(`deployments.apps "web" not found`, "get", "deployment", "web")
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
func (k kubectlTest) background(args ...string) *bufio.Scanner {
	k.Helper()
	ctx, cancel := context.WithTimeout(k.Context(), time.Minute)
	k.Cleanup(cancel)
	cmd := k.c.KubectlCommand(ctx, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		k.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		k.Fatal(err)
	}
	k.Cleanup(func() { cancel(); _ = cmd.Wait() })
	return bufio.NewScanner(out)
}

// followLog sees a line that is written while the log is being followed.
func (k kubectlTest) followLog(pod string) {
	k.Helper()
	lines := k.background("logs", "-f", pod)
	if !lines.Scan() || !strings.Contains(lines.Text(), "testserver "+pod) {
		k.Errorf("logs -f began with %q", lines.Text())
	}
	k.c.Kubectl("exec", pod, "--", "sh", "-c", "echo written later > /proc/1/fd/1")
	if !lines.Scan() || lines.Text() != "written later" {
		k.Errorf("logs -f went on with %q", lines.Text())
	}
}

// portForward calls the pod through kubectl, on a port that kubectl chooses.
func (k kubectlTest) portForward(pod string) {
	k.Helper()
	lines := k.background("port-forward", pod, ":8080")
	if !lines.Scan() {
		k.Error("port-forward said nothing")
		return
	}
	var port int
	if _, err := fmt.Sscanf(lines.Text(), "Forwarding from 127.0.0.1:%d -> 8080", &port); err != nil {
		k.Errorf("port-forward said %q", lines.Text())
		return
	}
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil {
		k.Error(err)
		return
	}
	defer resp.Body.Close()
	answer, _ := bufio.NewReader(resp.Body).ReadString('\n')
	if answer != pod+" 1\n" {
		k.Errorf("through port-forward: %q", answer)
	}
}

// copyFile brings a file into the pod and back.
func (k kubectlTest) copyFile(pod string) {
	k.Helper()
	file := filepath.Join(k.TempDir(), "file")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		k.Fatal(err)
	}
	k.c.Kubectl("cp", file, pod+":/tmp/there")
	k.c.Kubectl("cp", pod+":/tmp/there", file+".back")
	if b, err := os.ReadFile(file + ".back"); err != nil || string(b) != "content" {
		k.Errorf("cp brought %q back, %v", b, err)
	}
}
