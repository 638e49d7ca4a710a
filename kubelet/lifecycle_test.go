// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/kubelet/container"
)

// bubble runs a test in a synctest bubble with a rig.
func bubble(t *testing.T, f func(t *testing.T, r *rig)) {
	synctest.Test(t, func(t *testing.T) { f(t, newRig(t)) })
}

func TestCrashLoop(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		r.create(testPod("p"))
		first := r.container("p", "c")
		r.rt.Exit(first.ID, 3)
		synctest.Wait()
		// The first restart is at once.
		second := r.container("p", "c")
		if second.Attempt != 1 || second.State != container.Running {
			t.Fatalf("second attempt %+v", second)
		}
		cs := r.get("p").Status.ContainerStatuses[0]
		if cs.RestartCount != 1 || cs.LastTerminationState.Terminated == nil || cs.LastTerminationState.Terminated.ExitCode != 3 || cs.LastTerminationState.Terminated.Reason != "Error" {
			t.Errorf("status %+v", cs)
		}
		// Then 10 s, doubling, at most 5 min.
		for i, d := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
			r.rt.Exit(r.container("p", "c").ID, 3)
			synctest.Wait()
			cs := r.get("p").Status.ContainerStatuses[0]
			if cs.State.Waiting == nil || cs.State.Waiting.Reason != "CrashLoopBackOff" {
				t.Fatalf("round %d: %+v", i, cs)
			}
			if want := "back-off " + (d * time.Second).String() + " restarting failed container=c pod=p_default(uid-p)"; cs.State.Waiting.Message != want {
				t.Errorf("message %q, want %q", cs.State.Waiting.Message, want)
			}
			if cond(r.get("p"), corev1.PodReady).Status != corev1.ConditionFalse || r.get("p").Status.Phase != corev1.PodRunning {
				t.Errorf("round %d: status %+v", i, r.get("p").Status)
			}
			after(d*time.Second - time.Second)
			if got := r.container("p", "c").Attempt; got != uint32(i+1) {
				t.Fatalf("round %d: started early", i)
			}
			after(2 * time.Second)
			if got := r.container("p", "c").Attempt; got != uint32(i+2) {
				t.Fatalf("round %d: attempt %d", i, got)
			}
		}
		// Ten minutes of running forgive.
		after(11 * time.Minute)
		n := r.container("p", "c").Attempt
		r.rt.Exit(r.container("p", "c").ID, 3)
		synctest.Wait()
		if r.container("p", "c").Attempt != n+1 {
			t.Errorf("back-off was not reset")
		}
		if !r.events.has("BackOff: Back-off restarting failed container c in pod p_default(uid-p)") {
			t.Errorf("no BackOff event")
		}
		// Dead attempts are kept only as far as logs and lastState need them.
		_, cs2, _ := r.rt.List(context.Background())
		if len(cs2) > 2 {
			t.Errorf("%d containers kept", len(cs2))
		}
	})
}

func TestRestartPolicies(t *testing.T) {
	for _, tt := range []struct {
		policy corev1.RestartPolicy
		code   int32
		phase  corev1.PodPhase
		again  bool
	}{
		{corev1.RestartPolicyNever, 0, corev1.PodSucceeded, false},
		{corev1.RestartPolicyNever, 1, corev1.PodFailed, false},
		{corev1.RestartPolicyOnFailure, 0, corev1.PodSucceeded, false},
		{corev1.RestartPolicyOnFailure, 1, corev1.PodRunning, true},
		{corev1.RestartPolicyAlways, 0, corev1.PodRunning, true},
	} {
		t.Run(string(tt.policy), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.run()
				p := testPod("p")
				p.Spec.RestartPolicy = tt.policy
				r.create(p)
				r.rt.Exit(r.container("p", "c").ID, tt.code)
				synctest.Wait()
				got := r.get("p")
				if got.Status.Phase != tt.phase || (r.container("p", "c").Attempt == 1) != tt.again {
					t.Errorf("exit %d: phase %s, attempt %d", tt.code, got.Status.Phase, r.container("p", "c").Attempt)
				}
				if tt.phase == corev1.PodSucceeded && (cond(got, corev1.PodReady).Reason != "PodCompleted" || got.Status.ContainerStatuses[0].State.Terminated.Reason != "Completed") {
					t.Errorf("status %+v", got.Status)
				}
				if !tt.again {
					sb, _, _ := r.rt.List(context.Background())
					if sb[0].State != container.Exited {
						t.Error("the sandbox of an ended pod still runs")
					}
				}
			})
		})
	}
}

