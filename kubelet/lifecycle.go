// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mini-k8s/mini/kubelet/container"
	"github.com/mini-k8s/mini/kubelet/probe"
	"github.com/mini-k8s/mini/kubelet/steps"
)

// startContext is what one start of a container works with.
type startContext struct {
	pod       *corev1.Pod
	c         *corev1.Container
	sandbox   container.Sandbox
	attempt   uint32
	id        string // of a container that was created but never started
	cgroup    string
	restartOf time.Time // when the attempt before ended
}

// startError is why a container does not start: what status.state.waiting shows.
type startError struct {
	reason, message string
	wait            time.Time // not before
}

func (e *startError) Error() string { return e.reason + ": " + e.message }

// Reasons of containers that cannot start.
const (
	reasonConfigError   = "CreateContainerConfigError"
	reasonCreateError   = "CreateContainerError"
	reasonRunError      = "RunContainerError"
	reasonStartError    = "StartError"
	reasonPostStartHook = "PostStartHookError"
)

// startContainer pulls, creates and starts one attempt of a container and runs its postStart hook.
func (k *Kubelet) startContainer(ctx context.Context, p *podState, sc startContext) func() {
	name := sc.c.Name
	made, image, err := k.createContainer(ctx, p, sc)
	if err != nil {
		return func() { k.startFailed(p, ctx, sc, err) }
	}
	k.containerEvent(sc.pod, sc.c, corev1.EventTypeNormal, "Created", "Created container: "+name)
	k.update(p, func() {
		delete(p.waiting, name)
		p.names[made.ID] = image
		if !isEphemeral(sc.pod, name) {
			p.applied[made.ID] = sc.c.Resources
		}
		if have := findContainer(p.containers, made.ID); have == nil {
			p.containers = append([]container.Container{made}, p.containers...)
			sortNewest(p.containers)
		}
	})
	if err := ctx.Err(); err != nil {
		return nil // created only: the next plan goes on from there, or takes it away
	}
	began := time.Now()
	if err := k.runtime.StartContainer(ctx, made.ID); err != nil {
		return func() { k.startBroke(p, ctx, sc, made.ID, err) }
	}
	k.containerEvent(sc.pod, sc.c, corev1.EventTypeNormal, "Started", "Started container "+name)
	hook := sc.c.Lifecycle != nil && sc.c.Lifecycle.PostStart != nil
	k.update(p, func() {
		if l := findContainer(p.containers, made.ID); l != nil {
			l.StartedAt = began
			if l.State != container.Exited {
				l.State = container.Running
			}
		}
		p.succeeded(name)
		delete(p.replacing, name)
		if !sc.restartOf.IsZero() {
			if p.crash[name] == nil {
				p.crash[name] = &crashBackoff{}
			}
			p.crash[name].restarted(sc.restartOf)
		}
		if !hook {
			p.begun(made.ID, sc.c)
		}
	})
	if !hook {
		return nil
	}
	return k.postStart(ctx, p, sc, made.ID)
}

// begun marks a container as started: at once, or when its startup probe says so.
func (p *podState) begun(id string, c *corev1.Container) {
	if c.StartupProbe == nil {
		p.started[id] = true
	}
}

