// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/kubelet/container"
	"github.com/mini-k8s/mini/kubelet/volume"
)

// Reasons that users read in pods. The words are the API's.
const (
	reasonContainerCreating  = "ContainerCreating"
	reasonPodInitializing    = "PodInitializing"
	reasonCrashLoopBackOff   = "CrashLoopBackOff"
	reasonStatusUnknown      = "ContainerStatusUnknown"
	reasonPodCompleted       = "PodCompleted"
	reasonPodFailed          = "PodFailed"
	reasonContainersNotReady = "ContainersNotReady"
	reasonNotInitialized     = "ContainersNotInitialized"
	reasonReadinessGates     = "ReadinessGatesNotReady"
	reasonDeadlineExceeded   = "DeadlineExceeded"
	exitCodeUnknownContainer = 137
	containerIDPrefix        = "containerd://"
	lostContainerMessage     = "The container could not be located when the pod was terminated"
	lostRunningMessage       = "The container could not be located when the pod was deleted.  The container used to be Running"
)

// waiting is why a container does not run yet.
type waiting struct{ Reason, Message string }

// ending is what is known about an exit besides the code.
type ending struct{ Reason, Message string }

// failure ends a pod as Failed whatever its containers did.
type failure struct {
	Reason, Message string
	// Disrupted adds the DisruptionTarget condition: the node, not the pod, is the cause.
	Disrupted bool
	// Immediate leaves the containers no grace beyond the least.
	Immediate bool
	short     string // of a want of resources: which, how much, and what there is
}

// report is everything podStatus computes from.
type report struct {
	snapshot
	Finished bool
	Failure  *failure
	Waiting  map[string]waiting // by container name
	Backoff  map[string]string  // by container name: the delay in words, while it is in crash-loop back-off
	Ready    map[string]bool    // by container ID: the readiness probe's verdict
	Endings  map[string]ending  // by container ID
	Images   map[string]string  // by container ID: the name to show
	HostIPs  []string
	PodIPs   []string
	// Allocated is by container name what the node gave, Applied by container ID what its cgroup has. What they do not
	// name is as in the spec.
	Allocated, Applied map[string]corev1.ResourceRequirements
	Resize             []corev1.PodCondition
	RecursiveReadOnly  bool // the runtime can make mounts so
}

// podStatus computes the status that the API should show from what is there. The old status (the API's) lends what this
// node does not own: foreign conditions, transition times, and the past of containers that are gone.
func podStatus(r report) corev1.PodStatus {
	pod, old := r.Pod, r.Pod.Status
	st := corev1.PodStatus{
		ObservedGeneration:    pod.Generation,
		NominatedNodeName:     old.NominatedNodeName,
		QOSClass:              qosClass(pod),
		StartTime:             old.StartTime,
		Resize:                old.Resize,
		ResourceClaimStatuses: old.ResourceClaimStatuses,
	}
	if st.StartTime == nil {
		st.StartTime = &metav1.Time{Time: r.Now.Truncate(time.Second)}
	}
	if len(r.HostIPs) > 0 {
		st.HostIP = r.HostIPs[0]
		for _, ip := range r.HostIPs {
			st.HostIPs = append(st.HostIPs, corev1.HostIP{IP: ip})
		}
	}
	ips := r.PodIPs
	if pod.Spec.HostNetwork {
		ips = r.HostIPs
	}
	for i, ip := range ips {
		if i == 0 {
			st.PodIP = ip
		}
		st.PodIPs = append(st.PodIPs, corev1.PodIP{IP: ip})
	}
	r.containerStatuses(&st)
	ended := r.Finished && !r.anyAlive()
	st.Phase = r.phase(&st, ended)
	if r.Failure != nil && (ended || st.Phase == corev1.PodFailed) {
		st.Phase, st.Reason, st.Message = corev1.PodFailed, r.Failure.Reason, r.Failure.Message
	}
	// A terminal phase is never left again.
	if old.Phase == corev1.PodFailed || old.Phase == corev1.PodSucceeded {
		st.Phase, st.Reason, st.Message = old.Phase, old.Reason, old.Message
	}
	r.conditions(&st)
	return st
}