func TestInitContainers(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		p := testPod("p")
		p.Spec.InitContainers = []corev1.Container{{Name: "i1", Image: "app:1"}, {Name: "i2", Image: "app:1"}}
		r.create(p)
		st := r.get("p").Status
		if st.Phase != corev1.PodPending || st.ContainerStatuses[0].State.Waiting.Reason != "PodInitializing" || cond(r.get("p"), corev1.PodInitialized).Message != "containers with incomplete status: [i1 i2]" {
			t.Fatalf("status %+v", st)
		}
		if _, ok := r.rt.Find("p", "i2"); ok {
			t.Fatal("i2 did not wait for i1")
		}
		r.rt.Exit(r.container("p", "i1").ID, 1)
		synctest.Wait()
		r.rt.Exit(r.container("p", "i1").ID, 0)
		synctest.Wait()
		if r.container("p", "i1").Attempt != 1 {
			t.Fatal("i1 was not tried again")
		}
		r.rt.Exit(r.container("p", "i2").ID, 0)
		synctest.Wait()
		st = r.get("p").Status
		if st.Phase != corev1.PodRunning || !st.InitContainerStatuses[1].Ready || st.InitContainerStatuses[0].RestartCount != 1 || cond(r.get("p"), corev1.PodInitialized).Status != corev1.ConditionTrue {
			t.Fatalf("status %+v", st)
		}
	})
}

func TestInitContainerFails(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		p := testPod("p")
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.InitContainers = []corev1.Container{{Name: "i1", Image: "app:1"}}
		r.create(p)
		r.rt.Exit(r.container("p", "i1").ID, 1)
		synctest.Wait()
		if st := r.get("p").Status; st.Phase != corev1.PodFailed {
			t.Fatalf("status %+v", st)
		}
		if _, ok := r.rt.Find("p", "c"); ok {
			t.Fatal("c was started")
		}
	})
}

func TestSidecars(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		always := corev1.ContainerRestartPolicyAlways
		p := testPod("p")
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.InitContainers = []corev1.Container{
			{Name: "s1", Image: "app:1", RestartPolicy: &always}, {Name: "i", Image: "app:1"}, {Name: "s2", Image: "app:1", RestartPolicy: &always}}
		r.create(p)
		r.rt.Exit(r.container("p", "i").ID, 0)
		synctest.Wait()
		if st := r.get("p").Status; st.Phase != corev1.PodRunning || !st.InitContainerStatuses[0].Ready {
			t.Fatalf("status %+v", st)
		}
		// A sidecar that ends is started again, whatever the pod's policy.
		r.rt.Exit(r.container("p", "s1").ID, 0)
		synctest.Wait()
		if r.container("p", "s1").Attempt != 1 {
			t.Fatal("sidecar was not restarted")
		}
		// The app's end ends the pod; sidecars go last, in reverse order.
		r.rt.Exit(r.container("p", "c").ID, 0)
		synctest.Wait()
		if st := r.get("p").Status; st.Phase != corev1.PodSucceeded {
			t.Fatalf("status %+v; calls %q", st, r.rt.Calls())
		}
		var stops []string
		for _, c := range r.rt.Calls() {
			if id, ok := strings.CutPrefix(c, "StopContainer "); ok {
				stops = append(stops, id)
			}
		}
		if want := []string{r.container("p", "s2").ID, r.container("p", "s1").ID}; !slices.Equal(stops, want) {
			t.Errorf("stopped %v, want %v", stops, want)
		}
	})
}

func TestGracefulDeletion(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.rt.IgnoreTerm = func(string) bool { return true }
		r.run()
		p := testPod("p")
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 3}}}
		r.create(p)
		began := time.Now()
		r.markDeleted("p", 20)
		after(19 * time.Second)
		if !r.exists("p") || r.container("p", "c").State != container.Running {
			t.Fatal("killed before its grace ended")
		}
		after(2 * time.Second)
		if r.exists("p") {
			t.Fatalf("not gone after %v: %+v", time.Since(began), r.get("p").Status)
		}
	})
}

