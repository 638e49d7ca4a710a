// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"bytes"
	"context"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/mini-k8s/mini/kubelet/container"
	"github.com/mini-k8s/mini/kubelet/probe"
)

// followProbes starts and ends probes as containers come and go. p.mu is held.
func (k *Kubelet) followProbes(p *podState, finished bool) {
	for i := range p.containers {
		l := &p.containers[i]
		if l.State != container.Running {
			continue
		}
		c := containerSpec(p.pod, l.Name)
		if c == nil || isEphemeral(p.pod, l.Name) {
			continue
		}
		if finished {
			k.probes.Keep(l.ID, probe.Readiness)
			continue
		}
		if c.StartupProbe == nil && c.LivenessProbe == nil && c.ReadinessProbe == nil {
			if op := p.ops[c.Name]; op == nil { // taken over: its hook ran in an earlier life
				p.started[l.ID] = true
			}
			continue
		}
		wasStarted, wasReady := k.reportedProbes(p, c, l)
		if wasStarted && !p.started[l.ID] {
			p.started[l.ID] = true
		}
		if wasReady {
			if _, known := p.ready[l.ID]; !known {
				p.ready[l.ID] = true
			}
		}
		if c.StartupProbe == nil && p.ops[c.Name] == nil {
			p.started[l.ID] = true
		}
		ip := first(p.ips())
		if p.pod.Spec.HostNetwork {
			ip = first(k.hostIPs())
		}
		k.probes.Add(probe.Target{Pod: p.pod, Container: c, ID: l.ID, IP: ip, StartedAt: l.StartedAt}, p.started[l.ID] || c.StartupProbe == nil, wasReady)
	}
}

// reportedProbes is what the API shows of a container that this process did not start itself.
func (k *Kubelet) reportedProbes(p *podState, c *corev1.Container, l *container.Container) (started, ready bool) {
	if p.want != nil {
		return false, false // this process has reported on it already
	}
	for _, list := range [][]corev1.ContainerStatus{p.status.InitContainerStatuses, p.status.ContainerStatuses} {
		if cs := findStatus(list, c.Name); cs != nil && cs.ContainerID == containerIDPrefix+l.ID {
			return cs.Started != nil && *cs.Started, cs.Ready
		}
	}
	return false, false
}

func isEphemeral(pod *corev1.Pod, name string) bool {
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return true
		}
	}
	return false
}

// onVerdict takes in a probe's change of mind.
func (k *Kubelet) onVerdict(v probe.Verdict) {
	p := k.podState(v.Target.Pod.UID)
	if p == nil {
		return
	}
	k.update(p, func() {
		l := findContainer(p.containers, v.Target.ID)
		if l == nil || l.State != container.Running {
			return
		}
		switch {
		case v.Kind == probe.Readiness:
			p.ready[l.ID] = v.OK
		case v.OK:
			p.started[l.ID] = true
		case v.Kind == probe.Liveness:
			p.unhealthy[l.ID] = unhealthy{message: "Container " + l.Name + " failed liveness probe, will be restarted", grace: v.Target.Container.LivenessProbe.TerminationGracePeriodSeconds}
		default:
			p.unhealthy[l.ID] = unhealthy{message: "Container " + l.Name + " failed startup probe, will be restarted", grace: v.Target.Container.StartupProbe.TerminationGracePeriodSeconds}
		}
	})
}

func (k *Kubelet) onProbeFailure(t probe.Target, kind probe.Kind, r probe.Result, output string) {
	if r == probe.Unknown {
		k.containerEvent(t.Pod, t.Container, corev1.EventTypeWarning, "Unhealthy", kind.String()+" probe errored and resulted in unknown state: "+output)
		return
	}
	k.containerEvent(t.Pod, t.Container, corev1.EventTypeWarning, "Unhealthy", kind.String()+" probe failed: "+output)
}

// execer runs exec probes through the runtime.
type execer struct{ k *Kubelet }

// ExecProbe implements probe.Execer.
func (e execer) ExecProbe(ctx context.Context, id string, command []string) (string, int, error) {
	out := &limitedBuffer{left: 10 << 10}
	code, err := e.k.runtime.Exec(ctx, id, command, container.Streams{Stdout: out, Stderr: out})
	return out.String(), code, err
}

// limitedBuffer keeps the beginning of what is written and takes the rest without keeping it.
type limitedBuffer struct {
	mu   sync.Mutex // stdout and stderr are written at the same time
	buf  bytes.Buffer
	left int
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(p), b.left)
	b.left -= n
	b.buf.Write(p[:n])
	return len(p), nil
}

func (b *limitedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// minorVersion cuts "v1.36.0+x" down to "1.36".
func minorVersion(v string) string {
	parts := strings.SplitN(strings.TrimPrefix(v, "v"), ".", 3)
	if len(parts) < 2 {
		return "1"
	}
	return parts[0] + "." + parts[1]
}
