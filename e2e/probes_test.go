package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/e2e/scenario"
)

func TestProbes(t *testing.T) {
	c := scenario.Start(t, scenario.Options{})
	c.Apply(fmt.Sprintf(web, 2))
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	names, ips := podsOf(t, c, "web")
	vip := c.Kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")

	// A failing readiness takes the pod out of the VIP, and back in when it recovers.
	post(c, ips[0], "ready=false")
	c.Eventually(60*time.Second, func() error {
		for range 10 {
			out, err := c.Get("server", "http://"+vip)
			if err != nil || !strings.HasPrefix(out, names[1]+" ") {
				return fmt.Errorf("VIP answered %q, %v; want only %s", out, err, names[1])
			}
		}
		return nil
	})
	post(c, ips[0], "ready=true")
	meetsAll(c, "VIP after recovery", names, func() (string, error) { return c.Get("server", "http://"+vip) })

	// Each form of liveness probe restarts its container when it fails.
	for form, probe := range map[string]string{
		"http": "{httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, failureThreshold: 2}",
		"grpc": "{grpc: {port: 9091}, periodSeconds: 1, failureThreshold: 2}",
		"exec": "{exec: {command: [/testserver, get, 'http://127.0.0.1:8080/healthz']}, periodSeconds: 1, failureThreshold: 2}",
		"tcp":  "{tcpSocket: {port: 7}, initialDelaySeconds: 1, periodSeconds: 1, failureThreshold: 2}",
	} {
		c.Apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: live-%s}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: server, image: "docker.io/mini/e2e:1", livenessProbe: %s}`, form, probe))
	}
	for _, form := range []string{"http", "grpc", "exec", "tcp"} {
		name := "live-" + form
		if form != "tcp" { // nothing listens on port 7
			c.Kubectl("wait", "--for=condition=Ready", "pod/"+name, "--timeout=30s")
			post(c, podIP(t, c, name), "healthy=false")
		}
		c.Eventually(60*time.Second, func() error {
			p, err := c.Client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].RestartCount == 0 {
				return fmt.Errorf("%s was not restarted", name)
			}
			return nil
		})
	}

	// A startup probe holds the others back: this container would fail its liveness during its slow start.
	c.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: slow-start}
spec:
  containers:
  - name: server
    image: docker.io/mini/e2e:1
    env: [{name: START_DELAY, value: 4s}]
    startupProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, failureThreshold: 30}
    livenessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, failureThreshold: 1}`)
	c.Kubectl("wait", "--for=condition=Ready", "pod/slow-start", "--timeout=30s")
	p, err := c.Client.CoreV1().Pods("default").Get(t.Context(), "slow-start", metav1.GetOptions{})
	if err != nil || p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("slow-start restarted %d times (%v)", p.Status.ContainerStatuses[0].RestartCount, err)
	}
}

// post switches a test server's health, from inside the server node. A container without a readiness probe is ready before
// its program listens, so that is waited for.
func post(c *scenario.Cluster, ip, query string) {
	c.Eventually(60*time.Second, func() error {
		_, err := c.Get("server", "http://"+ip+":8080/set?"+query)
		return err
	})
}

func podIP(t *testing.T, c *scenario.Cluster, name string) string {
	t.Helper()
	p, err := c.Client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p.Status.PodIP
}

// containersOf maps every running container of the pods with label app to its restart count.
func containersOf(t *testing.T, c *scenario.Cluster, app string) map[string]int32 {
	t.Helper()
	list, err := c.Client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int32{}
	for _, p := range list.Items {
		for _, s := range p.Status.ContainerStatuses {
			out[p.Name+" "+s.ContainerID] = s.RestartCount
		}
	}
	return out
}

func nodeReady(t *testing.T, c *scenario.Cluster, name string) corev1.ConditionStatus {
	t.Helper()
	n, err := c.Client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, cond := range n.Status.Conditions {
		if cond.Type == corev1.NodeReady {
			return cond.Status
		}
	}
	return corev1.ConditionUnknown
}
