package work

import (
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// aheadFor is how long an informer may lag before what we remember is dropped: the object is then one that it will never
// show, because it came and went while the watch was interrupted.
const aheadFor = 30 * time.Second

// Ahead remembers what our own writes returned until the informer shows it or something newer, so that a plan made in between
// knows of them. Objects are grouped, by owner for example, and named within the group.
type Ahead[T metav1.Object] struct {
	mu     sync.Mutex
	groups map[string]map[string]written[T]
	swept  time.Time
}

type written[T metav1.Object] struct {
	obj  T
	gone bool
	at   time.Time
}

// Wrote remembers obj, the answer of a create or update.
func (a *Ahead[T]) Wrote(group string, obj T) { a.put(group, obj, false) }

// Deleted remembers that obj, as it was last known, has been deleted. It stays out of sight until the informer shows it as
// being deleted, or no more.
func (a *Ahead[T]) Deleted(group string, obj T) { a.put(group, obj, true) }

func (a *Ahead[T]) put(group string, obj T, gone bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.groups == nil {
		a.groups = map[string]map[string]written[T]{}
	}
	if a.groups[group] == nil {
		a.groups[group] = map[string]written[T]{}
	}
	now := time.Now()
	a.groups[group][obj.GetName()] = written[T]{obj, gone, now}
	if now.Sub(a.swept) < aheadFor {
		return
	}
	// What the informer showed before the answer of the write came back is not dropped by Seen; here it is.
	a.swept = now
	for group, objs := range a.groups {
		for name, w := range objs {
			if now.Sub(w.at) > aheadFor {
				a.dropLocked(group, name)
			}
		}
	}
}

// Seen is to be called for every object that the informer delivers.
func (a *Ahead[T]) Seen(group string, obj T) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if w, ok := a.groups[group][obj.GetName()]; ok && !newer(w, obj) {
		a.dropLocked(group, obj.GetName())
	}
}

// Gone is to be called for every object that the informer reports as deleted.
func (a *Ahead[T]) Gone(group string, obj T) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if w, ok := a.groups[group][obj.GetName()]; ok && w.obj.GetUID() == obj.GetUID() {
		a.dropLocked(group, obj.GetName())
	}
}

// Forget drops what is remembered of one object, when a write showed that it is wrong.
func (a *Ahead[T]) Forget(group, name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dropLocked(group, name)
}

func (a *Ahead[T]) dropLocked(group, name string) {
	delete(a.groups[group], name)
	if len(a.groups[group]) == 0 {
		delete(a.groups, group)
	}
}

// Over returns the group as it is after our writes: cached, which is the informer's view of it, with what it lags behind
// replaced, added and taken out. cached itself is not changed.
func (a *Ahead[T]) Over(group string, cached []T) []T {
	a.mu.Lock()
	defer a.mu.Unlock()
	ours := a.groups[group]
	if len(ours) == 0 {
		return cached
	}
	out := make([]T, 0, len(cached)+len(ours))
	shown := make(map[string]bool, len(cached))
	for _, obj := range cached {
		w, ok := ours[obj.GetName()]
		switch {
		case !ok:
			out = append(out, obj)
		case w.gone && newer(w, obj):
		case !w.gone && newer(w, obj):
			out = append(out, w.obj)
		default:
			out = append(out, obj)
		}
		shown[obj.GetName()] = true
	}
	for name, w := range ours {
		switch {
		case time.Since(w.at) > aheadFor:
			a.dropLocked(group, name)
		case !w.gone && !shown[name]:
			out = append(out, w.obj)
		}
	}
	return out
}

// newer says whether our write is ahead of what the informer shows.
func newer[T metav1.Object](w written[T], shown T) bool {
	if w.gone {
		return w.obj.GetUID() == shown.GetUID() && shown.GetDeletionTimestamp() == nil
	}
	cmp, err := resourceversion.CompareResourceVersion(w.obj.GetResourceVersion(), shown.GetResourceVersion())
	return err == nil && cmp > 0
}
