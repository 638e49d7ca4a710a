// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/mini-k8s/mini/kubelet/container"
)

// In-place resize (KEP-1287). What the spec wants goes through two gates. First it is allocated, if the node has room beside the other
// pods: until then the pod shows PodResizePending. Then it is applied: to the cgroups of pod and containers, or by a restart of
// those whose resizePolicy asks for that; until then it shows PodResizeInProgress. Everything else in this package works with what is
// allocated.

// targetResize is the operation that applies allocated resources to running containers.
const targetResize = "/resize"

// resizing is how far a change of resources has come.
type resizing struct {
	pending *waiting // Deferred or Infeasible
	failed  string   // why applying it does not succeed
}

// resourcesOf lists the resources of a pod's containers by name. Ephemeral containers have none.
func resourcesOf(pod *corev1.Pod) map[string]corev1.ResourceRequirements {
	m := map[string]corev1.ResourceRequirements{}
	for c := range podContainers(pod) {
		m[c.Name] = c.Resources
	}
	return m
}

// withResources is the pod with other resources; the pod itself if they are what it has.
func withResources(pod *corev1.Pod, all map[string]corev1.ResourceRequirements) *corev1.Pod {
	if all == nil || sameResources(resourcesOf(pod), all) {
		return pod
	}
	out := *pod
	out.Spec.InitContainers, out.Spec.Containers = slices.Clone(pod.Spec.InitContainers), slices.Clone(pod.Spec.Containers)
	for _, list := range [][]corev1.Container{out.Spec.InitContainers, out.Spec.Containers} {
		for i := range list {
			if r, ok := all[list[i].Name]; ok {
				list[i].Resources = r
			}
		}
	}
	return &out
}

func sameResources(a, b map[string]corev1.ResourceRequirements) bool {
	if len(a) != len(b) {
		return false
	}
	for name := range a {
		if !apiequality.Semantic.DeepEqual(a[name], b[name]) {
			return false
		}
	}
	return true
}

// allocatedPod is the pod with the resources that the node gave it.
func (p *podState) allocatedPod() *corev1.Pod { return withResources(p.pod, p.allocated) }

// resize allocates what the spec wants if there is room, and has it applied. p.mu is held; the pod is admitted and does not stop.
func (k *Kubelet) resize(p *podState) {
	want := resourcesOf(p.pod)
	if p.allocated == nil {
		p.allocated = p.reportedAllocation(want)
	}
	p.resizing.pending = nil
	if !sameResources(want, p.allocated) {
		if p.resizing.pending = k.resizeBlocked(p); p.resizing.pending == nil {
			p.allocated, p.resizing.failed = want, ""
			delete(p.notBefore, targetResize)
			p.refresh = p.volumes // they may be in a volume
			p.publish()
		}
	}
	todo, restarts := p.resizeSteps()
	for _, id := range restarts {
		p.restart[id] = true
	}
	// The pod's own cgroup may still be as wide as before when the containers are done.
	if len(todo) == 0 && p.resizing.failed == "" || p.ops[targetResize] != nil || p.backingOff(targetResize) {
		return
	}
	pod := p.allocatedPod()
	k.start(p, targetResize, opStart, func(ctx context.Context) func() { return k.applyResize(ctx, p, pod, todo) })
}

// resizeSteps lists the running containers that do not have what is allocated to them: those that are changed, and by their IDs those
// that are restarted.
func (p *podState) resizeSteps() (todo []resizeStep, restarts []string) {
	for i := range p.containers {
		c := &p.containers[i]
		has, known := p.applied[c.ID]
		if c.State != container.Running || !known {
			continue
		}
		if to, ok := p.allocated[c.Name]; ok && !apiequality.Semantic.DeepEqual(has, to) {
			if restartsFor(containerSpec(p.pod, c.Name), has, to) {
				restarts = append(restarts, c.ID)
			} else {
				todo = append(todo, resizeStep{id: c.ID, name: c.Name, to: to, from: has})
			}
		}
	}
	return todo, restarts
}

// reportedAllocation is what an earlier process gave the pod, as the API shows it; what it does not show is what the spec wants.
func (p *podState) reportedAllocation(want map[string]corev1.ResourceRequirements) map[string]corev1.ResourceRequirements {
	for _, list := range [][]corev1.ContainerStatus{p.status.InitContainerStatuses, p.status.ContainerStatuses} {
		for i := range list {
			cs := &list[i]
			l := latest(p.containers, cs.Name)
			if l == nil || cs.ContainerID != containerIDPrefix+l.ID || cs.Resources == nil || l.State != container.Running {
				continue
			}
			r := want[cs.Name]
			r.Limits, r.Requests = cs.Resources.Limits, cs.Resources.Requests
			if _, known := p.applied[l.ID]; !known {
				p.applied[l.ID] = r
			}
		}
	}
	for i := range p.containers {
		c := &p.containers[i]
		if _, known := p.applied[c.ID]; !known && c.State == container.Running {
			p.applied[c.ID] = want[c.Name]
		}
	}
	got := map[string]corev1.ResourceRequirements{}
	for name, r := range want {
		got[name] = r
		if l := latest(p.containers, name); l != nil {
			if has, ok := p.applied[l.ID]; ok {
				got[name] = has
			}
		}
	}
	return got
}

