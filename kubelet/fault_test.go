// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/mini-k8s/mini/kubelet/container"
)

// TestFaultsInPodStart makes each step of a pod's start fail once or several times: the pod comes up all the same, nothing is there twice, and
// after its end nothing is left.
func TestFaultsInPodStart(t *testing.T) {
	broken := errors.New("broken")
	for name, tc := range map[string]struct {
		inject   func(r *rig)
		restarts int32 // that really happened
	}{
		"nothing": {inject: func(*rig) {}},
		"image": {inject: func(r *rig) {
			left := 2
			r.images.OnPull = func(string, []container.Credentials) error {
				if left--; left >= 0 {
					return broken
				}
				return nil
			}
		}},
		"volume": {inject: func(r *rig) { // something lies where the pod's directory goes
			at := r.cfg.DataDir + "/kubelet/pods"
			if err := errors.Join(os.MkdirAll(at, 0o755), os.WriteFile(at+"/uid-p", nil, 0o644)); err != nil {
				r.t.Fatal(err)
			}
			time.AfterFunc(5*time.Second, func() { os.Remove(at + "/uid-p") })
		}},
		"sandbox":           {inject: func(r *rig) { r.rt.Fail("RunSandbox", broken, broken, broken) }},
		"create":            {inject: func(r *rig) { r.rt.Fail("CreateContainer", broken, broken) }},
		"start":             {inject: func(r *rig) { r.rt.Fail("StartContainer", broken) }, restarts: 1},
		"each_step_in_turn": {inject: func(r *rig) { r.rt.Fail("RunSandbox", broken); r.rt.Fail("CreateContainer", broken) }},
		"list_at_the_start": {inject: func(r *rig) { r.rt.Fail("List", broken, broken) }},
		"status_not_taken": {inject: func(r *rig) {
			left := 3
			r.cs.PrependReactor("patch", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
				left--
				return left >= 0, nil, broken
			})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				tc.inject(r)
				r.run()
				after(5 * time.Second)
				image := "app:1"
				if name == "image" {
					image = "pulled:1"
				}
				r.create(testPod("p", corev1.Container{Name: "c", Image: image}))
				after(5 * time.Minute)
				p := r.get("p")
				if p.Status.Phase != corev1.PodRunning || cond(p, corev1.PodReady).Status != corev1.ConditionTrue {
					t.Fatalf("%+v; calls %q", p.Status, r.rt.Calls())
				}
				if got := p.Status.ContainerStatuses[0].RestartCount; got != tc.restarts {
					t.Errorf("%d restarts are shown, want %d", got, tc.restarts)
				}
				sandboxes, containers, _ := r.rt.List(context.Background())
				running := 0
				for _, c := range containers {
					if c.State == container.Running {
						running++
					}
				}
				if len(sandboxes) != 1 || running != 1 || len(containers) != 1+int(tc.restarts) {
					t.Errorf("sandboxes %+v, containers %+v", sandboxes, containers)
				}
				r.markDeleted("p", 1)
				after(time.Minute)
				if sandboxes, containers, _ := r.rt.List(context.Background()); len(sandboxes)+len(containers) != 0 || r.exists("p") {
					t.Errorf("left %+v, %+v", sandboxes, containers)
				}
				if entries, err := os.ReadDir(r.k.podsDir()); err != nil || len(entries) != 0 {
					t.Errorf("left in the pods' folder: %v, %v", entries, err)
				}
				if entries, err := os.ReadDir(r.k.logsDir()); err != nil || len(entries) != 0 {
					t.Errorf("left in the logs' folder: %v, %v", entries, err)
				}
			})
		})
	}
}

// TestPowerLoss ends the kubelet, every container and every sandbox at once, and leaves a sandbox behind whose pod never came to know of it.
func TestPowerLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.run()
		for _, name := range []string{"a", "b"} {
			r.create(testPod(name))
		}
		after(time.Second)
		r.stop()
		sandboxes, containers, _ := r.rt.List(context.Background())
		for _, c := range containers {
			r.rt.Exit(c.ID, 137)
		}
		for _, s := range sandboxes {
			r.rt.KillSandbox(s.ID)
		}
		if _, err := r.rt.RunSandbox(context.Background(), container.SandboxConfig{Pod: testPod("never-heard-of")}); err != nil {
			t.Fatal(err)
		}
		r.run()
		after(5 * time.Minute)
		for _, name := range []string{"a", "b"} {
			p := r.get(name)
			if p.Status.Phase != corev1.PodRunning || cond(p, corev1.PodReady).Status != corev1.ConditionTrue || p.Status.ContainerStatuses[0].RestartCount != 1 {
				t.Errorf("%s: %+v", name, p.Status)
			}
		}
		alive := 0
		sandboxes, _, _ = r.rt.List(context.Background())
		for _, s := range sandboxes {
			if s.State == container.Running {
				alive++
			}
			if s.Pod.Name == "never-heard-of" {
				t.Errorf("left %+v", s)
			}
		}
		if alive != 2 {
			t.Errorf("%d sandboxes run: %+v", alive, sandboxes)
		}
	})
}
