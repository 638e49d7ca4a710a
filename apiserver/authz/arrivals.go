package authz

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
)

// arrivalPatience is how long a node's request waits for the informer to catch up: a kubelet hears of a pod through a watch
// of its own and may ask for the pod's secrets before the informer here has seen the pod. Without the wait it would get a
// 403 and retry much later.
const arrivalPatience = 250 * time.Millisecond

// arrivals wakes those who wait for a pod to appear on a node.
type arrivals struct {
	mu      sync.Mutex
	waiting map[string]chan struct{} // by node; closed at the next change of a pod of that node
}

var _ cache.ResourceEventHandler = (*arrivals)(nil)

func newArrivals() *arrivals { return &arrivals{waiting: map[string]chan struct{}{}} }

// await returns true as soon as ok does, and false when the patience or ctx ends first.
func (w *arrivals) await(ctx context.Context, node string, ok func() bool) bool {
	if ok() {
		return true
	}
	timer := time.NewTimer(arrivalPatience)
	defer timer.Stop()
	for {
		w.mu.Lock()
		changed := w.waiting[node]
		if changed == nil {
			changed = make(chan struct{})
			w.waiting[node] = changed
		}
		w.mu.Unlock()
		if ok() { // what changed between the last look and the registration
			return true
		}
		select {
		case <-changed:
		case <-timer.C:
			return ok()
		case <-ctx.Done():
			return false
		}
	}
}

func (w *arrivals) wake(obj any) {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if changed := w.waiting[pod.Spec.NodeName]; changed != nil {
		close(changed)
		delete(w.waiting, pod.Spec.NodeName)
	}
}

func (w *arrivals) OnAdd(obj any, _ bool) { w.wake(obj) }
func (w *arrivals) OnUpdate(_, obj any)   { w.wake(obj) }
func (w *arrivals) OnDelete(any)          {}
