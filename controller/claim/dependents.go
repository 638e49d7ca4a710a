package claim

import (
	"maps"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"github.com/mini-k8s/mini/controller/work"
)

// Dependents tells the owners of one kind what happens to the objects they own or might. T is the dependents' type; its
// Changed is the handler to give to feed.Of. Owner, Queue and Adopters must be set.
type Dependents[T any, P interface {
	*T
	metav1.Object
}] struct {
	Owner schema.GroupVersionKind
	// Queue is called with each owner that a change concerns.
	Queue func(cache.ObjectName)
	// Adopters names those whose selector matches an object that nobody owns.
	Adopters func(namespace string, set labels.Set) []cache.ObjectName
	// Ahead holds what the controller itself wrote, grouped by the owner's UID.
	Ahead work.Ahead[P]
}

// Changed queues the owner of obj, the one it had before, or all that may adopt it. old is nil for a new object, obj for
// one that is gone.
func (d *Dependents[T, P]) Changed(old, obj *T) {
	var was *metav1.OwnerReference
	if old != nil {
		was = metav1.GetControllerOfNoCopy(P(old))
	}
	if obj == nil {
		if was != nil {
			d.Ahead.Gone(string(was.UID), P(old))
			d.queue(P(old).GetNamespace(), was)
		}
		return
	}
	now := P(obj)
	is := metav1.GetControllerOfNoCopy(now)
	if was != nil && (is == nil || is.UID != was.UID) {
		d.queue(now.GetNamespace(), was)
	}
	if is != nil {
		d.Ahead.Seen(string(is.UID), now)
		d.queue(now.GetNamespace(), is)
		return
	}
	if now.GetDeletionTimestamp() != nil || old != nil && was == nil && maps.Equal(P(old).GetLabels(), now.GetLabels()) {
		return
	}
	for _, name := range d.Adopters(now.GetNamespace(), now.GetLabels()) {
		d.Queue(name)
	}
}

func (d *Dependents[T, P]) queue(namespace string, ref *metav1.OwnerReference) {
	if ref.Kind == d.Owner.Kind && ref.APIVersion == d.Owner.GroupVersion().String() {
		d.Queue(cache.NewObjectName(namespace, ref.Name))
	}
}

// Matching returns the names of the owners whose selector matches set; an empty or broken selector matches nothing.
func Matching[T metav1.Object](owners []T, selector func(T) *metav1.LabelSelector, set labels.Set) []cache.ObjectName {
	var out []cache.ObjectName
	for _, o := range owners {
		if s, err := metav1.LabelSelectorAsSelector(selector(o)); err == nil && !s.Empty() && s.Matches(set) {
			out = append(out, cache.MetaObjectToName(o))
		}
	}
	return out
}
