package e2e

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/e2e/scenario"
)

// TestRollout: a client that calls the VIP without pause sees no failure while a Deployment rolls to a new image.
func TestRollout(t *testing.T) {
	c := scenario.Start(t, scenario.Options{Agents: 1})
	c.Apply(strings.Replace(fmt.Sprintf(web, 4), "      containers:\n      - name: server\n",
		"      containers:\n      - name: server\n        lifecycle: {preStop: {exec: {command: [sleep, '3']}}}\n", 1))
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	vip := c.Kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	traffic := c.StartTraffic("server", "http://"+vip, 2)
	c.Kubectl("set", "image", "deployment/web", "server="+scenario.Image2)
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=120s")
	// The old pods are still in their preStop; the calls go on until they are gone.
	c.Eventually(60*time.Second, func() error {
		list, err := c.Client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
		if err != nil {
			return err
		}
		if len(list.Items) != 4 {
			return fmt.Errorf("%d pods", len(list.Items))
		}
		return nil
	})
	traffic.End(t)
	if out := c.Kubectl("rollout", "history", "deployment/web"); !strings.Contains(out, "2") {
		t.Errorf("history:\n%s", out)
	}
	c.Kubectl("rollout", "undo", "deployment/web")
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=120s")
	if img := c.Kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}"); img != scenario.Image {
		t.Errorf("image after undo: %s", img)
	}
}

// TestNodeCutOff: the pods of a node that is cut off are replaced elsewhere and the VIP stops using them; the node comes back.
func TestNodeCutOff(t *testing.T) {
	c := scenario.Start(t, scenario.Options{Agents: 2})
	c.Apply(strings.Replace(fmt.Sprintf(web, 2), "    spec:\n      topologySpread",
		`    spec:
      nodeSelector: {role: worker}
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      topologySpread`, 1))
	c.Kubectl("patch", "deployment", "web", "--type=json", "-p", `[{"op":"remove","path":"/spec/template/spec/topologySpreadConstraints"}]`)
	c.Kubectl("label", "node", "agent-1", "agent-2", "role=worker")
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	c.Eventually(60*time.Second, func() error { return onNode(t, c, "agent-1", 1) })
	vip := c.Kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	if err := c.SetLink("agent-1", false); err != nil {
		t.Fatal(err)
	}
	c.Eventually(90*time.Second, func() error {
		if s := nodeReady(t, c, "agent-1"); s == corev1.ConditionTrue {
			return fmt.Errorf("agent-1 is still Ready=%s", s)
		}
		return onNode(t, c, "agent-2", 2)
	})
	for range 20 {
		if _, err := c.Get("server", "http://"+vip); err != nil {
			t.Errorf("VIP without agent-1: %v", err)
		}
	}
	if err := c.SetLink("agent-1", true); err != nil {
		t.Fatal(err)
	}
	c.Eventually(60*time.Second, func() error {
		if s := nodeReady(t, c, "agent-1"); s != corev1.ConditionTrue {
			return fmt.Errorf("agent-1 is Ready=%s", s)
		}
		return nil
	})
}

// onNode wants n running, ready pods of web on the node.
func onNode(t *testing.T, c *scenario.Cluster, node string, n int) error {
	list, err := c.Client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=web", FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return err
	}
	ready := 0
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].Ready {
			ready++
		}
	}
	if ready != n {
		return fmt.Errorf("%d ready pods on %s, want %d", ready, node, n)
	}
	return nil
}

// TestKill: after kill -9 of mini on an agent and on the server the containers run on with the same ids and restart counts,
// the VIP answers throughout, and no acknowledged write is lost.
func TestKill(t *testing.T) {
	c := scenario.Start(t, scenario.Options{Agents: 1})
	c.Apply(fmt.Sprintf(web, 2))
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	vip := c.Kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	before := containersOf(t, c, "web")
	traffic := c.StartTraffic("agent-1", "http://"+vip, 2)
	for i := range 200 {
		_, err := c.Client.CoreV1().ConfigMaps("default").Create(t.Context(),
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("write-%d", i)}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, node := range []string{"agent-1", "server"} {
		if err := c.Kill(t.Context(), node); err != nil {
			t.Fatal(err)
		}
		if err := c.Cluster.Start(t.Context(), node); err != nil {
			t.Fatal(err)
		}
	}
	c.Eventually(60*time.Second, func() error {
		list, err := c.Client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		have := 0
		for _, cm := range list.Items {
			if strings.HasPrefix(cm.Name, "write-") {
				have++
			}
		}
		if have != 200 {
			return fmt.Errorf("%d of 200 writes are there", have)
		}
		return nil
	})
	if err := c.WaitReady(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	// The nodes work again: a new pod starts on each, while the old ones were left alone.
	c.Kubectl("scale", "deployment/web", "--replicas=4")
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	after := containersOf(t, c, "web")
	maps.DeleteFunc(after, func(k string, _ int32) bool { _, old := before[k]; return !old })
	if !maps.Equal(before, after) {
		t.Errorf("containers and restarts before: %v\nafter: %v", before, after)
	}
	traffic.End(t)
}

// TestLeavesNothing: what pods used is given back while the node runs, and the rest with the cluster (Start checks that).
func TestLeavesNothing(t *testing.T) {
	c := scenario.Start(t, scenario.Options{})
	count := func() string {
		links, err := c.InNode("server", 10*time.Second, "sh", "-c", "ip -o link | grep -c veth; ls -d /sys/fs/cgroup/memory"+c.CgroupRoot("server")+"/kubepods/*/pod* /sys/fs/cgroup/memory"+c.CgroupRoot("server")+"/kubepods/pod* 2>/dev/null | wc -l; grep -c "+c.DataDir("server")+" /proc/self/mountinfo; iptables-save | grep -c 8765")
		if err != nil && len(links) == 0 {
			t.Fatal(err)
		}
		return string(links)
	}
	c.Apply(strings.ReplaceAll(fmt.Sprintf(web, 3), "{name: http, containerPort: 8080}", "{name: http, containerPort: 8080}") + `---
apiVersion: v1
kind: Pod
metadata: {name: ported}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: server, image: "docker.io/mini/e2e:1", ports: [{containerPort: 8080, hostPort: 8765}]}
  volumes: [{name: mem, emptyDir: {medium: Memory}}]`)
	c.Kubectl("wait", "--for=condition=Ready", "pod/ported", "--timeout=30s")
	// Without a readiness probe the pod is Ready when its program has started, not when it listens.
	c.Eventually(60*time.Second, func() error {
		_, err := c.Get("server", "http://"+c.Nodes[0].IP.String()+":8765")
		return err
	})
	c.Kubectl("delete", "deployment/web", "service/web", "pod/ported", "--timeout=60s")
	c.Kubectl("wait", "--for=delete", "pod", "-l", "app=web", "--timeout=60s")
	c.Eventually(60*time.Second, func() error {
		// One mount is the node's own: the tmpfs for containerd's state.
		if now, want := count(), "0\n0\n1\n0\n"; now != want {
			return fmt.Errorf("veths, pod cgroups, mounts, hostPort rules: %q, want %q", now, want)
		}
		return nil
	})
}