func (r *report) anyAlive() bool {
	if slices.ContainsFunc(r.Containers, alive) {
		return true
	}
	for target, k := range r.Busy {
		if k != opNone && !strings.HasPrefix(target, "/") {
			return true
		}
	}
	return false
}

func (r *report) containerStatuses(st *corev1.PodStatus) {
	idle := waiting{Reason: reasonContainerCreating}
	if len(r.Pod.Spec.InitContainers) > 0 {
		idle.Reason = reasonPodInitializing
	}
	for i := range r.Pod.Spec.InitContainers {
		c := &r.Pod.Spec.InitContainers[i]
		cs := r.containerStatus(c, idle, findStatus(r.Pod.Status.InitContainerStatuses, c.Name))
		if !isSidecar(c) {
			cs.Ready = cs.State.Terminated != nil && cs.State.Terminated.ExitCode == 0
		}
		st.InitContainerStatuses = append(st.InitContainerStatuses, cs)
	}
	for i := range r.Pod.Spec.Containers {
		c := &r.Pod.Spec.Containers[i]
		st.ContainerStatuses = append(st.ContainerStatuses, r.containerStatus(c, idle, findStatus(r.Pod.Status.ContainerStatuses, c.Name)))
	}
	for i := range r.Pod.Spec.EphemeralContainers {
		c := (*corev1.Container)(&r.Pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		cs := r.containerStatus(c, waiting{Reason: reasonContainerCreating}, findStatus(r.Pod.Status.EphemeralContainerStatuses, c.Name))
		cs.Ready, cs.Started = false, nil
		st.EphemeralContainerStatuses = append(st.EphemeralContainerStatuses, cs)
	}
}

func findStatus(list []corev1.ContainerStatus, name string) *corev1.ContainerStatus {
	for i := range list {
		if list[i].Name == name {
			return &list[i]
		}
	}
	return nil
}

// containerStatus shows one container: idle is what to show before its first start.
func (r *report) containerStatus(c *corev1.Container, idle waiting, old *corev1.ContainerStatus) corev1.ContainerStatus {
	cs := corev1.ContainerStatus{Name: c.Name, Image: c.Image, Started: new(bool)}
	if w, ok := r.Waiting[c.Name]; ok {
		idle = w
	}
	var own []container.Container
	for _, x := range r.Containers {
		if x.Name == c.Name {
			own = append(own, x)
		}
	}
	if len(own) == 0 {
		r.goneStatus(&cs, idle, old)
		return cs
	}
	l := own[0]
	r.identify(&cs, c, l, old)
	if len(own) > 1 && own[1].State == container.Exited {
		cs.LastTerminationState.Terminated = r.terminated(own[1])
	} else if len(own) == 1 && old != nil && old.ContainerID != containerIDPrefix+l.ID && old.State.Terminated != nil {
		cs.LastTerminationState.Terminated = old.State.Terminated
	} else if len(own) == 1 && old != nil && old.LastTerminationState.Terminated != nil && l.Attempt > 0 {
		cs.LastTerminationState.Terminated = old.LastTerminationState.Terminated
	}
	switch l.State {
	case container.Running, container.Unknown:
		cs.State.Running = &corev1.ContainerStateRunning{StartedAt: seconds(l.StartedAt)}
		if old != nil && old.ContainerID == cs.ContainerID && old.State.Running != nil {
			cs.State.Running.StartedAt = old.State.Running.StartedAt // two clocks may disagree about the second
		}
		*cs.Started = r.snapshot.Started[l.ID]
		cs.Ready = *cs.Started
		if c.ReadinessProbe != nil {
			cs.Ready = cs.Ready && r.Ready[l.ID]
		}
		allocated, ok := r.Allocated[c.Name]
		if !ok {
			allocated = c.Resources
		}
		applied, ok := r.Applied[l.ID]
		if !ok {
			applied = allocated
		}
		cs.AllocatedResources = allocated.Requests
		cs.Resources = &corev1.ResourceRequirements{Limits: applied.Limits, Requests: applied.Requests}
	case container.Exited:
		end := r.terminated(l)
		w, isWaiting := r.Waiting[c.Name]
		delay, crashing := r.Backoff[c.Name]
		switch {
		case r.Finished:
			cs.State.Terminated = end
		case isWaiting:
			cs.State.Waiting, cs.LastTerminationState.Terminated = &corev1.ContainerStateWaiting{Reason: w.Reason, Message: w.Message}, end
		case crashing:
			cs.State.Waiting = &corev1.ContainerStateWaiting{Reason: reasonCrashLoopBackOff, Message: fmt.Sprintf(
				"back-off %s restarting failed container=%s pod=%s", delay, c.Name, podLabel(r.Pod))}
			cs.LastTerminationState.Terminated = end
		default:
			cs.State.Terminated = end
		}
	default:
		cs.State.Waiting = &corev1.ContainerStateWaiting{Reason: idle.Reason, Message: idle.Message}
		if cs.LastTerminationState.Terminated == nil {
			cs.ContainerID = ""
		}
	}
	return cs
}

// identify fills in what belongs to one attempt.
func (r *report) identify(cs *corev1.ContainerStatus, c *corev1.Container, l container.Container, old *corev1.ContainerStatus) {
	cs.RestartCount = int32(l.Attempt)
	cs.ContainerID = containerIDPrefix + l.ID
	cs.ImageID = l.ImageID
	if name := r.Images[l.ID]; name != "" {
		cs.Image = name
	} else if old != nil && old.ContainerID == cs.ContainerID { // started by an earlier process
		cs.Image, cs.ImageID = old.Image, old.ImageID
	}
	if l.User != nil {
		cs.User = &corev1.ContainerUser{Linux: l.User}
	}
	for _, m := range c.VolumeMounts {
		vm := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := corev1.RecursiveReadOnlyDisabled
			if rro, err := volume.ResolveRecursiveReadOnly(&m, r.RecursiveReadOnly); err == nil && rro {
				mode = corev1.RecursiveReadOnlyEnabled
			}
			vm.RecursiveReadOnly = &mode
		}
		cs.VolumeMounts = append(cs.VolumeMounts, vm)
	}
}