func TestForceDeletionCutsGrace(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.rt.IgnoreTerm = func(string) bool { return true }
		r.run()
		r.create(testPod("p"))
		r.markDeleted("p", 600)
		after(5 * time.Second)
		if err := r.cs.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("pods"), "default", "p"); err != nil {
			t.Fatal(err)
		}
		// The API has let go: the object's own 600 s no longer bind, but a pod removed keeps the grace it was given.
		after(601 * time.Second)
		if sb, cs, _ := r.rt.List(context.Background()); len(sb)+len(cs) != 0 {
			t.Errorf("left %v %v", sb, cs)
		}
	})
}

func TestShorterGrace(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.rt.IgnoreTerm = func(string) bool { return true }
		r.run()
		r.create(testPod("p"))
		r.markDeleted("p", 600)
		after(5 * time.Second)
		r.markDeleted("p", 2)
		after(3 * time.Second)
		if r.exists("p") {
			t.Error("a second delete with a shorter grace did not shorten it")
		}
	})
}

func TestImagePull(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var broken atomic.Bool
		broken.Store(true)
		r.images.OnPull = func(ref string, _ []container.Credentials) error {
			if broken.Load() {
				return errors.New("no such host")
			}
			return nil
		}
		r.run()
		p := testPod("p")
		p.Spec.Containers[0].Image = "example.test/x:1"
		r.create(p)
		w := r.get("p").Status.ContainerStatuses[0].State.Waiting
		if w == nil || w.Reason != "ErrImagePull" || w.Message != "no such host" {
			t.Fatalf("waiting %+v", w)
		}
		after(2 * time.Second)
		if w := r.get("p").Status.ContainerStatuses[0].State.Waiting; w.Reason != "ImagePullBackOff" || !strings.HasPrefix(w.Message, `Back-off pulling image "example.test/x:1"`) {
			t.Fatalf("waiting %+v", w)
		}
		if n := len(r.images.Pulls()); n != 1 {
			t.Fatalf("%d pulls during the back-off", n)
		}
		broken.Store(false)
		after(11 * time.Second)
		if ph := r.get("p").Status.Phase; ph != corev1.PodRunning {
			t.Fatalf("phase %s after the registry came back; %+v", ph, r.get("p").Status.ContainerStatuses)
		}
		for _, e := range []string{`Pulling: Pulling image "example.test/x:1"`, `Failed: Failed to pull image "example.test/x:1": no such host`, "Failed: Error: ErrImagePull",
			`BackOff: Back-off pulling image "example.test/x:1"`, "Failed: Error: ImagePullBackOff", `Pulled: Successfully pulled image "example.test/x:1" in `} {
			if !r.events.has(e) {
				t.Errorf("no event %q in %q", e, r.events.all)
			}
		}
	})
}

