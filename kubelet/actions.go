// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mini-k8s/mini/kubelet/container"
	"github.com/mini-k8s/mini/kubelet/downward"
	"github.com/mini-k8s/mini/kubelet/steps"
	"github.com/mini-k8s/mini/kubelet/volume"
)

// act starts an action of a plan. p.mu is held; the action runs by itself and ends in update.
func (k *Kubelet) act(p *podState, a action) {
	pod := p.allocatedPod()
	switch a.Verb {
	case prepareVolumes:
		p.refresh = false
		parent := ""
		if todo, _ := p.resizeSteps(); p.volumes && len(todo) > 0 {
			parent = p.cgroup // a resize is on its way, and knows in which order to change the cgroups
		}
		k.start(p, targetVolumes, opStart, func(ctx context.Context) func() { return k.prepareVolumes(ctx, p, pod, parent) })
	case createSandbox:
		parent := p.cgroup
		k.start(p, targetSandbox, opStart, func(ctx context.Context) func() { return k.createSandbox(ctx, p, pod, parent, a.Attempt) })
	case stopSandbox:
		k.start(p, targetSandbox, opStop, func(ctx context.Context) func() { return k.stopSandbox(ctx, p, a.ID) })
	case removeSandbox:
		k.start(p, a.ID, opStop, func(ctx context.Context) func() { return k.removeSandbox(ctx, p, a.ID) })
	case removeContainer:
		l := findContainer(p.containers, a.ID)
		if l == nil {
			return
		}
		log := l.LogPath
		k.start(p, a.ID, opStop, func(ctx context.Context) func() { return k.removeContainer(ctx, p, a.ID, log) })
	case startContainer:
		c := containerSpec(pod, a.Container)
		if c == nil || len(p.sandboxes) == 0 {
			return
		}
		sc := startContext{pod: pod, c: c, sandbox: p.sandboxes[0], attempt: a.Attempt, id: a.ID, cgroup: p.cgroup}
		if l := latest(p.containers, c.Name); l != nil && l.State == container.Exited {
			sc.restartOf = l.FinishedAt
		}
		k.start(p, c.Name, opStart, func(ctx context.Context) func() { return k.startContainer(ctx, p, sc) })
	case stopContainer:
		k.actStop(p, a)
	}
}

// actStop stops a container with the grace that the reason for it leaves.
func (k *Kubelet) actStop(p *podState, a action) {
	grace := specGrace(p.pod)
	if p.stopping {
		grace = max(time.Until(p.stopBy), time.Second)
	} else if u, ok := p.unhealthy[a.ID]; a.Unhealthy && ok && u.grace != nil {
		grace = time.Duration(*u.grace) * time.Second
	}
	st := stopContext{pod: p.pod, c: containerSpec(p.pod, a.Container), id: a.ID, grace: grace, message: a.Message, ip: first(p.ips()), skipHook: p.hooked[a.ID]}
	op := k.start(p, a.Container, opStop, func(ctx context.Context) func() { return k.stopContainer(ctx, p, st) })
	op.until = time.Now().Add(grace)
	if a.Replace {
		p.replacing[a.Container] = true
	}
	p.hooked[a.ID] = true
}

// start runs f as the operation on target. f returns what to change in the state, which it must not touch itself.
func (k *Kubelet) start(p *podState, target string, kind opKind, f func(ctx context.Context) func()) *operation {
	ctx, cancel := context.WithCancel(steps.With(k.ctx, p.steps))
	op := &operation{kind: kind, cancel: cancel}
	p.ops[target] = op
	k.ops.Go(func() {
		defer cancel()
		apply := f(ctx)
		k.update(p, func() {
			delete(p.ops, target)
			if apply != nil {
				apply()
			}
		})
	})
	return op
}

// retry notes a failed attempt on a target and when to try again: after 1 s, 2 s, 4 s, … at most every 16 s.
func (p *podState) retry(target string) {
	d := time.Second << min(p.failures[target], 4)
	p.failures[target]++
	p.notBefore[target] = time.Now().Add(d)
}

func (p *podState) succeeded(target string) {
	delete(p.failures, target)
	delete(p.notBefore, target)
}

// prepareVolumes makes or refreshes the pod's directories and volumes, and its cgroup unless parent is that already.
func (k *Kubelet) prepareVolumes(ctx context.Context, p *podState, pod *corev1.Pod, parent string) func() {
	k.objects.Use(pod.UID, append(volume.Keys(pod), objectKeys(pod)...))
	var err error
	if parent == "" {
		end := steps.Begin(ctx, "cgroup")
		parent, err = k.ensureCgroup(pod)
		end()
	}
	var renew time.Time
	end := steps.Begin(ctx, "directories and volumes")
	if err == nil {
		err = k.makePodDirs(pod)
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		defer cancel()
		renew, err = k.volumes.Setup(ctx, pod, k.facts(nil))
	}
	end()
	if err != nil && ctx.Err() == nil {
		k.recorder.Event(pod, corev1.EventTypeWarning, "FailedMount", err.Error())
	}
	return func() {
		if err != nil {
			p.retry(targetVolumes)
			if p.volumes {
				p.refresh, p.renew = false, p.notBefore[targetVolumes] // what is there stays; try again later
			}
			return
		}
		p.succeeded(targetVolumes)
		p.volumes, p.cgroup, p.renew = true, parent, renew
	}
}