// goneStatus shows a container of which the runtime knows nothing: not yet started, or forgotten.
func (r *report) goneStatus(cs *corev1.ContainerStatus, idle waiting, old *corev1.ContainerStatus) {
	if old != nil && old.ContainerID != "" {
		cs.RestartCount, cs.LastTerminationState = old.RestartCount, old.LastTerminationState
		cs.Image, cs.ImageID, cs.ContainerID = old.Image, old.ImageID, old.ContainerID
		switch {
		case old.State.Terminated != nil:
			cs.State.Terminated = old.State.Terminated
			return
		case old.State.Running != nil && r.Finished:
			cs.State.Terminated = &corev1.ContainerStateTerminated{Reason: reasonStatusUnknown, Message: lostContainerMessage,
				ExitCode: exitCodeUnknownContainer, ContainerID: old.ContainerID}
			return
		case old.State.Running != nil:
			cs.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: reasonStatusUnknown, Message: lostRunningMessage,
				ExitCode: exitCodeUnknownContainer, ContainerID: old.ContainerID}
		}
	}
	cs.State.Waiting = &corev1.ContainerStateWaiting{Reason: idle.Reason, Message: idle.Message}
}

func (r *report) terminated(c container.Container) *corev1.ContainerStateTerminated {
	if _, known := r.Endings[c.ID]; !known {
		// An end that was reported by an earlier process stays as it was: its message may be gone from the disk by now.
		if was := reportedEnd(&r.Pod.Status, containerIDPrefix+c.ID); was != nil {
			return was
		}
	}
	t := &corev1.ContainerStateTerminated{ExitCode: c.ExitCode, StartedAt: seconds(c.StartedAt), FinishedAt: seconds(c.FinishedAt),
		ContainerID: containerIDPrefix + c.ID, Message: c.Message}
	switch {
	case c.OOMKilled:
		t.Reason = "OOMKilled"
	case c.ExitCode == 0:
		t.Reason = "Completed"
	default:
		t.Reason = "Error"
	}
	if e, ok := r.Endings[c.ID]; ok {
		if e.Reason != "" {
			t.Reason = e.Reason
		}
		if e.Message != "" {
			t.Message = e.Message
		}
	}
	return t
}

