// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/mini-k8s/mini/kubelet/eviction"
)

// What users read of a node that ends its pods (KEP-2000, upstream's pkg/kubelet/nodeshutdown).
const (
	reasonShutdown         = "Terminated"
	messageShutdown        = "Pod was terminated in response to imminent node shutdown."
	reasonShutdownRejects  = "NodeShutdown"
	messageShutdownRejects = "Pod was rejected as the node is shutting down."
	messageShutdownNode    = "node is shutting down"
)

// How long Shutdown waits beyond the grace of pods: for the Node's status to be stored before any pod ends, so that nothing is
// scheduled here in their place, and for what comes after SIGKILL.
const (
	shutdownNotice = 2 * time.Second
	shutdownSlack  = 5 * time.Second
)

// Shutdown ends the pods of the node within ShutdownGracePeriod and a few seconds: the critical ones last, in the final
// ShutdownGracePeriodCriticalPods of it. Pods that come meanwhile are refused. It returns when all have ended and the API
// knows, when the time is up, or when ctx ends; Run must go on until then. Ended pods are Failed and never run again; static
// pods do, with the next Run.
func (k *Kubelet) Shutdown(ctx context.Context) {
	k.mu.Lock()
	began := k.began
	k.mu.Unlock()
	if !began {
		k.log.Warn("the pods of this node run on: the server has not said yet which pods it has")
		return
	}
	k.shutdown.Store(true)
	k.recorder.Event(k.node.ref(), corev1.EventTypeNormal, "Shutdown", "Shutdown manager detected shutdown event")
	k.node.poke()
	k.node.awaitShutdown(ctx, shutdownNotice)
	k.mu.Lock()
	all := k.podListLocked() // a pod that is not in this list will find the node shutting down
	k.mu.Unlock()
	var ordinary, critical []*podState
	for _, p := range all {
		switch active, isCritical := p.active(); {
		case active && isCritical:
			critical = append(critical, p)
		case active:
			ordinary = append(ordinary, p)
		}
	}
	begin := time.Now()
	k.log.Info("ending the pods of this node", "pods", len(ordinary), "critical", len(critical), "within", k.cfg.ShutdownGracePeriod)
	left := k.endPods(ctx, ordinary, k.cfg.ShutdownGracePeriod-k.cfg.ShutdownGracePeriodCriticalPods)
	if len(critical) > 0 {
		k.log.Info("ending the critical pods of this node", "pods", len(critical), "within", k.cfg.ShutdownGracePeriodCriticalPods)
		left += k.endPods(ctx, critical, k.cfg.ShutdownGracePeriodCriticalPods)
	}
	took := time.Since(begin).Round(time.Millisecond)
	if left > 0 {
		k.log.Warn("not all pods of this node ended in time, or the server does not know of it; they may run on", "pods", left, "after", took)
		return
	}
	k.log.Info("the pods of this node have ended", "after", took)
}

// active says whether anything of the pod is still to be ended, and whether that is to be done last.
func (p *podState) active() (active, critical bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pod == nil || !p.admitted || p.forgotten || p.settled() {
		return false, false
	}
	return true, eviction.Critical(p.pod, false)
}

// endPods ends pods side by side within grace and returns how many have not come to their end.
func (k *Kubelet) endPods(ctx context.Context, pods []*podState, grace time.Duration) (left int) {
	by := time.Now().Add(grace)
	ctx, cancel := context.WithDeadline(ctx, by.Add(shutdownSlack))
	defer cancel()
	over := make([]chan struct{}, len(pods))
	for i, p := range pods {
		over[i] = make(chan struct{})
		k.update(p, func() {
			p.over, p.endBy = over[i], by
			if p.failure == nil && !p.stop() && (p.want == nil || !isTerminal(p.want.Phase)) {
				p.failure = &failure{Reason: reasonShutdown, Message: messageShutdown, Disrupted: true}
			}
		})
	}
	for _, ch := range over {
		if !waitFor(ctx, ch) {
			left++
		}
	}
	return left
}

// settled says that nothing of the pod is left to do: nothing runs, and what the API is to know of it, it knows. p.mu is held.
func (p *podState) settled() bool {
	switch {
	case p.forgotten:
		return true
	case p.pod == nil || p.gone || !p.cleaned:
		return false
	case p.pod.DeletionTimestamp != nil:
		return p.deleted
	}
	return p.want != nil && isTerminal(p.want.Phase) && p.sent != nil && equalStatus(*p.sent, *p.want)
}

// tellOver lets Shutdown know of the pod's end. p.mu is held.
func (p *podState) tellOver() {
	if p.over != nil && p.settled() {
		close(p.over)
		p.over = nil
	}
}

// endedByShutdown says that a mirror pod shows a static pod that an earlier run of this node ended or refused because the node
// was shutting down. That is no end for a static pod.
func endedByShutdown(st *corev1.PodStatus) bool {
	return st.Phase == corev1.PodFailed && (st.Reason == reasonShutdown || st.Reason == reasonShutdownRejects)
}

// tellShutdown notes that a status that says so was written. Only the loop that writes the status calls it.
func (n *nodeStatus) tellShutdown(st *corev1.NodeStatus) {
	for _, c := range st.Conditions {
		if c.Type != corev1.NodeReady || c.Message != messageShutdownNode {
			continue
		}
		select {
		case <-n.shutdown:
		default:
			close(n.shutdown)
		}
	}
}

// awaitShutdown waits until the API shows that the node is shutting down, at most for d.
func (n *nodeStatus) awaitShutdown(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	waitFor(ctx, n.shutdown)
}