// TestImageVolumePull holds up the container that mounts an image which cannot be had, and only that.
func TestImageVolumePull(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var broken atomic.Bool
		broken.Store(true)
		r.images.OnPull = func(ref string, creds []container.Credentials) error {
			if broken.Load() {
				return errors.New("no such host")
			}
			return nil
		}
		r.run()
		p := testPod("p")
		p.Spec.Volumes = []corev1.Volume{
			{Name: "v", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "example.test/data:1", PullPolicy: corev1.PullIfNotPresent}}},
			{Name: "w", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "app:1", PullPolicy: corev1.PullNever}}},
		}
		other := *p.Spec.Containers[0].DeepCopy()
		other.Name = "other"
		other.VolumeMounts = []corev1.VolumeMount{{Name: "w", MountPath: "/w"}}
		p.Spec.Containers = append([]corev1.Container{other}, p.Spec.Containers...)
		p.Spec.Containers[1].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v", SubPath: "a/b"}}
		r.create(p)
		mounts := func(name string) (out []container.Mount) {
			c, ok := r.rt.Find("p", name)
			if !ok {
				t.Fatalf("no container %s", name)
			}
			for _, m := range r.rt.Config(c.ID).Mounts {
				if m.Image != "" {
					out = append(out, m)
				}
			}
			return out
		}
		st := r.get("p").Status.ContainerStatuses
		if st[0].State.Running == nil || st[1].State.Waiting == nil || st[1].State.Waiting.Reason != "ErrImagePull" || st[1].State.Waiting.Message != "no such host" {
			t.Fatalf("%+v", st)
		}
		if m := mounts("other"); len(m) != 1 || m[0].Image != "app:1" || m[0].ContainerPath != "/w" || !m[0].ReadOnly {
			t.Errorf("mounts %+v", m)
		}
		after(2 * time.Second)
		if w := r.get("p").Status.ContainerStatuses[1].State.Waiting; w == nil || w.Reason != "ImagePullBackOff" || !strings.HasPrefix(w.Message, `Back-off pulling image "example.test/data:1"`) {
			t.Fatalf("waiting %+v", w)
		}
		broken.Store(false)
		after(11 * time.Second)
		if st := r.get("p").Status; st.Phase != corev1.PodRunning {
			t.Fatalf("after the registry came back: %+v", st)
		}
		if m := mounts("c"); len(m) != 1 || m[0].Image != "example.test/data:1" || m[0].SubPath != "a/b" || m[0].HostPath != "" || !m[0].ReadOnly {
			t.Errorf("mounts %+v", m)
		}
		for _, e := range []string{`Pulling: Pulling image "example.test/data:1"`, `Failed: Failed to pull image "example.test/data:1": no such host`,
			"Failed: Error: ErrImagePull", "Failed: Error: ImagePullBackOff", `Pulled: Container image "app:1" already present on machine`} {
			if !r.events.has(e) {
				t.Errorf("no event %q in %q", e, r.events.all)
			}
		}
		used := r.k.imagesInUse()
		if !used["example.test/data:1"] {
			t.Errorf("in use: %v", used)
		}
	})
}

func TestRecursiveReadOnly(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		p := testPod("p")
		enabled := corev1.RecursiveReadOnlyEnabled
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/a", ReadOnly: true, RecursiveReadOnly: &enabled}, {Name: "v", MountPath: "/b", ReadOnly: true}}
		r.create(p)
		c, ok := r.rt.Find("p", "c")
		if !ok {
			t.Fatal("no container")
		}
		m := r.rt.Config(c.ID).Mounts
		if !m[0].RecursiveReadOnly || m[1].RecursiveReadOnly || !m[1].ReadOnly {
			t.Errorf("mounts %+v", m)
		}
		st := r.get("p").Status.ContainerStatuses[0].VolumeMounts
		if len(st) != 2 || *st[0].RecursiveReadOnly != corev1.RecursiveReadOnlyEnabled || *st[1].RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled {
			t.Errorf("status %+v", st)
		}
		for _, h := range r.k.runtimeHandlers() {
			if !*h.Features.RecursiveReadOnlyMounts {
				t.Errorf("handler %q", h.Name)
			}
		}
	})
}

func TestImageThatCannotBe(t *testing.T) {
	for image, want := range map[string]string{"absent:1": "ErrImageNeverPull", "BAD//name": "InvalidImageName"} {
		bubble(t, func(t *testing.T, r *rig) {
			r.run()
			p := testPod("p")
			p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = image, corev1.PullNever
			r.create(p)
			if w := r.get("p").Status.ContainerStatuses[0].State.Waiting; w == nil || w.Reason != want {
				t.Errorf("%s: waiting %+v, want %s", image, w, want)
			}
		})
	}
}