func reportedEnd(st *corev1.PodStatus, id string) *corev1.ContainerStateTerminated {
	for _, list := range [][]corev1.ContainerStatus{st.InitContainerStatuses, st.ContainerStatuses, st.EphemeralContainerStatuses} {
		for i := range list {
			for _, t := range []*corev1.ContainerStateTerminated{list[i].State.Terminated, list[i].LastTerminationState.Terminated} {
				if t != nil && t.ContainerID == id {
					return t
				}
			}
		}
	}
	return nil
}

// seconds drops what the API does not store, so that a status read back is equal to the one written.
func seconds(t time.Time) metav1.Time {
	if t.IsZero() {
		return metav1.Time{}
	}
	return metav1.Time{Time: t.Truncate(time.Second)}
}

// phase follows upstream's getPhase: waiting with a past counts as stopped, waiting without one keeps the pod Pending.
func (r *report) phase(st *corev1.PodStatus, ended bool) corev1.PodPhase {
	initPending, initFailed := false, false
	for i := range r.Pod.Spec.InitContainers {
		c, cs := &r.Pod.Spec.InitContainers[i], &st.InitContainerStatuses[i]
		switch {
		case isSidecar(c):
			initPending = initPending || cs.State.Running == nil && cs.State.Terminated == nil && cs.LastTerminationState.Terminated == nil
		case cs.State.Terminated != nil && cs.State.Terminated.ExitCode == 0:
		case cs.State.Terminated != nil && !shouldRestart(r.Pod, c, cs.State.Terminated.ExitCode):
			initFailed = true
		default:
			initPending = true
		}
	}
	var running, waits, stopped, succeeded int
	restarts := false
	for i := range st.ContainerStatuses {
		cs := &st.ContainerStatuses[i]
		end := cs.State.Terminated
		if cs.State.Waiting != nil {
			end = cs.LastTerminationState.Terminated
		}
		switch {
		case cs.State.Running != nil:
			running++
		case end != nil:
			stopped++
			if end.ExitCode == 0 && cs.State.Waiting == nil {
				succeeded++
			}
			restarts = restarts || shouldRestart(r.Pod, &r.Pod.Spec.Containers[i], end.ExitCode)
		default:
			waits++
		}
	}
	switch {
	case ended && initFailed, ended && (waits > 0 || succeeded != len(st.ContainerStatuses)):
		return corev1.PodFailed
	case ended:
		return corev1.PodSucceeded
	case waits > 0 && running+stopped == 0 || initPending && running+stopped == 0:
		return corev1.PodPending
	case waits > 0:
		return corev1.PodPending
	}
	return corev1.PodRunning
}

// conditions sets the node's conditions, in upstream's order, and keeps everybody else's.
func (r *report) conditions(st *corev1.PodStatus) {
	terminal := st.Phase == corev1.PodSucceeded || st.Phase == corev1.PodFailed
	live := len(r.Sandboxes) > 0 && r.Sandboxes[0].State == container.Running && !r.Stopped[r.Sandboxes[0].ID] &&
		(r.Pod.Spec.HostNetwork || len(r.PodIPs) > 0)
	ready := r.containersReady(st, terminal)
	var own []corev1.PodCondition
	if r.Failure != nil && r.Failure.Disrupted {
		own = append(own, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
			Reason: corev1.PodReasonTerminationByKubelet, Message: r.Failure.Message})
	}
	own = append(own,
		condition(corev1.PodReadyToStartContainers, live, "", ""),
		r.initializedCondition(st, terminal),
		r.readyCondition(ready),
		ready,
		condition(corev1.PodScheduled, true, "", ""))
	own = append(own, r.Resize...)
	for _, c := range own {
		c.ObservedGeneration = r.Pod.Generation
		c.LastTransitionTime = seconds(r.Now)
		for _, was := range r.Pod.Status.Conditions {
			if was.Type == c.Type && was.Status == c.Status {
				c.LastTransitionTime = was.LastTransitionTime
			}
		}
		st.Conditions = append(st.Conditions, c)
	}
	for _, was := range r.Pod.Status.Conditions {
		resize := was.Type == corev1.PodResizePending || was.Type == corev1.PodResizeInProgress
		if !resize && !slices.ContainsFunc(own, func(c corev1.PodCondition) bool { return c.Type == was.Type }) {
			st.Conditions = append(st.Conditions, was)
		}
	}
}

