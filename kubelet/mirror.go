// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A mirror pod shows a static pod in the API: it carries the status, and nothing else of it is obeyed. The kubelet makes it again when
// somebody deletes it, and takes it away with the file.

// isMirror tells a mirror pod from one that the API wants run.
func isMirror(pod *corev1.Pod) bool {
	_, ok := pod.Annotations[annotationConfigMirror]
	return ok
}

// mirrorOf finds the static pod that a mirror pod shows: the newest of its name.
func (k *Kubelet) mirrorOf(pod *corev1.Pod) *podState {
	k.mu.Lock()
	defer k.mu.Unlock()
	uids := k.static[pod.Namespace+"/"+pod.Name]
	for i := len(uids) - 1; i >= 0; i-- {
		if p := k.pods[uids[i]]; p != nil && p.static.Load() {
			return p
		}
	}
	return nil
}

// mirrorChanged takes in a mirror pod of this node. One that shows nothing, or not what the file says, is removed.
func (k *Kubelet) mirrorChanged(pod *corev1.Pod) {
	p := k.mirrorOf(pod)
	if p == nil || string(p.uid) != pod.Annotations[annotationConfigMirror] || pod.DeletionTimestamp != nil {
		k.ops.Go(func() { k.deleteMirror(k.ctx, pod) })
		return
	}
	if !k.shutdown.Load() && endedByShutdown(&pod.Status) {
		k.ops.Go(func() { k.deleteMirror(k.ctx, pod) }) // it is made anew
		return
	}
	k.update(p, func() {
		if p.mirror != nil && p.mirror.UID == pod.UID && !newer(pod.ResourceVersion, p.version) {
			return
		}
		if p.mirror == nil || p.mirror.UID != pod.UID {
			p.sent = nil
		}
		p.mirror = pod
		p.noteStatus(pod)
	})
}

// mirrorDeleted forgets a mirror pod; the next status makes it again.
func (k *Kubelet) mirrorDeleted(pod *corev1.Pod) {
	p := k.mirrorOf(pod)
	if p == nil {
		return
	}
	k.update(p, func() {
		if p.mirror != nil && p.mirror.UID == pod.UID {
			p.mirror, p.sent, p.version = nil, nil, ""
		}
	})
}

// createMirror makes the mirror pod of a static pod.
func (k *Kubelet) createMirror(ctx context.Context, static *corev1.Pod) (*corev1.Pod, error) {
	node := k.node.current()
	if node == nil {
		return nil, errors.New("the node is not registered yet")
	}
	pod := static.DeepCopy()
	pod.UID, pod.ResourceVersion, pod.Status = "", "", corev1.PodStatus{}
	pod.Annotations[annotationConfigMirror] = string(static.UID)
	yes := true
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: &yes}}
	return k.cfg.Client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
}

func (k *Kubelet) deleteMirror(ctx context.Context, mirror *corev1.Pod) {
	zero := int64(0)
	err := k.cfg.Client.CoreV1().Pods(mirror.Namespace).Delete(ctx, mirror.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &mirror.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
		k.log.Warn("cannot delete a mirror pod", "namespace", mirror.Namespace, "pod", mirror.Name, "err", err)
	}
}

// statusTarget is the object in the API that shows the pod's status; nil while a static pod has no mirror.
func (p *podState) statusTarget() *corev1.Pod {
	if p.static.Load() {
		return p.mirror
	}
	return p.pod
}

// hasUID says whether a client means this pod by a uid: a static pod is known in the API by that of its mirror.
func (p *podState) hasUID(uid types.UID) bool {
	return p.uid == uid || p.mirror != nil && p.mirror.UID == uid
}