func TestProbes(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var mu sync.Mutex
		states := map[string]bool{"ready": true, "live": true, "started": false}
		set := func(name string, ok bool) {
			mu.Lock()
			defer mu.Unlock()
			states[name] = ok
		}
		r.rt.OnExec = func(_ string, cmd []string, _ container.Streams) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			if states[cmd[0]] {
				return 0, nil
			}
			return 1, nil
		}
		exec := func(name string, period, threshold int32) *corev1.Probe {
			return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{name}}}, PeriodSeconds: period, FailureThreshold: threshold, SuccessThreshold: 1, TimeoutSeconds: 1}
		}
		r.run()
		p := testPod("p")
		c := &p.Spec.Containers[0]
		c.StartupProbe, c.LivenessProbe, c.ReadinessProbe = exec("started", 2, 5), exec("live", 5, 2), exec("ready", 1, 1)
		r.create(p)
		after(3 * time.Second)
		if cs := r.get("p").Status.ContainerStatuses[0]; cs.Ready || *cs.Started || cs.State.Running == nil {
			t.Fatalf("ready before the startup probe passed: %+v", cs)
		}
		set("started", true)
		after(3 * time.Second)
		if cs := r.get("p").Status.ContainerStatuses[0]; !cs.Ready || !*cs.Started {
			t.Fatalf("not ready: %+v", cs)
		}
		set("ready", false)
		after(2 * time.Second)
		got := r.get("p")
		if cond(got, corev1.PodReady).Reason != "ContainersNotReady" || cond(got, corev1.PodReady).Message != "containers with unready status: [c]" {
			t.Fatalf("conditions %+v", got.Status.Conditions)
		}
		set("ready", true)
		set("live", false)
		after(11 * time.Second)
		if a := r.container("p", "c").Attempt; a != 1 {
			t.Fatalf("attempt %d after the liveness probe failed; events %q", a, r.events.all)
		}
		for _, e := range []string{"Unhealthy: Readiness probe failed", "Unhealthy: Liveness probe failed", "Killing: Container c failed liveness probe, will be restarted"} {
			if !r.events.has(e) {
				t.Errorf("no event %q in %q", e, r.events.all)
			}
		}
		r.markDeleted("p", 1)
		if n := r.k.probes.Len(); n != 0 {
			t.Errorf("%d probes left", n)
		}
	})
}

func TestEnvironmentAndVolumes(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		p := testPod("p")
		c := &p.Spec.Containers[0]
		c.Env = []corev1.EnvVar{{Name: "A", Value: "x"}, {Name: "B", Value: "$(A)-$(K)-$(NOPE)-$$(A)"},
			{Name: "K", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, Key: "k"}}},
			{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}}}
		c.Args = []string{"$(A)", "$(K)"}
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}}}
		c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/etc/v"}}
		r.create(p)
		after(20 * time.Second)
		if !r.events.has(`FailedMount: MountVolume.SetUp failed for volume "v" : configmaps "cm" not found`) {
			t.Fatalf("events %q", r.events.all)
		}
		if len(r.rt.Calls()) > 1 {
			t.Errorf("a sandbox was made before the volumes: %q", r.rt.Calls())
		}
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "cm", ResourceVersion: "1"}, Data: map[string]string{"k": "v1"}}
		if _, err := r.cs.CoreV1().ConfigMaps("default").Create(context.Background(), cm, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		cfg := r.rt.Config(r.container("p", "c").ID)
		for _, want := range []string{"A=x", "B=x-$(K)-$(NOPE)-$(A)", "K=v1", "HOSTNAME=p", "IP=198.51.100."} {
			if !slices.ContainsFunc(cfg.Env, func(s string) bool { return strings.HasPrefix(s, want) }) {
				t.Errorf("no %q in %q", want, cfg.Env)
			}
		}
		if !slices.Equal(cfg.Args, []string{"x", "v1"}) {
			t.Errorf("args %q", cfg.Args)
		}
		i := slices.IndexFunc(cfg.Mounts, func(m container.Mount) bool { return m.ContainerPath == "/etc/v" })
		file := filepath.Join(cfg.Mounts[i].HostPath, "k")
		if data, err := os.ReadFile(file); err != nil || string(data) != "v1" {
			t.Fatalf("%q, %v", data, err)
		}
		cm.Data["k"], cm.ResourceVersion = "v2", "2"
		if _, err := r.cs.CoreV1().ConfigMaps("default").Update(context.Background(), cm, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if data, err := os.ReadFile(file); err != nil || string(data) != "v2" {
			t.Errorf("the volume did not follow: %q, %v", data, err)
		}
		r.markDeleted("p", 1)
		if _, err := os.Stat(filepath.Join(r.cfg.DataDir, "kubelet", "pods", "uid-p")); !os.IsNotExist(err) {
			t.Errorf("pod directory left: %v", err)
		}
		if n := len(r.k.objects.Users(objectKeys(p)[0])); n != 0 {
			t.Errorf("%d users of the ConfigMap left", n)
		}
	})
}

