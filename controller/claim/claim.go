package claim

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// Claim is the outcome of Plan. The lists do not overlap.
type Claim[T metav1.Object] struct {
	Owned   []T // owned, and to stay
	Adopt   []T // owned by nobody, to be adopted
	Release []T // owned, to be let go
}

// Plan judges the candidates, which are of the owner's namespace. An owner that is being deleted adopts and releases
// nothing, and an object that is being deleted is not adopted.
func Plan[T metav1.Object](owner metav1.Object, selector labels.Selector, candidates []T) Claim[T] {
	var out Claim[T]
	for _, o := range candidates {
		matches := selector.Matches(labels.Set(o.GetLabels()))
		switch ref := metav1.GetControllerOfNoCopy(o); {
		case ref != nil && ref.UID != owner.GetUID():
		case ref != nil && matches:
			out.Owned = append(out.Owned, o)
		case owner.GetDeletionTimestamp() != nil:
		case ref != nil:
			out.Release = append(out.Release, o)
		case matches && o.GetDeletionTimestamp() == nil:
			out.Adopt = append(out.Adopt, o)
		}
	}
	return out
}

// AdoptPatch is the strategic merge patch that makes owner the controller of object.
func AdoptPatch(owner metav1.Object, kind schema.GroupVersionKind, object types.UID) ([]byte, error) {
	return json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": object, "ownerReferences": []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)},
	}})
}

// ReleasePatch is the strategic merge patch that takes owner away from object's owners.
func ReleasePatch(owner, object types.UID) ([]byte, error) {
	return json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": object, "ownerReferences": []any{map[string]any{"$patch": "delete", "uid": owner}},
	}})
}

// podIndex indexes pods by who controls them, or as orphans of their namespace.
const podIndex = "controller"

func indexPod(obj any) ([]string, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, nil
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		return []string{string(ref.UID)}, nil
	}
	return []string{"orphans/" + pod.Namespace}, nil
}

// IndexPods makes the pod informer answer PodsOf. It may be called by each controller that needs it.
func IndexPods(informer cache.SharedIndexInformer) error {
	if _, ok := informer.GetIndexer().GetIndexers()[podIndex]; ok {
		return nil
	}
	if err := informer.AddIndexers(cache.Indexers{podIndex: indexPod}); err != nil {
		return fmt.Errorf("index pods by controller: %w", err)
	}
	return nil
}

// PodsOf returns the pods that owner controls and those of its namespace that nobody does.
func PodsOf(indexer cache.Indexer, owner metav1.Object) ([]*corev1.Pod, error) {
	var out []*corev1.Pod
	for _, key := range []string{string(owner.GetUID()), "orphans/" + owner.GetNamespace()} {
		objs, err := indexer.ByIndex(podIndex, key)
		if err != nil {
			return nil, err
		}
		for _, o := range objs {
			if pod, ok := o.(*corev1.Pod); ok {
				out = append(out, pod)
			}
		}
	}
	return out, nil
}