// resizeBlocked says why the node cannot give the pod what it wants now; nil if it can.
func (k *Kubelet) resizeBlocked(p *podState) *waiting {
	if p.static.Load() {
		return &waiting{corev1.PodReasonInfeasible, "In-place resize of static-pods is not supported"}
	}
	allocatable := k.node.allocatable()
	if f := fits(p.pod, nil, allocatable); f != nil {
		return &waiting{corev1.PodReasonInfeasible, "Node didn't have enough capacity: " + f.short}
	}
	k.mu.Lock()
	all := k.podListLocked()
	k.mu.Unlock()
	var others []*corev1.Pod
	for _, o := range all {
		if pod := o.counted(); o != p && pod != nil {
			others = append(others, pod)
		}
	}
	if f := fits(p.pod, others, allocatable); f != nil {
		return &waiting{corev1.PodReasonDeferred, "Node didn't have enough resource: " + f.short}
	}
	return nil
}

// retryDeferred looks again at the pods whose resize waits for room.
func (k *Kubelet) retryDeferred() {
	k.mu.Lock()
	all := k.podListLocked()
	k.mu.Unlock()
	for _, p := range byCreation(all) {
		p.mu.Lock()
		waits := p.resizing.pending != nil && p.resizing.pending.Reason == corev1.PodReasonDeferred
		p.mu.Unlock()
		if waits {
			k.update(p, nil)
		}
	}
}

// restartsFor says whether a change of these resources needs a restart, by the container's resizePolicy.
func restartsFor(c *corev1.Container, from, to corev1.ResourceRequirements) bool {
	if c == nil {
		return false
	}
	return slices.ContainsFunc(c.ResizePolicy, func(r corev1.ContainerResizePolicy) bool {
		if r.RestartPolicy != corev1.RestartContainer {
			return false
		}
		fl, tl, fr, tr := from.Limits[r.ResourceName], to.Limits[r.ResourceName], from.Requests[r.ResourceName], to.Requests[r.ResourceName]
		return fl.Cmp(tl) != 0 || fr.Cmp(tr) != 0
	})
}

// resizeStep changes one running container.
type resizeStep struct {
	id, name string
	from, to corev1.ResourceRequirements
}

// applyResize changes the cgroups: that of the pod first to what holds the old and the new, then the containers', then the pod's to what it
// shall be. So no container is ever allowed more than its pod, which the kernel would refuse.
func (k *Kubelet) applyResize(ctx context.Context, p *podState, pod *corev1.Pod, todo []resizeStep) func() {
	wide := resourcesOf(pod)
	for _, s := range todo {
		wide[s.name] = corev1.ResourceRequirements{Limits: larger(s.from.Limits, s.to.Limits, true), Requests: larger(s.from.Requests, s.to.Requests, false)}
	}
	_, err := k.ensureCgroup(withResources(pod, wide))
	var done []resizeStep
	for _, s := range todo {
		if err != nil {
			break
		}
		if err = k.runtime.UpdateResources(ctx, s.id, s.to); errors.Is(err, container.ErrNotRunning) || errors.Is(err, container.ErrNotFound) {
			err = nil // its successor starts with what is allocated
		}
		if err == nil {
			done = append(done, s)
		}
	}
	if err == nil {
		_, err = k.ensureCgroup(pod)
	}
	return func() {
		for _, s := range done {
			p.applied[s.id] = s.to
		}
		if err == nil {
			p.resizing.failed = ""
			p.succeeded(targetResize)
			return
		}
		if ctx.Err() != nil {
			return
		}
		if p.resizing.failed == "" {
			k.recorder.Event(p.pod, corev1.EventTypeWarning, "ResizeError", fmt.Sprintf("Error resizing pod: %v", err))
		}
		p.resizing.failed = err.Error()
		p.retry(targetResize)
	}
}

// larger takes of two lists the larger amounts. In a list of limits, what only one of them names is not limited.
func larger(a, b corev1.ResourceList, limits bool) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, q := range a {
		if other, ok := b[name]; ok {
			if other.Cmp(q) > 0 {
				q = other
			}
			out[name] = q
		} else if !limits {
			out[name] = q
		}
	}
	for name, q := range b {
		if _, ok := a[name]; !ok && !limits {
			out[name] = q
		}
	}
	return out
}

// resizeConditions are what the pod shows of a resize on its way.
func (p *podState) resizeConditions() []corev1.PodCondition {
	var out []corev1.PodCondition
	if w := p.resizing.pending; w != nil {
		out = append(out, condition(corev1.PodResizePending, true, w.Reason, w.Message))
	}
	progress := p.ops[targetResize] != nil || p.resizing.failed != ""
	for i := range p.containers {
		c := &p.containers[i]
		has, known := p.applied[c.ID]
		to, ok := p.allocated[c.Name]
		progress = progress || known && ok && c.State == container.Running && !apiequality.Semantic.DeepEqual(has, to)
	}
	if progress {
		reason := ""
		if p.resizing.failed != "" {
			reason = corev1.PodReasonError
		}
		out = append(out, condition(corev1.PodResizeInProgress, true, reason, p.resizing.failed))
	}
	return out
}