func TestConfigErrorThenThere(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		p := testPod("p")
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "S", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Key: "k"}}}}
		r.create(p)
		w := r.get("p").Status.ContainerStatuses[0].State.Waiting
		if w == nil || w.Reason != "CreateContainerConfigError" || w.Message != `secrets "s" not found` {
			t.Fatalf("waiting %+v", w)
		}
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s", ResourceVersion: "5"}, Data: map[string][]byte{"k": []byte("v")}}
		if _, err := r.cs.CoreV1().Secrets("default").Create(context.Background(), s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // at once: the watch says so
		if r.get("p").Status.Phase != corev1.PodRunning {
			t.Errorf("status %+v", r.get("p").Status)
		}
	})
}

func TestActiveDeadline(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		p := testPod("p")
		d := int64(60)
		p.Spec.ActiveDeadlineSeconds = &d
		r.create(p)
		after(59 * time.Second)
		if r.get("p").Status.Phase != corev1.PodRunning {
			t.Fatal("ended early")
		}
		after(2 * time.Second)
		if st := r.get("p").Status; st.Phase != corev1.PodFailed || st.Reason != "DeadlineExceeded" {
			t.Errorf("status %+v", st)
		}
	})
}

func TestAdmission(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		p := testPod("p")
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10000")}
		r.create(p)
		st := r.get("p").Status
		if st.Phase != corev1.PodFailed || st.Reason != "OutOfcpu" || !strings.HasPrefix(st.Message, "Pod was rejected: Node didn't have enough resource: cpu, requested: 10000000, used: 0, capacity: ") {
			t.Errorf("status %+v", st)
		}
		q := testPod("q")
		q.Spec.NodeSelector = map[string]string{"disk": "ssd"}
		r.create(q)
		if st := r.get("q").Status; st.Phase != corev1.PodFailed || st.Reason != "NodeAffinity" {
			t.Errorf("status %+v", st)
		}
		for _, c := range r.rt.Calls() {
			if strings.HasPrefix(c, "RunSandbox") {
				t.Error("a rejected pod was run")
			}
		}
		r.markDeleted("p", 0)
		if r.exists("p") {
			t.Error("a rejected pod could not be deleted")
		}
	})
}

func TestHooks(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var fail atomic.Bool
		fail.Store(true)
		r.rt.OnExec = func(string, []string, container.Streams) (int, error) {
			if fail.Load() {
				return 2, nil
			}
			return 0, nil
		}
		r.run()
		p := testPod("p")
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}}
		r.create(p)
		if !r.events.has("FailedPostStartHook") {
			t.Fatalf("events %q", r.events.all)
		}
		fail.Store(false)
		after(15 * time.Second)
		if cs := r.get("p").Status.ContainerStatuses[0]; !cs.Ready || cs.RestartCount != 1 {
			t.Errorf("status %+v", cs)
		}
	})
}

func TestSandboxDies(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		r.create(testPod("p"))
		sb, _, _ := r.rt.List(context.Background())
		r.rt.KillSandbox(sb[0].ID)
		synctest.Wait()
		got := r.get("p")
		if c := r.container("p", "c"); c.SandboxID == sb[0].ID || c.State != container.Running || c.Attempt != 1 {
			t.Fatalf("container %+v; calls %q", c, r.rt.Calls())
		}
		if got.Status.PodIP == sb[0].IPs[0] || cond(got, corev1.PodReady).Status != corev1.ConditionTrue || len(got.Status.PodIPs) != 1 {
			t.Errorf("status %+v", got.Status)
		}
	})
}

// TestFaults fails one call of each method of the runtime: the pod must get there all the same, and leave nothing when it goes.
func TestFaults(t *testing.T) {
	for _, method := range []string{"RunSandbox", "CreateContainer", "StartContainer", "StopContainer", "StopSandbox", "RemoveSandbox", "List"} {
		t.Run(method, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.rt.Fail(method, errors.New("injected"), errors.New("injected again"))
				r.run()
				r.create(testPod("p"))
				after(time.Minute)
				if r.get("p").Status.Phase != corev1.PodRunning || cond(r.get("p"), corev1.PodReady).Status != corev1.ConditionTrue {
					t.Fatalf("status %+v; calls %q", r.get("p").Status, r.rt.Calls())
				}
				r.markDeleted("p", 5)
				after(2 * time.Minute)
				if r.exists("p") {
					t.Fatalf("not deleted; calls %q", r.rt.Calls())
				}
				after(time.Minute)
				if sb, cs, _ := r.rt.List(context.Background()); len(sb)+len(cs) != 0 {
					t.Errorf("left %v %v", sb, cs)
				}
			})
		})
	}
}

