package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/e2e/scenario"
)

// web is a Deployment of the test server with one pod a node, and a NodePort Service.
const web = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: %d
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: server
        image: docker.io/mini/e2e:1
        ports: [{name: http, containerPort: 8080}, {name: echo, containerPort: 9090, protocol: UDP}]
        readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: http, nodePort: 30080}
  - {name: echo, port: 9090, targetPort: echo, protocol: UDP}
`

// podsOf returns the names and IPs of the pods with label app.
func podsOf(t *testing.T, c *scenario.Cluster, app string) (names, ips []string) {
	t.Helper()
	list, err := c.Client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			names, ips = append(names, p.Name), append(ips, p.Status.PodIP)
		}
	}
	return names, ips
}

// meetsAll calls until every pod has answered.
func meetsAll(c *scenario.Cluster, what string, pods []string, call func() (string, error)) {
	met := map[string]bool{}
	c.Eventually(60*time.Second, func() error {
		answer, err := call()
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		name, _, _ := strings.Cut(answer, " ")
		if !slices.Contains(pods, name) {
			return fmt.Errorf("%s: answered by %q, not one of %v", what, answer, pods)
		}
		if met[name] = true; len(met) < len(pods) {
			return fmt.Errorf("%s: only %v of %v answered", what, met, pods)
		}
		return nil
	})
}

func TestOneNode(t *testing.T) {
	c := scenario.Start(t, scenario.Options{})
	c.Apply(fmt.Sprintf(web, 2))
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	names, _ := podsOf(t, c, "web")
	ip := c.Kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	meetsAll(c, "ClusterIP from the node", names, func() (string, error) { return c.Get("server", "http://"+ip) })
	if log := c.Kubectl("logs", names[0]); !strings.Contains(log, "testserver "+names[0]+" version 1") {
		t.Errorf("log of %s: %q", names[0], log)
	}
	if out := c.Kubectl("exec", names[0], "--", "sh", "-c", "echo $HOSTNAME; id -u"); out != names[0]+"\n0\n" {
		t.Errorf("exec printed %q", out)
	}
}

func TestThreeNodes(t *testing.T) {
	meetEachOther(t, scenario.Start(t, scenario.Options{Agents: 2}))
}

// TestTunnel: the same where every node is on a subnet of its own, through VXLAN.
func TestTunnel(t *testing.T) {
	c := scenario.Start(t, scenario.Options{Agents: 2, Routed: true})
	meetEachOther(t, c)
	for _, n := range c.Nodes {
		out, err := c.InNode(n.Name, 10*time.Second, "ip", "-o", "route", "show", "dev", "mini.vxlan")
		if routes := strings.Count(string(out), " via 10.42."); err != nil || routes != 2 {
			t.Errorf("%s has %d routes to pods through the tunnel, want 2 (%v):\n%s", n.Name, routes, err, out)
		}
	}
}

// meetEachOther starts a pod on each of three nodes, and has everybody call everybody: pods, the Service by its address and its
// name, and node ports.
func meetEachOther(t *testing.T, c *scenario.Cluster) {
	t.Helper()
	c.Apply(fmt.Sprintf(web, 3))
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	names, ips := podsOf(t, c, "web")
	vip := c.Kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	inPod := func(pod, url string) (string, error) {
		out, err := c.TryKubectl(20*time.Second, "exec", pod, "--", "/testserver", "get", url)
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return strings.TrimSpace(string(out)), err
	}
	for _, from := range names {
		for i, to := range ips {
			// A node may hear of another's pods a moment after they are ready.
			c.Eventually(60*time.Second, func() error {
				if out, err := inPod(from, "http://"+to+":8080"); err != nil || out != names[i]+" 1" {
					return fmt.Errorf("pod %s to pod %s: %q, %w", from, names[i], out, err)
				}
				return nil
			})
		}
		// The pod's own address must arrive unchanged at the other pod.
		own, err := inPod(from, "http://"+ips[(slices.Index(names, from)+1)%3]+":8080/client")
		if err != nil || !strings.HasPrefix(own, ips[slices.Index(names, from)]+":") {
			t.Errorf("pod %s is seen as %q (%v), want its own address", from, own, err)
		}
		for _, url := range []string{"http://" + vip, "http://web", "http://web.default.svc.cluster.local"} {
			meetsAll(c, from+" to "+url, names, func() (string, error) { return inPod(from, url) })
		}
	}
	for _, n := range c.Nodes {
		meetsAll(c, "VIP from "+n.Name, names, func() (string, error) { return c.Get(n.Name, "http://"+vip) })
		for _, to := range c.Nodes {
			url := "http://" + to.IP.String() + ":30080"
			meetsAll(c, "NodePort of "+to.Name+" from "+n.Name, names, func() (string, error) { return c.Get(n.Name, url) })
		}
	}
}