func (k *Kubelet) ensureCgroup(pod *corev1.Pod) (string, error) {
	if k.cfg.Cgroups != nil {
		return k.cfg.Cgroups.EnsurePod(pod)
	}
	return filepath.Join(k.cfg.CgroupRoot, "kubepods", "pod"+string(pod.UID)), nil
}

func (k *Kubelet) makePodDirs(pod *corev1.Pod) error {
	dir := k.volumes.PodDir(pod.UID)
	for _, d := range []string{filepath.Join(dir, "volumes"), filepath.Join(dir, "containers")} {
		if err := os.MkdirAll(d, 0o750); err != nil {
			return err
		}
	}
	return os.MkdirAll(k.podLogDir(pod.Namespace, pod.Name, pod.UID), 0o755)
}

func (k *Kubelet) podLogDir(namespace, name string, uid types.UID) string {
	return filepath.Join(k.logsDir(), namespace+"_"+name+"_"+string(uid))
}

func (k *Kubelet) facts(podIPs []string) downward.Facts {
	return downward.Facts{HostIPs: k.hostIPs(), PodIPs: podIPs, Allocatable: k.node.allocatable()}
}

func (k *Kubelet) createSandbox(ctx context.Context, p *podState, pod *corev1.Pod, parent string, attempt uint32) func() {
	cfg := container.SandboxConfig{Pod: pod, Attempt: attempt, Hostname: hostname(pod, k.cfg.ClusterDomain), CgroupParent: parent,
		LogDir: k.podLogDir(pod.Namespace, pod.Name, pod.UID), Sysctls: map[string]string{}}
	if pod.Spec.HostNetwork {
		cfg.Hostname = k.cfg.Hostname
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		for _, s := range sc.Sysctls {
			cfg.Sysctls[dottedSysctl(s.Name)] = s.Value
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	var sb container.Sandbox
	err := k.checkRuntimeClass(ctx, pod)
	if err == nil {
		sb, err = k.runtime.RunSandbox(ctx, cfg)
	}
	if err == nil {
		end := steps.Begin(ctx, "hosts and resolv.conf")
		err = k.writePodFiles(pod, sb.IPs)
		end()
	}
	if err != nil && ctx.Err() == nil {
		k.recorder.Event(pod, corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: "+err.Error())
	}
	return func() {
		if sb.ID != "" {
			if e, ok := p.lost[sb.ID]; ok && e.Exited {
				sb.State = container.Exited
			}
			p.sandboxes = append([]container.Sandbox{sb}, p.sandboxes...)
		}
		clear(p.lost)
		if err != nil {
			p.retry(targetSandbox)
			return
		}
		p.succeeded(targetSandbox)
	}
}

func (k *Kubelet) stopSandbox(ctx context.Context, p *podState, id string) func() {
	err := k.runtime.StopSandbox(ctx, id)
	if err != nil && ctx.Err() == nil {
		k.log.Warn("cannot stop a pod sandbox, will try again", "namespace", p.ref.Namespace, "pod", p.ref.Name, "sandbox", id, "err", err)
	}
	return func() {
		if err != nil {
			p.retry(targetSandbox)
			return
		}
		p.succeeded(targetSandbox)
		p.stopped[id] = true
		for i := range p.sandboxes {
			if p.sandboxes[i].ID == id {
				p.sandboxes[i].State = container.Exited
			}
		}
		for _, c := range p.containers {
			if c.SandboxID == id && alive(c) {
				k.relistSoon() // its exit was not reported: read what became of it
			}
		}
	}
}

func (k *Kubelet) removeSandbox(ctx context.Context, p *podState, id string) func() {
	err := k.runtime.RemoveSandbox(ctx, id)
	return func() {
		if err != nil {
			k.log.Debug("cannot remove a pod sandbox", "sandbox", id, "err", err)
			return
		}
		p.dropSandbox(id)
	}
}

func (p *podState) dropSandbox(id string) {
	p.sandboxes = deleteWhere(p.sandboxes, func(s container.Sandbox) bool { return s.ID == id })
	for _, c := range p.containers {
		if c.SandboxID == id {
			p.dropFacts(c.ID)
		}
	}
	p.containers = deleteWhere(p.containers, func(c container.Container) bool { return c.SandboxID == id })
	delete(p.stopped, id)
}

// dropFacts forgets what was noted about one container.
func (p *podState) dropFacts(id string) {
	p.tellExit(id)
	delete(p.endings, id)
	delete(p.names, id)
	delete(p.started, id)
	delete(p.ready, id)
	delete(p.unhealthy, id)
	delete(p.hooked, id)
	delete(p.applied, id)
	delete(p.restart, id)
}

// deleteWhere returns a new slice: plans hold the old one.
func deleteWhere[T any](s []T, drop func(T) bool) []T {
	out := make([]T, 0, len(s))
	for _, x := range s {
		if !drop(x) {
			out = append(out, x)
		}
	}
	return out
}

func (k *Kubelet) removeContainer(ctx context.Context, p *podState, id, log string) func() {
	err := k.runtime.RemoveContainer(ctx, id)
	if err == nil && log != "" {
		err = removeLogs(log)
	}
	return func() {
		if err != nil {
			k.log.Debug("cannot remove a dead container", "container", id, "err", err)
			return
		}
		p.containers = deleteWhere(p.containers, func(c container.Container) bool { return c.ID == id })
		p.dropFacts(id)
	}
}

// conclude cleans up after a pod of which nothing runs any more, and takes it from the API if it was deleted there. p.mu is held.
func (k *Kubelet) conclude(p *podState) {
	const target = targetConclude
	if p.ops[target] != nil || k.ctx.Err() != nil {
		return
	}
	if time.Now().Before(p.notBefore[target]) {
		return
	}
	pod := p.pod
	switch {
	case !p.cleaned:
		k.start(p, target, opStop, func(ctx context.Context) func() {
			err := k.cleanUp(p.uid)
			if err != nil {
				k.log.Warn("cannot clean up after a pod, will try again", "namespace", p.ref.Namespace, "pod", p.ref.Name, "err", err)
			}
			return func() {
				if err != nil {
					p.retry(target)
					return
				}
				p.succeeded(target)
				p.cleaned, p.volumes = true, false
				k.ops.Go(k.retryDeferred) // there may be room now
			}
		})
	case p.gone:
		sandboxes := p.sandboxes
		mirror := p.mirror
		k.start(p, target, opStop, func(ctx context.Context) func() {
			if mirror != nil {
				k.deleteMirror(ctx, mirror)
			}
			return k.forget(ctx, p, sandboxes)
		})
	case pod.DeletionTimestamp != nil && !p.deleted && !p.writing:
		k.start(p, target, opStop, func(ctx context.Context) func() { return k.deletePod(ctx, p, pod) })
	}
}

// cleanUp removes what a pod had on this node besides its dead containers and logs.
func (k *Kubelet) cleanUp(uid types.UID) error {
	k.objects.Use(uid, nil)
	errs := []error{k.volumes.Teardown(uid)}
	if k.cfg.Cgroups != nil {
		errs = append(errs, k.cfg.Cgroups.RemovePod(uid))
	}
	return errors.Join(errs...)
}

// deletePod removes the pod from the API, now that nothing of it is left.
func (k *Kubelet) deletePod(ctx context.Context, p *podState, pod *corev1.Pod) func() {
	zero := int64(0)
	err := k.cfg.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	return func() {
		switch {
		case err == nil, apierrors.IsNotFound(err), apierrors.IsConflict(err):
			p.deleted = true
		case ctx.Err() == nil:
			k.log.Warn("cannot delete a pod that has ended, will try again", "namespace", pod.Namespace, "pod", pod.Name, "err", err)
			p.retry(targetConclude)
		}
	}
}

// forget removes the last traces of a pod that the API has no more.
func (k *Kubelet) forget(ctx context.Context, p *podState, sandboxes []container.Sandbox) func() {
	var errs []error
	for _, s := range sandboxes {
		errs = append(errs, k.runtime.RemoveSandbox(ctx, s.ID))
	}
	if p.ref.Name != "" {
		errs = append(errs, os.RemoveAll(k.podLogDir(p.ref.Namespace, p.ref.Name, p.uid)))
	}
	err := errors.Join(errs...)
	return func() {
		if err != nil {
			k.log.Warn("cannot remove what a pod left, will try again", "namespace", p.ref.Namespace, "pod", p.ref.Name, "err", err)
			p.retry(targetConclude)
			return
		}
		p.forgotten = true
		k.images.forget(p.uid)
		if p.timer != nil {
			p.timer.Stop()
		}
		k.mu.Lock()
		delete(k.pods, p.uid)
		next, again := k.leaveStaticLocked(p)
		k.mu.Unlock()
		if next != nil || again != nil {
			k.ops.Go(func() {
				if again != nil {
					k.addStatic(again)
				}
				if next != nil {
					k.update(next, nil)
				}
			})
		}
	}
}

func findContainer(all []container.Container, id string) *container.Container {
	for i := range all {
		if all[i].ID == id {
			return &all[i]
		}
	}
	return nil
}

// orphanPod stands in for a pod that only the runtime knows: enough to stop it.
func orphanPod(ref container.PodRef) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ref.Namespace, Name: ref.Name, UID: types.UID(ref.UID)}}
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	return pod
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}
