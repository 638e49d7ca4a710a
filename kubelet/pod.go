// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mini-k8s/mini/kubelet/container"
	"github.com/mini-k8s/mini/kubelet/steps"
)

// podState is one pod on this node: what the API wants of it, what the runtime has of it, and what is being done.
type podState struct {
	uid types.UID

	mu  sync.Mutex
	ref container.PodRef
	// pod is the API's last word; nil while only the runtime knows of it. Never written to.
	pod     *corev1.Pod
	version string            // the newest resourceVersion seen, in a watch or in an answer
	status  corev1.PodStatus  // of that version
	want    *corev1.PodStatus // what the API should show
	writing bool
	gone    bool              // the API has it no more
	sent    *corev1.PodStatus // the last one that the API took
	deleted bool              // the API took our final delete

	// static is set for a pod that comes from a file of this node; mirror is what shows it in the API.
	static atomic.Bool
	mirror *corev1.Pod

	admitted bool
	counts   atomic.Pointer[corev1.Pod] // while the pod takes its share of the node
	failure  *failure
	stopping bool
	stopBy   time.Time // when the grace ends
	// endBy, if set, is when the node's shutdown ends the pod whatever its grace; over is closed when nothing of it is left to do.
	endBy time.Time
	over  chan struct{}

	sandboxes  []container.Sandbox
	containers []container.Container
	stopped    map[string]bool // sandboxes that were taken down
	lost       map[string]container.Event

	volumes   bool
	refresh   bool
	renew     time.Time
	cgroup    string
	ops       map[string]*operation
	notBefore map[string]time.Time
	failures  map[string]int // in a row, by target, of anything but a crash
	crash     map[string]*crashBackoff
	replacing map[string]bool // see snapshot
	// allocated is by container name what the node gave the pod, applied by container ID what the cgroup has; restart names
	// the containers that get it by a restart.
	allocated, applied map[string]corev1.ResourceRequirements
	restart            map[string]bool
	resizing           resizing
	waiting            map[string]waiting
	endings            map[string]ending
	names              map[string]string // image to show, by container ID
	started            map[string]bool
	ready              map[string]bool
	unhealthy          map[string]unhealthy
	hooked             map[string]bool // preStop hook done, by container ID

	exits map[*exitWaiter]bool // who follows a log

	steps     *steps.Record // from when the API told of the pod until it shows it as running
	timer     *time.Timer
	cleaned   bool
	forgotten bool
}

// operation is an action being carried out.
type operation struct {
	kind   opKind
	cancel context.CancelFunc
	until  time.Time // for a stop: when its grace ends
	// awaiting is the container whose exit is all that is left to wait for.
	awaiting string
}

// unhealthy is the last word of a probe on a running container.
type unhealthy struct {
	message string
	grace   *int64
}

// crashBackoff is a container's delay before its next start: 10 s doubling to 5 min, forgotten after 10 min of running.
type crashBackoff struct {
	delay time.Duration
	last  time.Time
}

const (
	crashBackoffStart = 10 * time.Second
	crashBackoffMax   = 5 * time.Minute
	crashBackoffReset = 10 * time.Minute
)

// next returns when a container that ended at finished may start again.
func (b *crashBackoff) next(finished time.Time) time.Time {
	if b.delay == 0 || finished.Sub(b.last) > crashBackoffReset {
		return finished
	}
	return finished.Add(b.delay)
}

// restarted takes in that a container that ended at finished was started again.
func (b *crashBackoff) restarted(finished time.Time) {
	if b.delay == 0 || finished.Sub(b.last) > crashBackoffReset {
		b.delay = crashBackoffStart
	} else {
		b.delay = min(2*b.delay, crashBackoffMax)
	}
	b.last = finished
}

func newPodState(uid types.UID) *podState {
	return &podState{uid: uid, stopped: map[string]bool{}, lost: map[string]container.Event{}, ops: map[string]*operation{},
		notBefore: map[string]time.Time{}, failures: map[string]int{}, crash: map[string]*crashBackoff{}, replacing: map[string]bool{},
		applied: map[string]corev1.ResourceRequirements{}, restart: map[string]bool{}, waiting: map[string]waiting{},
		endings: map[string]ending{}, names: map[string]string{}, started: map[string]bool{}, ready: map[string]bool{},
		unhealthy: map[string]unhealthy{}, hooked: map[string]bool{}}
}

// take stores a version of the pod from the API.
func (p *podState) take(pod *corev1.Pod) {
	if !newer(pod.ResourceVersion, p.version) && p.pod != nil {
		return
	}
	if p.volumes && p.pod != nil && (!maps.Equal(p.pod.Labels, pod.Labels) || !maps.Equal(p.pod.Annotations, pod.Annotations)) {
		p.refresh = true // they may be in a volume
	}
	p.pod = pod
	p.noteStatus(pod)
	p.ref = container.PodRef{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)}
}