func (k *Kubelet) postStart(ctx context.Context, p *podState, sc startContext, id string) func() {
	err := k.runHook(ctx, sc.pod, sc.c, sc.sandboxIP(), id, sc.c.Lifecycle.PostStart)
	if err == nil || ctx.Err() != nil {
		return func() { p.begun(id, sc.c) }
	}
	k.containerEvent(sc.pod, sc.c, corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
	k.containerEvent(sc.pod, sc.c, corev1.EventTypeNormal, "Killing", "FailedPostStartHook")
	stopErr := k.runtime.StopContainer(ctx, id, specGrace(sc.pod))
	if stopErr != nil {
		k.log.Warn("cannot stop a container whose postStart hook failed", "container", id, "err", stopErr)
	}
	return func() {
		e := p.endings[id]
		e.Message = strings.TrimPrefix(e.Message+"\nPostStartHook failed: "+err.Error(), "\n")
		p.endings[id] = e
		if p.crash[sc.c.Name] == nil {
			p.crash[sc.c.Name] = &crashBackoff{}
			p.crash[sc.c.Name].restarted(time.Now())
		}
	}
}

func (sc startContext) sandboxIP() string { return first(sc.sandbox.IPs) }

// createContainer does everything before the start. The image is what the status shows.
func (k *Kubelet) createContainer(ctx context.Context, p *podState, sc startContext) (made container.Container, image string, err error) {
	if err := k.images.ensureVolumes(ctx, sc.pod, sc.c); err != nil {
		return made, "", err
	}
	img, err := k.images.ensure(ctx, imageOf(sc.pod, sc.c))
	if err != nil {
		return made, "", err
	}
	if sc.id != "" { // left over from a start that was cut short: its mounts may be of another time
		if err := k.runtime.RemoveContainer(ctx, sc.id); err != nil {
			return made, "", &startError{reason: reasonCreateError, message: err.Error()}
		}
		k.update(p, func() {
			p.containers = deleteWhere(p.containers, func(c container.Container) bool { return c.ID == sc.id })
			p.dropFacts(sc.id)
		})
	}
	end := steps.Begin(ctx, "container: environment and mounts")
	cfg, err := k.containerConfig(ctx, sc, img)
	end()
	if err != nil {
		k.containerEvent(sc.pod, sc.c, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
		return made, "", &startError{reason: reasonConfigError, message: err.Error()}
	}
	made, err = k.runtime.CreateContainer(ctx, cfg)
	if err != nil {
		if ctx.Err() == nil {
			k.containerEvent(sc.pod, sc.c, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
		}
		return made, "", &startError{reason: reasonCreateError, message: err.Error()}
	}
	return made, shownImage(img.Image, sc.c.Image), nil
}

// startFailed notes why a container could not be created and when to try again.
func (k *Kubelet) startFailed(p *podState, ctx context.Context, sc startContext, err error) {
	name := sc.c.Name
	delete(p.replacing, name)
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	var se *startError
	if !errors.As(err, &se) {
		se = &startError{reason: reasonCreateError, message: err.Error()}
	}
	p.waiting[name] = waiting{Reason: se.reason, Message: se.message}
	p.retry(name)
	if !se.wait.IsZero() {
		p.notBefore[name] = se.wait
	}
}

// startBroke notes that a created container did not start. It counts as an attempt that ended.
func (k *Kubelet) startBroke(p *podState, ctx context.Context, sc startContext, id string, err error) {
	if ctx.Err() == nil {
		k.containerEvent(sc.pod, sc.c, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
	}
	delete(p.replacing, sc.c.Name)
	l := findContainer(p.containers, id)
	if l == nil {
		return
	}
	if l.State != container.Exited {
		l.State, l.ExitCode, l.FinishedAt = container.Exited, 128, time.Now()
	}
	p.endings[id] = ending{Reason: reasonStartError, Message: err.Error()}
	b := p.crash[sc.c.Name]
	if b == nil {
		b = &crashBackoff{}
		p.crash[sc.c.Name] = b
	}
	if sc.restartOf.IsZero() {
		b.restarted(l.FinishedAt)
	} else {
		b.restarted(sc.restartOf)
	}
}

// containerConfig resolves one container: environment, command, mounts, files.
func (k *Kubelet) containerConfig(ctx context.Context, sc startContext, img pulledImage) (cfg container.ContainerConfig, err error) {
	if err := checkNonRoot(sc.pod, sc.c, img.Image); err != nil {
		return cfg, err
	}
	env, vars, err := k.environment(ctx, sc.pod, sc.c, sc.sandbox.IPs)
	if err != nil {
		return cfg, err
	}
	mounts, err := k.volumes.Mounts(sc.pod, sc.c, func(s string) (string, error) { return expandStrict(s, vars) })
	if err != nil {
		return cfg, err
	}
	devices, err := k.volumes.Devices(sc.pod, sc.c)
	if err != nil {
		return cfg, err
	}
	files, err := k.containerFiles(sc)
	if err != nil {
		return cfg, err
	}
	logDir := filepath.Join(k.podLogDir(sc.pod.Namespace, sc.pod.Name, sc.pod.UID), sc.c.Name)
	if err := os.MkdirAll(logDir, 0o755); err != nil {
		return cfg, err
	}
	cfg = container.ContainerConfig{Pod: sc.pod, Container: sc.c, SandboxID: sc.sandbox.ID, Attempt: sc.attempt, Hash: containerHash(sc.c),
		Image: img.Ref, Command: expandAll(sc.c.Command, vars), Args: expandAll(sc.c.Args, vars), Env: env,
		Mounts: append(mounts, files...), Devices: devices, CgroupParent: sc.cgroup, LogPath: filepath.Join(logDir, strconv.Itoa(int(sc.attempt))+".log")}
	for i := range sc.pod.Spec.EphemeralContainers {
		e := &sc.pod.Spec.EphemeralContainers[i]
		if e.Name == sc.c.Name && e.TargetContainerName != "" {
			cfg.TargetID = k.targetID(sc.pod.UID, e.TargetContainerName)
		}
	}
	return cfg, nil
}

// targetID finds the running container that an ephemeral one looks into.
func (k *Kubelet) targetID(uid types.UID, name string) string {
	p := k.podState(uid)
	if p == nil {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := latest(p.containers, name); l != nil && l.State == container.Running {
		return l.ID
	}
	return ""
}

// checkNonRoot applies runAsNonRoot, which only the image can answer when the spec names no user.
func checkNonRoot(pod *corev1.Pod, c *corev1.Container, img container.Image) error {
	var nonRoot *bool
	var user *int64
	if sc := pod.Spec.SecurityContext; sc != nil {
		nonRoot, user = sc.RunAsNonRoot, sc.RunAsUser
	}
	if sc := c.SecurityContext; sc != nil {
		if sc.RunAsNonRoot != nil {
			nonRoot = sc.RunAsNonRoot
		}
		if sc.RunAsUser != nil {
			user = sc.RunAsUser
		}
	}
	if nonRoot == nil || !*nonRoot {
		return nil
	}
	where := fmt.Sprintf("(pod: %q, container: %s)", podLabel(pod), c.Name)
	switch {
	case user != nil && *user == 0:
		return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
	case user != nil:
		return nil
	case img.UID != nil && *img.UID == 0, img.UID == nil && img.Username == "":
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
	case img.UID == nil:
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", img.Username, where)
	}
	return nil
}

// stopContext is what one stop of a container works with.
type stopContext struct {
	pod      *corev1.Pod
	c        *corev1.Container // nil for a container that the spec does not have
	id       string
	ip       string
	grace    time.Duration
	message  string
	skipHook bool
}

// minimumGrace is left for SIGTERM when the preStop hook has used up everything.
const minimumGrace = 2 * time.Second

// stopContainer runs the preStop hook and stops the container, both within its grace.
func (k *Kubelet) stopContainer(ctx context.Context, p *podState, st stopContext) func() {
	if st.c != nil && !st.skipHook {
		k.containerEvent(st.pod, st.c, corev1.EventTypeNormal, "Killing", st.message)
	}
	by := time.Now().Add(st.grace)
	if st.c != nil && st.c.Lifecycle != nil && st.c.Lifecycle.PreStop != nil && !st.skipHook {
		hookCtx, cancel := context.WithDeadline(ctx, by)
		err := k.runHook(hookCtx, st.pod, st.c, st.ip, st.id, st.c.Lifecycle.PreStop)
		cancel()
		if err != nil && ctx.Err() == nil {
			k.containerEvent(st.pod, st.c, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
		}
		by = maxTime(by, time.Now().Add(minimumGrace))
	}
	err := k.runtime.StopContainer(ctx, st.id, max(time.Until(by), 0))
	return func() {
		if err != nil {
			if ctx.Err() == nil {
				k.log.Warn("cannot stop a container, will try again", "namespace", p.ref.Namespace, "pod", p.ref.Name, "container", st.id, "err", err)
				p.retryStop(st)
			}
			return
		}
		if l := findContainer(p.containers, st.id); l != nil && alive(*l) {
			k.awaitExit(p, l)
		}
	}
}

// exitPatience is how long the event of an exit may lag behind the exit.
const exitPatience = 500 * time.Millisecond

// awaitExit keeps a container that has been stopped busy until the event of its exit is in. If that does not come, the runtime's
// state is read. p.mu is held.
func (k *Kubelet) awaitExit(p *podState, l *container.Container) {
	op := &operation{kind: opStop, cancel: func() {}, awaiting: l.ID}
	p.ops[l.Name] = op
	time.AfterFunc(exitPatience, func() {
		p.mu.Lock()
		lost := p.ops[l.Name] == op
		p.mu.Unlock()
		if lost {
			k.relistSoon()
		}
	})
}

// retryStop waits a moment before a stop that failed is tried again.
func (p *podState) retryStop(st stopContext) {
	if st.c != nil {
		p.retry(st.c.Name)
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// runHook runs a postStart or preStop handler.
func (k *Kubelet) runHook(ctx context.Context, pod *corev1.Pod, c *corev1.Container, ip, id string, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		out := &limitedBuffer{left: 10 << 10}
		code, err := k.runtime.Exec(ctx, id, h.Exec.Command, container.Streams{Stdout: out, Stderr: out})
		if err != nil {
			return fmt.Errorf("exec: %w", err)
		}
		if code != 0 {
			return fmt.Errorf("command %q exited with %d: %s", strings.Join(h.Exec.Command, " "), code, out.String())
		}
		return nil
	case h.HTTPGet != nil:
		if pod.Spec.HostNetwork {
			ip = first(k.hostIPs())
		}
		req, err := probe.HTTPRequest(ctx, probe.Target{Pod: pod, Container: c, ID: id, IP: ip}, h.HTTPGet, "kube-lifecycle/"+minorVersion(k.cfg.Version))
		if err != nil {
			return err
		}
		tr := probe.HTTPTransport()
		defer tr.CloseIdleConnections()
		res, err := tr.RoundTrip(req)
		if err != nil {
			return err
		}
		res.Body.Close()
		if res.StatusCode < 200 || res.StatusCode >= 400 {
			return fmt.Errorf("http lifecycle hook answered %s", res.Status)
		}
		return nil
	case h.Sleep != nil:
		sleep(ctx, time.Duration(h.Sleep.Seconds)*time.Second)
		return nil
	}
	return errors.New("invalid handler: it names no action")
}

// containerEvent records an Event about a container of a pod.
func (k *Kubelet) containerEvent(pod *corev1.Pod, c *corev1.Container, eventType, reason, message string) {
	path := fmt.Sprintf("spec.containers{%s}", c.Name)
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == c.Name {
			path = fmt.Sprintf("spec.initContainers{%s}", c.Name)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == c.Name {
			path = fmt.Sprintf("spec.ephemeralContainers{%s}", c.Name)
		}
	}
	k.recorder.Event(&corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
		ResourceVersion: pod.ResourceVersion, FieldPath: path}, eventType, reason, message)
}