// TestRestart starts a second kubelet on what the first left, as after kill -9: nothing may be disturbed.
func TestRestart(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		p := testPod("p", corev1.Container{Name: "a", Image: "app:1"}, corev1.Container{Name: "b", Image: "app:2"})
		p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "app:1"}}
		r.create(p)
		r.rt.Exit(r.container("p", "i").ID, 0)
		synctest.Wait()
		r.rt.Exit(r.container("p", "a").ID, 1)
		synctest.Wait()
		r.create(testPod("gone"))
		before := r.get("p").Status
		sbBefore, csBefore, _ := r.rt.List(context.Background())
		r.stop()
		// While away: one pod is removed from the API, one is ended in the runtime.
		if err := r.cs.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("pods"), "default", "gone"); err != nil {
			t.Fatal(err)
		}
		after(time.Minute)
		calls := len(r.rt.Calls())
		r.run()
		after(time.Second)
		for _, c := range r.rt.Calls()[calls:] {
			if strings.HasPrefix(c, "RunSandbox") || strings.HasPrefix(c, "Create") || strings.HasPrefix(c, "StartContainer") {
				t.Errorf("call %q after the restart", c)
			}
		}
		got := r.get("p").Status
		if !equalStatus(before, got) {
			t.Errorf("status changed:\n%+v\n%+v", before, got)
		}
		after(time.Minute)
		sb, cs, _ := r.rt.List(context.Background())
		for _, c := range cs {
			if c.Pod.Name == "gone" {
				t.Errorf("orphan left: %+v", c)
			}
		}
		if len(sb) != len(sbBefore)-1 || len(cs) != len(csBefore)-1 {
			t.Errorf("%d sandboxes, %d containers; were %d, %d", len(sb), len(cs), len(sbBefore), len(csBefore))
		}
		// And it goes on from there: counts continue.
		r.rt.Exit(r.container("p", "a").ID, 1)
		after(11 * time.Second)
		if cs := r.get("p").Status.ContainerStatuses[0]; cs.RestartCount != 2 || cs.State.Running == nil {
			t.Errorf("after the restart: %+v", cs)
		}
	})
}

func TestExitWhileAway(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		p := testPod("p")
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		r.create(p)
		r.stop()
		r.rt.Exit(r.container("p", "c").ID, 7)
		r.run()
		after(time.Second)
		if st := r.get("p").Status; st.Phase != corev1.PodFailed || st.ContainerStatuses[0].State.Terminated.ExitCode != 7 {
			t.Errorf("status %+v", st)
		}
	})
}

func TestTerminationMessage(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.rt.OnStart = func(cfg container.ContainerConfig, id string) error {
			for _, m := range cfg.Mounts {
				if m.ContainerPath == "/dev/termination-log" {
					return os.WriteFile(m.HostPath, []byte("why"), 0)
				}
			}
			return nil
		}
		r.run()
		p := testPod("p")
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Containers[0].TerminationMessagePath = "/dev/termination-log"
		r.create(p)
		r.rt.OOM(r.container("p", "c").ID)
		synctest.Wait()
		term := r.get("p").Status.ContainerStatuses[0].State.Terminated
		if term == nil || term.Message != "why" || term.Reason != "OOMKilled" {
			t.Fatalf("terminated %+v", term)
		}
		// After a restart the volumes are gone, but the message must stay.
		r.stop()
		r.run()
		after(time.Second)
		if term := r.get("p").Status.ContainerStatuses[0].State.Terminated; term.Message != "why" {
			t.Errorf("after a restart: %+v", term)
		}
	})
}

func TestStartError(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.rt.OnStart = func(container.ContainerConfig, string) error { return errors.New(`exec: "nope": not found`) }
		r.run()
		r.create(testPod("p"))
		cs := r.get("p").Status.ContainerStatuses[0]
		if cs.State.Waiting == nil || cs.State.Waiting.Reason != "CrashLoopBackOff" && cs.State.Waiting.Reason != "RunContainerError" {
			t.Fatalf("status %+v", cs)
		}
		if l := cs.LastTerminationState.Terminated; l == nil || l.Reason != "StartError" || l.ExitCode != 128 || !strings.Contains(l.Message, "nope") {
			t.Errorf("last state %+v", l)
		}
	})
}