// noteStatus takes in the status that the API shows, of the pod or of its mirror.
func (p *podState) noteStatus(pod *corev1.Pod) {
	echo := pod.ResourceVersion != "" && pod.ResourceVersion == p.version // of this node's own write
	p.version, p.status = pod.ResourceVersion, pod.Status
	if p.sent != nil && !p.writing && !echo {
		// Somebody else wrote. If that undid what this node reported, it is reported again.
		if d, err := statusPatch(pod, pod.Status, *p.sent); err == nil && !isOnlyUID(d) {
			p.sent = nil
		}
	}
}

// newer compares resourceVersions; what is no number counts as newer.
func newer(a, b string) bool {
	x, err1 := strconv.ParseUint(a, 10, 64)
	y, err2 := strconv.ParseUint(b, 10, 64)
	return err1 != nil || err2 != nil || x >= y
}

// update changes a pod's state and brings the pod forward. It is the one entry for every event.
func (k *Kubelet) update(p *podState, change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if change != nil {
		change()
	}
	k.step(p)
}

// step plans, acts and reports. p.mu is held; nothing here blocks.
func (k *Kubelet) step(p *podState) {
	k.mu.Lock()
	began := k.began || k.staticBegan && p.static.Load()
	k.mu.Unlock()
	if began && p.static.Load() && !p.admitted && !p.gone && !k.isNext(p) {
		return // its forerunner has not ended yet
	}
	if p.forgotten {
		p.tellOver()
	}
	if !began || p.forgotten || k.ctx.Err() != nil {
		return
	}
	if p.pod == nil {
		if !p.gone {
			return
		}
		p.pod = orphanPod(p.ref)
	}
	now := time.Now()
	if !p.admitted && !p.gone && p.pod.DeletionTimestamp == nil {
		k.admit(p)
	}
	k.checkDeadline(p, now)
	if p.admitted && !p.stop() {
		k.resize(p)
	}
	wake := k.noteStop(p, now)
	s := p.snapshot(now)
	pl := plan(s)
	if pl.Finished && !p.stopping {
		p.stopping, p.stopBy = true, now.Add(specGrace(p.pod))
	}
	if s.Stop {
		p.cancelStarts()
	}
	for _, a := range pl.Actions {
		k.act(p, a)
	}
	if p.refresh && p.volumes && p.ops[targetVolumes] == nil && !pl.Finished {
		k.act(p, action{Verb: prepareVolumes})
	}
	k.followProbes(p, pl.Finished)
	k.report(p, s, pl, now)
	if pl.Down {
		p.counts.Store(nil)
		k.conclude(p)
		p.tellOver()
	} else if p.admitted {
		p.publish()
	}
	times := []time.Time{pl.Wake, p.renew, p.notBefore[targetResize]}
	if pl.Down {
		wake, times = time.Time{}, []time.Time{p.notBefore[targetConclude]}
	}
	for _, t := range times {
		if !t.IsZero() && (wake.IsZero() || t.Before(wake)) {
			wake = t
		}
	}
	k.arm(p, wake, now)
}

// arm sets the pod's one timer.
func (k *Kubelet) arm(p *podState, wake, now time.Time) {
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	if wake.IsZero() || p.forgotten {
		return
	}
	p.timer = time.AfterFunc(max(wake.Sub(now), time.Millisecond), func() {
		k.update(p, func() {
			if !p.renew.IsZero() && !time.Now().Before(p.renew) {
				p.refresh, p.renew = true, time.Time{}
			}
		})
	})
}

// checkDeadline fails a pod whose activeDeadlineSeconds have passed.
func (k *Kubelet) checkDeadline(p *podState, now time.Time) {
	if t := p.deadline(); p.failure == nil && !t.IsZero() && !now.Before(t) {
		p.failure = &failure{Reason: reasonDeadlineExceeded, Message: "Pod was active on the node longer than the specified deadline"}
		k.recorder.Event(p.pod, corev1.EventTypeNormal, reasonDeadlineExceeded, p.failure.Message)
	}
}

func (p *podState) deadline() time.Time {
	start := p.status.StartTime
	if p.want != nil {
		start = p.want.StartTime
	}
	if p.pod.Spec.ActiveDeadlineSeconds == nil || start == nil || isTerminal(p.status.Phase) {
		return time.Time{}
	}
	return start.Add(time.Duration(*p.pod.Spec.ActiveDeadlineSeconds) * time.Second)
}

func isTerminal(ph corev1.PodPhase) bool { return ph == corev1.PodSucceeded || ph == corev1.PodFailed }

// noteStop keeps stopBy: the grace runs from the first reason to stop, and a later reason can only shorten it. It returns when the
// deadline of a pod that is not stopping ends.
func (k *Kubelet) noteStop(p *podState, now time.Time) time.Time {
	if !p.stop() {
		return p.deadline()
	}
	grace := specGrace(p.pod)
	if g := p.pod.DeletionGracePeriodSeconds; g != nil && p.pod.DeletionTimestamp != nil {
		grace = time.Duration(*g) * time.Second
	}
	if p.failure != nil && p.failure.Immediate {
		grace = 0
	}
	grace = max(grace, time.Second)
	by := now.Add(grace)
	if !p.endBy.IsZero() && p.endBy.Before(by) {
		by = p.endBy
	}
	if !p.stopping || by.Before(p.stopBy) {
		p.stopping, p.stopBy = true, by
	}
	for _, op := range p.ops {
		if op.kind == opStop && !op.until.IsZero() && op.until.Sub(p.stopBy) > time.Second {
			op.cancel() // planned again with the shorter grace
			op.until = time.Time{}
		}
	}
	return time.Time{}
}

