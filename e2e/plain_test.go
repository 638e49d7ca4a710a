package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/e2e/scenario"
	"github.com/mini-k8s/mini/kubelet/cgroup"
)

// TestPlainServer runs a server without a cgroup of its own, as people start it: pods are below kubepods in the root, as the
// kubelet's are everywhere. `mini cluster` gives each of its nodes another one.
func TestPlainServer(t *testing.T) {
	root, err := cgroup.New(cgroup.Config{})
	if err != nil {
		t.Fatal(err)
	}
	had := podCgroups(t, "")
	t.Cleanup(func() {
		if len(had) == 0 { // else it is somebody else's
			if err := root.Remove(); err != nil {
				t.Error(err)
			}
		}
	})
	c := scenario.Start(t, scenario.Options{ServerArgs: []string{"--cgroup-root="}})
	c.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: plain}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: "docker.io/mini/e2e:1", resources: {limits: {cpu: 100m, memory: 64Mi}}}`)
	c.Kubectl("wait", "--for=condition=Ready", "pod/plain", "--timeout=60s")
	pod, err := c.Client.CoreV1().Pods("default").Get(t.Context(), "plain", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if found := podCgroups(t, string(pod.UID)); len(found) == 0 {
		t.Errorf("no cgroup of pod %s below kubepods in the root", pod.UID)
	}
	c.Kubectl("delete", "pod/plain", "--timeout=60s")
	c.Eventually(60*time.Second, func() error {
		if left := podCgroups(t, string(pod.UID)); len(left) > 0 {
			return fmt.Errorf("cgroups left: %v", left)
		}
		return nil
	})
}

// podCgroups finds the cgroups of a pod below kubepods in the root, of every hierarchy; without a UID kubepods itself.
func podCgroups(t *testing.T, uid string) (found []string) {
	t.Helper()
	for _, hierarchy := range []string{"", "*"} {
		pattern := filepath.Join("/sys/fs/cgroup", hierarchy, "kubepods")
		if uid != "" {
			pattern = filepath.Join(pattern, "pod"+uid)
		}
		at, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range at {
			if _, err := os.Stat(dir); err == nil {
				found = append(found, dir)
			}
		}
	}
	return found
}
