package scheduler

import (
	"container/heap"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Back-off of a pod that did not fit or whose binding failed, and how long a pod waits at most without any change.
const (
	initialBackoff = time.Second
	maxBackoff     = 10 * time.Second
	maxWait        = 5 * time.Minute
)

// queued is a pod that waits for a node.
type queued struct {
	pod      *corev1.Pod
	since    time.Time // when it came: the order among equals
	attempts int
	notUntil time.Time // end of its back-off
	helps    helpedBy  // while it is parked: what may wake it
	parked   time.Time // since when; zero if it is not
	index    int       // in the heap it is in, -1 if parked or being decided
	ready    bool      // in the active heap rather than the back-off heap
	changes  helpedBy  // what happened while it was being decided
}

// queue orders the pods without a node: active ones by priority and age, those in back-off by its end, and parked ones that
// only a change in the cluster can help. It has no clock and no lock of its own.
type queue struct {
	pods    map[types.UID]*queued
	active  podHeap
	backoff podHeap
}

func newQueue() *queue {
	return &queue{
		pods:    map[types.UID]*queued{},
		active:  podHeap{less: byPriority},
		backoff: podHeap{less: func(a, b *queued) bool { return a.notUntil.Before(b.notUntil) }},
	}
}

// add takes a new pod, or a new state of a waiting one, which is then worth another try.
func (q *queue) add(pod *corev1.Pod, now time.Time) {
	e, ok := q.pods[pod.UID]
	if !ok {
		e = &queued{pod: pod, since: now, index: -1}
		q.pods[pod.UID] = e
		q.activate(e)
		return
	}
	changed := schedulingChanged(e.pod, pod)
	e.pod = pod
	switch {
	case !changed:
	case !e.parked.IsZero():
		e.parked = time.Time{}
		q.wait(e, now)
	case e.index < 0:
		e.changes = anyChange
	case e.ready: // the priority never changes, and so its place does not
	}
}

// schedulingChanged says whether an update can change where the pod fits. The scheduler's own status writes cannot.
func schedulingChanged(old, pod *corev1.Pod) bool {
	return old.Generation != pod.Generation || !equalLabels(old.Labels, pod.Labels) ||
		len(old.Spec.SchedulingGates) != len(pod.Spec.SchedulingGates) || len(old.Spec.Tolerations) != len(pod.Spec.Tolerations)
}

func (q *queue) remove(uid types.UID) {
	e, ok := q.pods[uid]
	if !ok {
		return
	}
	delete(q.pods, uid)
	if e.index >= 0 {
		heap.Remove(q.heapOf(e), e.index)
	}
}

// pop returns the next pod to decide, or nil and the time from which there may be one (zero: only a change brings one).
func (q *queue) pop(now time.Time) (*queued, time.Time) {
	for q.backoff.Len() > 0 && !q.backoff.list[0].notUntil.After(now) {
		q.activate(heap.Pop(&q.backoff).(*queued))
	}
	if q.active.Len() > 0 {
		e := heap.Pop(&q.active).(*queued)
		e.attempts++
		e.changes = 0
		return e, time.Time{}
	}
	if q.backoff.Len() > 0 {
		return nil, q.backoff.list[0].notUntil
	}
	var next time.Time
	for _, e := range q.pods {
		if until := e.parked.Add(maxWait); !e.parked.IsZero() && (next.IsZero() || until.Before(next)) {
			next = until
		}
	}
	return nil, next
}

// park puts a pod that fitted nowhere aside until something happens that helps; if it happened already, it is tried again.
func (q *queue) park(e *queued, helps helpedBy, now time.Time) {
	if q.pods[e.pod.UID] != e {
		return // deleted meanwhile
	}
	e.helps = helps
	e.notUntil = now.Add(backoffFor(e.attempts))
	if e.changes&helps != 0 {
		q.wait(e, now)
		return
	}
	e.parked = now
}

// retry puts a pod whose binding failed back, after its back-off.
func (q *queue) retry(e *queued, now time.Time) {
	if q.pods[e.pod.UID] == e {
		e.notUntil = now.Add(backoffFor(e.attempts))
		q.wait(e, now)
	}
}

// wake lets the parked pods that the change may help be tried again, and those that waited too long.
func (q *queue) wake(change helpedBy, now time.Time) {
	for _, e := range q.pods {
		switch {
		case e.index >= 0:
		case e.parked.IsZero():
			e.changes |= change
		case e.helps&change != 0 || now.Sub(e.parked) >= maxWait:
			e.parked = time.Time{}
			q.wait(e, now)
		}
	}
}

// wait puts a pod into the back-off heap, or into the active one if its back-off is over.
func (q *queue) wait(e *queued, now time.Time) {
	if !e.notUntil.After(now) {
		q.activate(e)
		return
	}
	e.ready = false
	heap.Push(&q.backoff, e)
}

func (q *queue) activate(e *queued) {
	e.ready = true
	heap.Push(&q.active, e)
}

func (q *queue) heapOf(e *queued) *podHeap {
	if e.ready {
		return &q.active
	}
	return &q.backoff
}

func backoffFor(attempts int) time.Duration {
	d := initialBackoff
	for range min(attempts, 8) - 1 {
		d *= 2
	}
	return min(d, maxBackoff)
}

func byPriority(a, b *queued) bool {
	pa, pb := priorityOf(a.pod), priorityOf(b.pod)
	if pa != pb {
		return pa > pb
	}
	return a.since.Before(b.since)
}

func priorityOf(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

// podHeap is a heap.Interface whose elements know their index.
type podHeap struct {
	list []*queued
	less func(a, b *queued) bool
}

func (h *podHeap) Len() int           { return len(h.list) }
func (h *podHeap) Less(i, j int) bool { return h.less(h.list[i], h.list[j]) }
func (h *podHeap) Swap(i, j int) {
	h.list[i], h.list[j] = h.list[j], h.list[i]
	h.list[i].index, h.list[j].index = i, j
}

func (h *podHeap) Push(x any) {
	e := x.(*queued)
	e.index = len(h.list)
	h.list = append(h.list, e)
}

func (h *podHeap) Pop() any {
	last := len(h.list) - 1
	e := h.list[last]
	h.list[last] = nil
	h.list = h.list[:last]
	e.index = -1
	return e
}
