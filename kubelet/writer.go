// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

func equalStatus(a, b corev1.PodStatus) bool { return apiequality.Semantic.DeepEqual(a, b) }

// writeStatus sees to it that p.want gets to the API: at once if nothing is on its way, else right after that. p.mu is held.
func (k *Kubelet) writeStatus(p *podState) {
	if p.writing || k.ctx.Err() != nil {
		return
	}
	p.writing = true
	k.ops.Go(func() { k.writeLoop(p) })
}

// writeLoop sends the newest wanted status until the API has it. It ends when there is nothing left to send.
func (k *Kubelet) writeLoop(p *podState) {
	delay := 20 * time.Millisecond
	told := false // of a failure: once, not at every attempt
	for {
		p.mu.Lock()
		if p.gone || k.ctx.Err() != nil || (p.sent != nil && equalStatus(*p.sent, *p.want)) {
			p.writing = false
			if p.sent != nil && !p.forgotten {
				k.step(p) // a final status may be all that the deletion waited for
			}
			p.mu.Unlock()
			return
		}
		pod, old, want := p.statusTarget(), p.status, *p.want
		static, record := p.pod, p.steps
		p.mu.Unlock()
		if pod == nil {
			if k.makeMirror(p, static) {
				continue
			}
			sleep(k.ctx, delay)
			delay = min(2*delay, 10*time.Second)
			continue
		}
		end := record.Begin("write status " + string(want.Phase))
		got, err := k.patchStatus(k.ctx, pod, old, want)
		end()
		p.mu.Lock()
		switch {
		case err == nil:
			if got != nil && newer(got.ResourceVersion, p.version) {
				p.version, p.status = got.ResourceVersion, got.Status
			}
			p.sent, delay, told = &want, 20*time.Millisecond, false
			k.started(p, &want)
		case apierrors.IsNotFound(err), apierrors.IsConflict(err) && p.gone:
			p.sent = &want // gone: the watch will say so
		}
		p.mu.Unlock()
		if err == nil || apierrors.IsNotFound(err) {
			continue
		}
		if k.ctx.Err() == nil && !told && delay >= time.Second {
			told = true
			k.log.Warn("cannot write a pod's status, will go on trying", "namespace", pod.Namespace, "pod", pod.Name, "err", err)
		}
		sleep(k.ctx, delay)
		delay = min(2*delay, 10*time.Second)
	}
}

// makeMirror gives a static pod its mirror, and says whether it has one now.
func (k *Kubelet) makeMirror(p *podState, static *corev1.Pod) bool {
	made, err := k.createMirror(k.ctx, static)
	if err != nil {
		if k.ctx.Err() == nil && !apierrors.IsAlreadyExists(err) {
			k.log.Debug("cannot make a mirror pod, will try again", "namespace", static.Namespace, "pod", static.Name, "err", err)
		}
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mirror == nil {
		p.mirror, p.version, p.status = made, made.ResourceVersion, made.Status
	}
	return true
}

// patchStatus sends the difference between old and want, on the condition that it is still the same pod. It returns
// nil when there is none.
func (k *Kubelet) patchStatus(ctx context.Context, pod *corev1.Pod, old, want corev1.PodStatus) (*corev1.Pod, error) {
	patch, err := statusPatch(pod, old, want)
	if err != nil || isOnlyUID(patch) {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return k.cfg.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
}

// statusDocument is the part of a pod that a status patch covers.
type statusDocument struct {
	Metadata struct {
		UID types.UID `json:"uid,omitempty"`
	} `json:"metadata"`
	Status corev1.PodStatus `json:"status"`
}

func statusPatch(pod *corev1.Pod, old, want corev1.PodStatus) ([]byte, error) {
	var a, b statusDocument
	a.Status, b.Status = old, want
	b.Metadata.UID = pod.UID
	from, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	to, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(from, to, corev1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("difference of pod status: %w", err)
	}
	return patch, nil
}

// isOnlyUID says that a patch carries nothing but its precondition.
func isOnlyUID(patch []byte) bool {
	var m map[string]json.RawMessage
	return json.Unmarshal(patch, &m) == nil && len(m) == 1 && m["metadata"] != nil
}