// stop says whether the pod has to end whatever its containers do.
func (p *podState) stop() bool {
	return p.gone || p.failure != nil || p.pod.DeletionTimestamp != nil || isTerminal(p.status.Phase)
}

func specGrace(pod *corev1.Pod) time.Duration {
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		return time.Duration(*g) * time.Second
	}
	return corev1.DefaultTerminationGracePeriodSeconds * time.Second
}

func (p *podState) cancelStarts() {
	for _, op := range p.ops {
		if op.kind == opStart {
			op.cancel()
		}
	}
}

func (p *podState) snapshot(now time.Time) snapshot {
	s := snapshot{Pod: p.pod, Now: now, Stop: p.stop(), Volumes: p.volumes, Sandboxes: p.sandboxes, Containers: p.containers,
		Stopped: p.stopped, Busy: map[string]opKind{}, Started: p.started, Unhealthy: map[string]string{}, NotBefore: map[string]time.Time{}, Replacing: p.replacing, Restart: p.restart}
	for t, op := range p.ops {
		s.Busy[t] = op.kind
	}
	for id, u := range p.unhealthy {
		s.Unhealthy[id] = u.message
	}
	for t, at := range p.notBefore {
		s.NotBefore[t] = at
	}
	for name, b := range p.crash {
		if l := latest(p.containers, name); l != nil && l.State == container.Exited && !p.redefined(l) {
			if at := b.next(l.FinishedAt); at.After(s.NotBefore[name]) {
				s.NotBefore[name] = at
			}
		}
	}
	return s
}

// backingOff says whether a target has to wait.
func (p *podState) backingOff(target string) bool { return time.Now().Before(p.notBefore[target]) }

// redefined says that a container was made from another definition than the pod has now: its crashes are no reason to wait.
func (p *podState) redefined(l *container.Container) bool {
	c := containerSpec(p.pod, l.Name)
	return c != nil && l.Hash != "" && l.Hash != containerHash(c)
}

// report computes the status and hands it to the writer if it changed.
func (k *Kubelet) report(p *podState, s snapshot, pl podPlan, now time.Time) {
	// A container that gives way to its new definition is not shown as ended: the pod goes on, and who watches would see it fail.
	if p.gone || len(p.replacing) > 0 && p.want != nil && !s.Stop {
		return
	}
	old := p.status
	if p.want != nil {
		old = *p.want
		// Conditions of others, and their changes, are only in the API's version.
		old.Conditions = slices.Clone(p.want.Conditions)
		old.Conditions = slices.DeleteFunc(old.Conditions, func(c corev1.PodCondition) bool { return !ownCondition(c.Type) })
		for _, c := range p.status.Conditions {
			if !slices.ContainsFunc(old.Conditions, func(o corev1.PodCondition) bool { return o.Type == c.Type }) {
				old.Conditions = append(old.Conditions, c)
			}
		}
		old.QOSClass, old.Resize = p.status.QOSClass, p.status.Resize
		old.NominatedNodeName, old.ResourceClaimStatuses = p.status.NominatedNodeName, p.status.ResourceClaimStatuses
	}
	pod := *p.pod
	pod.Status = old
	s.Pod = &pod
	r := report{snapshot: s, Finished: pl.Finished, Failure: p.failure, Waiting: p.waiting, Backoff: map[string]string{}, Ready: p.ready,
		Endings: p.endings, Images: p.names, HostIPs: k.hostIPs(), PodIPs: p.ips(),
		Allocated: p.allocated, Applied: p.applied, Resize: p.resizeConditions(), RecursiveReadOnly: k.rro}
	for name, b := range p.crash {
		if l := latest(p.containers, name); l != nil && l.State == container.Exited && !p.redefined(l) && b.next(l.FinishedAt).After(now) {
			r.Backoff[name] = b.delay.String()
		}
	}
	st := podStatus(r)
	if p.want == nil || !equalStatus(*p.want, st) {
		p.want = &st
	} else if p.sent != nil && equalStatus(*p.sent, st) {
		return
	}
	k.writeStatus(p)
}

func ownCondition(t corev1.PodConditionType) bool {
	switch t {
	case corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled,
		corev1.PodResizePending, corev1.PodResizeInProgress:
		return true
	}
	return false
}

func (p *podState) ips() []string {
	if len(p.sandboxes) == 0 {
		return nil
	}
	return p.sandboxes[0].IPs
}

func (k *Kubelet) hostIPs() []string {
	var ips []string
	for _, ip := range k.cfg.NodeIPs {
		ips = append(ips, ip.String())
	}
	return ips
}
