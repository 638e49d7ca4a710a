// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/kubelet/container"
	"github.com/mini-k8s/mini/kubelet/eviction"
)

var roomy = eviction.Reading{Memory: eviction.Amount{Available: 4 << 30, Total: 8 << 30}, Disk: eviction.Amount{Available: 50 << 30, Total: 100 << 30}}

// withReading starts the rig's kubelet on a node whose state the test sets.
func (r *rig) withReading() *atomic.Pointer[eviction.Reading] {
	var now atomic.Pointer[eviction.Reading]
	fine := roomy
	now.Store(&fine)
	r.cfg.Reading = func() eviction.Reading { return *now.Load() }
	r.run()
	return &now
}

func (r *rig) condition(t corev1.NodeConditionType) corev1.ConditionStatus {
	r.t.Helper()
	n, err := r.cs.CoreV1().Nodes().Get(context.Background(), "n1", metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, c := range n.Status.Conditions {
		if c.Type == t {
			return c.Status
		}
	}
	return ""
}

func TestEviction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		reading := r.withReading()
		kept := testPod("kept", corev1.Container{Name: "c", Image: "app:1", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Mi")}}})
		priority := int32(10)
		kept.Spec.Priority = &priority
		r.create(kept)
		r.create(testPod("victim"))
		after(time.Second)
		low := roomy
		low.Memory.Available = 50 << 20
		reading.Store(&low)
		after(guardInterval)
		reading.Store(&roomy)
		after(time.Minute)
		p := r.get("victim")
		if p.Status.Phase != corev1.PodFailed || p.Status.Reason != "Evicted" || !strings.HasPrefix(p.Status.Message, "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. ") {
			t.Errorf("%+v", p.Status)
		}
		if c := cond(p, corev1.DisruptionTarget); c.Status != corev1.ConditionTrue || c.Reason != corev1.PodReasonTerminationByKubelet {
			t.Errorf("%+v", c)
		}
		if p := r.get("kept"); p.Status.Phase != corev1.PodRunning {
			t.Errorf("%+v", p.Status)
		}
		if got := r.condition(corev1.NodeMemoryPressure); got != corev1.ConditionTrue {
			t.Errorf("MemoryPressure %s", got)
		}
		r.create(testPod("late"))
		after(time.Second)
		if st := r.get("late").Status; st.Reason != "Evicted" || st.Message != "Pod was rejected: The node had condition: [MemoryPressure]. " {
			t.Errorf("%+v", st)
		}
		after(eviction.Hold + time.Minute)
		if got := r.condition(corev1.NodeMemoryPressure); got != corev1.ConditionFalse {
			t.Errorf("MemoryPressure %s long after", got)
		}
	})
}

func TestEmptyDirLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.withReading()
		p := testPod("p")
		limit := resource.MustParse("64Ki")
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
		r.create(p)
		after(time.Minute)
		if st := r.get("p").Status; st.Phase != corev1.PodRunning {
			t.Fatalf("%+v", st)
		}
		dir := r.k.volumes.Path(p, &p.Spec.Volumes[0])
		if err := os.WriteFile(filepath.Join(dir, "data"), make([]byte, 1<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		after(time.Minute)
		st := r.get("p").Status
		if st.Phase != corev1.PodFailed || st.Reason != "Evicted" || st.Message != `Usage of EmptyDir volume "v" exceeds the limit "64Ki". ` {
			t.Errorf("%+v", st)
		}
		if c := cond(r.get("p"), corev1.DisruptionTarget); c.Type != "" {
			t.Errorf("the node is not the cause: %+v", c)
		}
	})
}

func TestImageCollection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		for i, name := range []string{"old", "older", "pinned"} {
			r.images.Set("docker.io/library/"+name+":1", container.Image{ID: fmt.Sprintf("sha256:%064d", i+900), Names: []string{"docker.io/library/" + name + ":1"}, Size: 4 << 30, Pinned: name == "pinned"})
		}
		reading := r.withReading()
		r.create(testPod("p")) // uses app:1
		have := func() []string {
			t.Helper()
			all, err := r.images.ListImages(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, img := range all {
				names = append(names, strings.TrimSuffix(strings.TrimPrefix(img.Names[0], "docker.io/library/"), ":1"))
			}
			slices.Sort(names)
			return names
		}
		after(2 * imagePeriod)
		if got := have(); len(got) != 5 {
			t.Fatalf("removed without need: %v", got)
		}
		full := roomy
		full.Disk.Available = 12 << 30 // 88 % used: 8 GiB have to go
		reading.Store(&full)
		after(imagePeriod + guardInterval)
		if got := have(); slices.Contains(got, "old") || slices.Contains(got, "older") || !slices.Contains(got, "pinned") || !slices.Contains(got, "app") {
			t.Errorf("left %v", got)
		}
		if r.events.has("FreeDiskSpaceFailed") {
			t.Errorf("%q", r.events.all)
		}
	})
}

func TestExcess(t *testing.T) {
	for _, tc := range []struct{ available, want uint64 }{{16, 0}, {15, 5}, {10, 10}, {0, 20}, {100, 0}} {
		if got := excess(eviction.Amount{Available: tc.available, Total: 100}); got != tc.want {
			t.Errorf("%d available: %d, want %d", tc.available, got, tc.want)
		}
	}
	if got := excess(eviction.Amount{}); got != 0 {
		t.Errorf("of an unknown disk: %d", got)
	}
}

func TestDiskUsage(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	once, inodes := diskUsage(dir)
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	if twice, n := diskUsage(dir); once < 1<<20 || twice != once || n != inodes+1 {
		t.Errorf("%d bytes and %d inodes, then %d and %d", once, inodes, twice, n)
	}
	if b, n := diskUsage(filepath.Join(dir, "absent")); b != 0 || n != 0 {
		t.Errorf("%d, %d of nothing", b, n)
	}
}

// TestImageChange patches the image of a running pod: the container is replaced, whatever the restart policy, and the pod never shows
// as not ready meanwhile.
func TestImageChange(t *testing.T) {
	for _, policy := range []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyNever} {
		t.Run(string(policy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.run()
				pod := testPod("p")
				pod.Spec.RestartPolicy = policy
				r.create(pod)
				w, err := r.cs.CoreV1().Pods("default").Watch(context.Background(), metav1.ListOptions{})
				if err != nil {
					t.Fatal(err)
				}
				defer w.Stop()
				p := r.get("p").DeepCopy()
				p.Spec.Containers[0].Image = "app:2"
				if _, err := r.cs.CoreV1().Pods("default").Update(context.Background(), p, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
				after(time.Second)
				if c := r.container("p", "c"); c.Image != "docker.io/library/app:2" || c.Attempt != 1 || c.State != container.Running {
					t.Fatalf("%+v", c)
				}
				if st := r.get("p").Status; st.Phase != corev1.PodRunning || st.ContainerStatuses[0].RestartCount != 1 {
					t.Errorf("%+v", st)
				}
				for len(w.ResultChan()) > 0 {
					if ev := <-w.ResultChan(); cond(ev.Object.(*corev1.Pod), corev1.PodReady).Status != corev1.ConditionTrue {
						t.Errorf("shown as not ready: %+v", ev.Object.(*corev1.Pod).Status)
					}
				}
			})
		})
	}
}
