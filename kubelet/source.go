// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/mini-k8s/mini/kubelet/object"
	"github.com/mini-k8s/mini/kubelet/steps"
)

// startInformers follows the pods of this node and the Services.
func (k *Kubelet) startInformers(ctx context.Context) (cache.DoneChecker, error) {
	pods := k.cfg.Client.CoreV1().Pods(metav1.NamespaceAll)
	selector := fields.OneTermEqualSelector("spec.nodeName", k.cfg.NodeName).String()
	lw := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			return pods.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			return pods.Watch(ctx, o)
		},
	}, k.cfg.Client)
	informer := cache.NewSharedIndexInformer(lw, &corev1.Pod{}, 0, cache.Indexers{})
	handler, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { k.podChanged(o.(*corev1.Pod)) },
		UpdateFunc: func(was, o any) {
			// After a gap in the watch, a pod of the same name may be another one.
			if old := was.(*corev1.Pod); old.UID != o.(*corev1.Pod).UID {
				k.podDeleted(old)
			}
			k.podChanged(o.(*corev1.Pod))
		},
		DeleteFunc: func(o any) {
			if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = d.Obj
			}
			if pod, ok := o.(*corev1.Pod); ok {
				k.podDeleted(pod)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("kubelet: %w", err)
	}
	factory := k.cfg.Informers
	if factory == nil {
		factory = informers.NewSharedInformerFactory(k.cfg.Client, 0)
	}
	services := factory.Core().V1().Services()
	k.services = services.Lister()
	k.synced = append(k.synced, services.Informer().HasSyncedChecker())
	factory.Start(ctx.Done())
	k.ops.Go(func() { informer.RunWithContext(ctx) })
	return handler.HasSyncedChecker(), nil
}

// podChanged takes in what the API says of a pod.
func (k *Kubelet) podChanged(pod *corev1.Pod) {
	if pod.Spec.NodeName != k.cfg.NodeName {
		return
	}
	if isMirror(pod) {
		k.mirrorChanged(pod)
		return
	}
	k.mu.Lock()
	p := k.pods[pod.UID]
	if p == nil {
		p = newPodState(pod.UID)
		if ph := pod.Status.Phase; ph == corev1.PodPending || ph == "" { // else it started long ago
			p.steps = steps.New()
		}
		k.pods[pod.UID] = p
	}
	k.mu.Unlock()
	k.update(p, func() { p.take(pod) })
}

func (k *Kubelet) podDeleted(pod *corev1.Pod) {
	if isMirror(pod) {
		k.mirrorDeleted(pod)
		return
	}
	if p := k.podState(pod.UID); p != nil {
		k.update(p, func() {
			if newer(pod.ResourceVersion, p.version) {
				p.pod = pod
			}
			p.gone = true
		})
	}
}

// objectChanged brings the pods that use a Secret or ConfigMap forward: their volumes follow, and those that waited for it go on.
func (k *Kubelet) objectChanged(key object.Key) {
	for _, uid := range k.objects.Users(key) {
		if p := k.podState(uid); p != nil {
			k.update(p, func() {
				p.refresh = true
				clear(p.notBefore) // whatever waits may have waited for this
			})
		}
	}
}

// byCreation orders pods as the API made them, so that admission after a restart decides as it did before.
func byCreation(all []*podState) []*podState {
	key := func(p *podState) (t metav1.Time) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.pod != nil {
			t = p.pod.CreationTimestamp
		}
		return t
	}
	times := make(map[*podState]metav1.Time, len(all))
	for _, p := range all {
		times[p] = key(p)
	}
	slices.SortFunc(all, func(a, b *podState) int {
		return cmp.Or(times[a].Compare(times[b].Time), cmp.Compare(a.uid, b.uid))
	})
	return all
}