func condition(t corev1.PodConditionType, ok bool, reason, message string) corev1.PodCondition {
	c := corev1.PodCondition{Type: t, Status: corev1.ConditionFalse, Reason: reason, Message: message}
	if ok {
		c.Status = corev1.ConditionTrue
	}
	return c
}

func (r *report) initializedCondition(st *corev1.PodStatus, terminal bool) corev1.PodCondition {
	sandbox := ""
	if len(r.Sandboxes) > 0 {
		sandbox = r.Sandboxes[0].ID
	}
	if terminal && st.Phase == corev1.PodSucceeded {
		return condition(corev1.PodInitialized, true, reasonPodCompleted, "")
	}
	if initialized(r.snapshot, sandbox) {
		return condition(corev1.PodInitialized, true, "", "")
	}
	var incomplete []string
	for i := range st.InitContainerStatuses {
		cs := &st.InitContainerStatuses[i]
		c := &r.Pod.Spec.InitContainers[i]
		if isSidecar(c) && (cs.Started == nil || !*cs.Started) || !isSidecar(c) && !cs.Ready {
			incomplete = append(incomplete, cs.Name)
		}
	}
	if len(incomplete) > 0 {
		return condition(corev1.PodInitialized, false, reasonNotInitialized, fmt.Sprintf("containers with incomplete status: %s", incomplete))
	}
	return condition(corev1.PodInitialized, true, "", "")
}

func (r *report) containersReady(st *corev1.PodStatus, terminal bool) corev1.PodCondition {
	switch {
	case st.Phase == corev1.PodSucceeded:
		return condition(corev1.ContainersReady, false, reasonPodCompleted, "")
	case terminal:
		return condition(corev1.ContainersReady, false, reasonPodFailed, "")
	}
	var unready []string
	for i := range st.InitContainerStatuses {
		if isSidecar(&r.Pod.Spec.InitContainers[i]) && !st.InitContainerStatuses[i].Ready {
			unready = append(unready, st.InitContainerStatuses[i].Name)
		}
	}
	for i := range st.ContainerStatuses {
		if !st.ContainerStatuses[i].Ready {
			unready = append(unready, st.ContainerStatuses[i].Name)
		}
	}
	if len(unready) > 0 {
		return condition(corev1.ContainersReady, false, reasonContainersNotReady, fmt.Sprintf("containers with unready status: %s", unready))
	}
	return condition(corev1.ContainersReady, true, "", "")
}

// readyCondition adds the pod's readiness gates to the containers' readiness.
func (r *report) readyCondition(containers corev1.PodCondition) corev1.PodCondition {
	c := containers
	c.Type = corev1.PodReady
	if c.Status != corev1.ConditionTrue {
		return c
	}
	var unmet []string
	for _, g := range r.Pod.Spec.ReadinessGates {
		i := slices.IndexFunc(r.Pod.Status.Conditions, func(x corev1.PodCondition) bool { return x.Type == g.ConditionType })
		switch {
		case i < 0:
			unmet = append(unmet, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", g.ConditionType))
		case r.Pod.Status.Conditions[i].Status != corev1.ConditionTrue:
			unmet = append(unmet, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", g.ConditionType, r.Pod.Status.Conditions[i].Status))
		}
	}
	if len(unmet) > 0 {
		return condition(corev1.PodReady, false, reasonReadinessGates, strings.Join(unmet, ", "))
	}
	return c
}

// podLabel is how upstream's messages name a pod.
func podLabel(pod *corev1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}

// qosClass is the pod's class, as the API server computed it or by the same rule.
func qosClass(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	guaranteed, any := true, false
	for c := range podContainers(pod) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			req, lim := c.Resources.Requests[name], c.Resources.Limits[name]
			any = any || !req.IsZero() || !lim.IsZero()
			if lim.IsZero() || (!req.IsZero() && req.Cmp(lim) != 0) {
				guaranteed = false
			}
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}
