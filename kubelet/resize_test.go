// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func amounts(kv ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(kv); i += 2 {
		l[corev1.ResourceName(kv[i])] = resource.MustParse(kv[i+1])
	}
	return l
}

// setResources does what the API server's resize subresource does.
func (r *rig) setResources(pod string, res corev1.ResourceRequirements) {
	r.t.Helper()
	p := r.get(pod).DeepCopy()
	p.Generation++
	p.Spec.Containers[0].Resources = res
	if _, err := r.cs.CoreV1().Pods("default").Update(context.Background(), p, metav1.UpdateOptions{}); err != nil {
		r.t.Fatal(err)
	}
	after(time.Second)
}

func resizable(name string, requests corev1.ResourceList, policy ...corev1.ContainerResizePolicy) *corev1.Pod {
	return testPod(name, corev1.Container{Name: "c", Image: "app:1", ResizePolicy: policy, Resources: corev1.ResourceRequirements{Requests: requests}})
}

func TestResize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.run()
		r.create(resizable("p", amounts("cpu", "10m")))
		before := r.container("p", "c")
		want := corev1.ResourceRequirements{Requests: amounts("cpu", "20m", "memory", "8Mi"), Limits: amounts("cpu", "40m")}
		r.rt.Fail("UpdateResources", errors.New("device or resource busy"), errors.New("device or resource busy"))
		r.setResources("p", want)
		if c := cond(r.get("p"), corev1.PodResizeInProgress); c.Status != corev1.ConditionTrue || c.Reason != corev1.PodReasonError || !strings.Contains(c.Message, "busy") {
			t.Errorf("after a failure: %+v", c)
		}
		after(30 * time.Second)
		p := r.get("p")
		cs := p.Status.ContainerStatuses[0]
		if cs.Resources == nil || !apiequality.Semantic.DeepEqual(*cs.Resources, want) || !apiequality.Semantic.DeepEqual(cs.AllocatedResources, want.Requests) {
			t.Errorf("%+v, allocated %v", cs.Resources, cs.AllocatedResources)
		}
		if c := r.container("p", "c"); c.ID != before.ID || cs.RestartCount != 0 {
			t.Error("the container was restarted")
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodResizeInProgress || c.Type == corev1.PodResizePending {
				t.Errorf("left %+v", c)
			}
		}
		if p.Status.ObservedGeneration != p.Generation {
			t.Errorf("observed %d of %d", p.Status.ObservedGeneration, p.Generation)
		}
		if n := slices.Index(r.rt.Calls(), "UpdateResources "+before.ID); n < 0 {
			t.Errorf("%q", r.rt.Calls())
		}
	})
}

// memoryCgroups remembers the memory limits that pods' cgroups got, in MiB.
type memoryCgroups struct {
	mu     sync.Mutex
	set    []int64
	refuse map[int64]int // how often
}

func (m *memoryCgroups) EnsurePod(pod *corev1.Pod) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := pod.Spec.Containers[0].Resources.Limits.Memory().Value() >> 20
	if m.refuse[n] > 0 {
		m.refuse[n]--
		return "", errors.New("device or resource busy")
	}
	if len(m.set) == 0 || m.set[len(m.set)-1] != n {
		m.set = append(m.set, n)
	}
	return "/test/kubepods/pod" + string(pod.UID), nil
}

func (m *memoryCgroups) RemovePod(types.UID) error { return nil }

func (m *memoryCgroups) limits() []int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.set)
}

// TestResizeKeepsCgroupWide: while a container cannot be made smaller, its pod is not either.
func TestResizeKeepsCgroupWide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		cgroups := &memoryCgroups{}
		r.cfg.Cgroups = cgroups
		r.run()
		pod := resizable("p", amounts("memory", "8Mi"))
		pod.Spec.Containers[0].Resources.Limits = amounts("memory", "64Mi")
		r.create(pod)
		r.rt.Fail("UpdateResources", errors.New("below current usage"), errors.New("below current usage"))
		r.setResources("p", corev1.ResourceRequirements{Requests: amounts("memory", "8Mi"), Limits: amounts("memory", "16Mi")})
		if got := cgroups.limits(); !slices.Equal(got, []int64{64}) {
			t.Errorf("limits of the pod's cgroup while its container is too large: %v", got)
		}
		after(30 * time.Second)
		if got := cgroups.limits(); !slices.Equal(got, []int64{64, 16}) {
			t.Errorf("limits of the pod's cgroup: %v", got)
		}
	})
}

func TestResizeByRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.run()
		r.create(resizable("p", amounts("cpu", "10m", "memory", "8Mi"), corev1.ContainerResizePolicy{ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.RestartContainer}))
		before := r.container("p", "c")
		r.setResources("p", corev1.ResourceRequirements{Requests: amounts("cpu", "20m", "memory", "8Mi")})
		if r.container("p", "c").ID != before.ID {
			t.Error("restarted for CPU")
		}
		r.setResources("p", corev1.ResourceRequirements{Requests: amounts("cpu", "20m", "memory", "16Mi")})
		c := r.container("p", "c")
		if c.ID == before.ID || c.Attempt != 1 || r.rt.Config(c.ID).Container.Resources.Requests.Memory().Value() != 16<<20 {
			t.Errorf("%+v", c)
		}
		if !r.events.has("Killing: Container c resize requires restart") {
			t.Errorf("%q", r.events.all)
		}
		if cs := r.get("p").Status.ContainerStatuses[0]; cs.RestartCount != 1 || cs.Resources.Requests.Memory().Value() != 16<<20 {
			t.Errorf("%+v", cs)
		}
	})
}

// TestResizeWaits asks for more than there is, ever or now, and for less again.
func TestResizeWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.run()
		allocatable := r.k.node.allocatable()
		free := allocatable.Cpu().MilliValue()
		milli := func(n int64) corev1.ResourceRequirements {
			return corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(n, resource.DecimalSI)}}
		}
		r.create(resizable("other", milli(free/2).Requests))
		r.create(resizable("p", milli(free/4).Requests))
		pending := func(reason string) {
			t.Helper()
			p := r.get("p")
			if c := cond(p, corev1.PodResizePending); c.Reason != reason {
				t.Errorf("%+v, want %q", c, reason)
			}
			if p.Status.ObservedGeneration != p.Generation {
				t.Errorf("observed %d of %d", p.Status.ObservedGeneration, p.Generation)
			}
		}
		r.setResources("p", milli(2*free))
		pending(corev1.PodReasonInfeasible)
		if got := r.get("p").Status.ContainerStatuses[0].AllocatedResources.Cpu().MilliValue(); got != free/4 {
			t.Errorf("allocated %d", got)
		}
		r.setResources("p", milli(free*3/4))
		pending(corev1.PodReasonDeferred)
		r.markDeleted("other", 1)
		after(10 * time.Second)
		pending("")
		if got := r.get("p").Status.ContainerStatuses[0].Resources.Requests.Cpu().MilliValue(); got != free*3/4 {
			t.Errorf("applied %d", got)
		}
	})
}

// TestResizeWhileAway changes the spec while no kubelet runs: the next one applies it to the container that it finds.
func TestResizeWhileAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.run()
		r.create(resizable("p", amounts("cpu", "10m")))
		after(time.Second)
		before := r.container("p", "c")
		r.stop()
		r.setResources("p", corev1.ResourceRequirements{Requests: amounts("cpu", "30m")})
		r.run()
		after(10 * time.Second)
		if got := r.get("p").Status.ContainerStatuses[0].Resources.Requests.Cpu().MilliValue(); got != 30 {
			t.Errorf("applied %d", got)
		}
		if c := r.container("p", "c"); c.ID != before.ID || !slices.Contains(r.rt.Calls(), "UpdateResources "+before.ID) {
			t.Errorf("%q", r.rt.Calls())
		}
	})
}

func TestLarger(t *testing.T) {
	a, b := amounts("cpu", "1", "memory", "1Gi"), amounts("cpu", "2")
	if got := larger(a, b, true); !apiequality.Semantic.DeepEqual(got, amounts("cpu", "2")) {
		t.Errorf("limits %v: what one does not limit is not limited", got)
	}
	if got := larger(a, b, false); !apiequality.Semantic.DeepEqual(got, amounts("cpu", "2", "memory", "1Gi")) {
		t.Errorf("requests %v", got)
	}
}

// TestResizeNarrowsLater: a pod whose own cgroup cannot follow its containers at once does so later.
func TestResizeNarrowsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		cgroups := &memoryCgroups{refuse: map[int64]int{16: 2}}
		r.cfg.Cgroups = cgroups
		r.run()
		pod := resizable("p", amounts("memory", "8Mi"))
		pod.Spec.Containers[0].Resources.Limits = amounts("memory", "64Mi")
		r.create(pod)
		r.setResources("p", corev1.ResourceRequirements{Requests: amounts("memory", "8Mi"), Limits: amounts("memory", "16Mi")})
		if c := cond(r.get("p"), corev1.PodResizeInProgress); c.Reason != corev1.PodReasonError || !strings.Contains(c.Message, "busy") {
			t.Errorf("while the pod is too large: %+v", c)
		}
		after(time.Minute)
		if got := cgroups.limits(); !slices.Equal(got, []int64{64, 16}) {
			t.Errorf("limits of the pod's cgroup: %v", got)
		}
		if c := cond(r.get("p"), corev1.PodResizeInProgress); c.Status != "" {
			t.Errorf("left %+v", c)
		}
	})
}
