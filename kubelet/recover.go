// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mini-k8s/mini/kubelet/container"
)

// What recovery assumes: the runtime's labels tell pod, container, attempt and hash; its states are true; the API's
// pod may be newer or gone; volumes are on disk or half made; nothing else survives. What was stored × what is real:
//
//	API       sandbox   container    becomes
//	pod       running   running      adopted: same ID, same attempt; probes go on, readiness as the API shows it
//	pod       running   exited       an exit that happened while away: the usual restart rules, back-off from its end
//	pod       running   created      a start that was cut short: made anew with the same attempt
//	pod       running   none         the next container to start, attempt after the one the API shows
//	pod       exited    any          sandbox taken down, then one with the next attempt (a reboot, or the pause died)
//	pod       none      none         a new pod, unless the API shows it as ended
//	deleting  any       any          stopped; the grace counts anew from now
//	ended     any       running      stopped: an ended pod never runs again
//	none      any       any          an orphan: stopped with the default grace and removed, once the API's list is complete
//	none      none      none + dir   volumes unmounted, directory removed
//
// Until the API has answered nothing is touched: a node that comes up without a server keeps running what it runs.

// recover reads what the runtime has into pod states.
func (k *Kubelet) recover(ctx context.Context) error {
	var sandboxes []container.Sandbox
	var containers []container.Container
	for delay := 100 * time.Millisecond; ; delay = min(2*delay, 10*time.Second) {
		var err error
		if sandboxes, containers, err = k.runtime.List(ctx); err == nil {
			break
		}
		k.log.Warn("cannot read what runs on this node, will try again", "err", err)
		if !sleep(ctx, delay) {
			return ctx.Err()
		}
	}
	byPod := map[types.UID]*podState{}
	get := func(ref container.PodRef) *podState {
		uid := types.UID(ref.UID)
		if p := byPod[uid]; p != nil {
			return p
		}
		k.mu.Lock()
		p := k.pods[uid]
		if p == nil {
			p = newPodState(uid)
			k.pods[uid] = p
		}
		k.mu.Unlock()
		p.mu.Lock()
		p.ref = ref
		p.mu.Unlock()
		byPod[uid] = p
		return p
	}
	for _, s := range sandboxes {
		p := get(s.Pod)
		p.mu.Lock()
		p.sandboxes = append(p.sandboxes, s)
		p.mu.Unlock()
	}
	for _, c := range containers {
		p := get(c.Pod)
		p.mu.Lock()
		p.containers = append(p.containers, c)
		p.mu.Unlock()
	}
	for _, p := range byPod {
		p.mu.Lock()
		p.adopt()
		p.mu.Unlock()
	}
	if len(byPod) > 0 {
		k.log.Info("found pods of an earlier run", "pods", len(byPod), "containers", len(containers))
	}
	return nil
}

// adopt derives from what was found what a running kubelet would know.
func (p *podState) adopt() {
	slices.SortStableFunc(p.sandboxes, func(a, b container.Sandbox) int {
		if a.Attempt != b.Attempt {
			return int(b.Attempt) - int(a.Attempt)
		}
		return b.CreatedAt.Compare(a.CreatedAt)
	})
	sortNewest(p.containers)
	for _, c := range p.containers {
		if c.State == container.Running {
			p.hooked[c.ID] = false
		}
		if c.Attempt > 0 && p.crash[c.Name] == nil && c.State == container.Exited {
			p.crash[c.Name] = &crashBackoff{delay: crashBackoffStart, last: c.StartedAt}
		}
	}
	clear(p.hooked)
	p.admitted = true // it was, when it was started
}

// relistSoon asks for the runtime's state to be read anew; many askers share one reading.
func (k *Kubelet) relistSoon() {
	select {
	case k.relists <- struct{}{}:
	default:
	}
}

// relist takes in exits that no event told of. It only ever moves a container forward, because operations may have
// gone on since the list was read.
func (k *Kubelet) relist(ctx context.Context) {
	sandboxes, containers, err := k.runtime.List(ctx)
	if err != nil {
		if ctx.Err() == nil {
			k.log.Warn("cannot read what runs on this node, will try again", "err", err)
			time.AfterFunc(time.Second, k.relistSoon)
		}
		return
	}
	for _, c := range containers {
		if c.State == container.Exited {
			k.onEvent(container.Event{Pod: c.Pod, ContainerID: c.ID, Exited: true, ExitCode: c.ExitCode, OOM: c.OOMKilled, Time: c.FinishedAt})
		}
	}
	for _, s := range sandboxes {
		if s.State == container.Exited {
			k.onEvent(container.Event{Pod: s.Pod, ContainerID: s.ID, Exited: true, Time: time.Now()})
		}
	}
	// What is alive here and unknown there is gone for good.
	known := map[string]bool{}
	for _, c := range containers {
		known[c.ID] = true // those that ended were taken in above
	}
	k.mu.Lock()
	all := k.podListLocked()
	k.mu.Unlock()
	for _, p := range all {
		p.mu.Lock()
		var lost []container.Container
		for _, c := range p.containers {
			if op := p.ops[c.Name]; alive(c) && !known[c.ID] && (op == nil || op.awaiting != "") && !p.forgotten {
				lost = append(lost, c)
			}
		}
		again := false
		for name, op := range p.ops {
			if op.awaiting != "" && known[op.awaiting] {
				delete(p.ops, name) // stopped, it was said, and yet it runs: stop it again
				again = true
			}
		}
		p.mu.Unlock()
		if again {
			k.update(p, nil)
		}
		for _, c := range lost {
			k.onEvent(container.Event{Pod: c.Pod, ContainerID: c.ID, Exited: true, ExitCode: exitCodeUnknownContainer, Time: time.Now()})
		}
	}
}

// onEvent takes in one event of the runtime.
func (k *Kubelet) onEvent(ev container.Event) {
	if ev.ContainerID == "" {
		k.relistSoon()
		return
	}
	p := k.podState(types.UID(ev.Pod.UID))
	if p == nil || !ev.Exited && !ev.OOM {
		return
	}
	k.update(p, func() {
		if c := findContainer(p.containers, ev.ContainerID); c != nil {
			k.exited(p, c, ev)
			return
		}
		for i := range p.sandboxes {
			if s := &p.sandboxes[i]; s.ID == ev.ContainerID {
				if s.State != container.Exited && ev.Exited {
					s.State = container.Exited
					if p.pod != nil && !p.stop() && !p.stopping {
						k.recorder.Event(p.pod, corev1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
					}
				}
				return
			}
		}
		if len(p.lost) < 64 {
			p.lost[ev.ContainerID] = ev
		}
	})
}

// exited notes the end of a container and what it left to say. p.mu is held.
func (k *Kubelet) exited(p *podState, c *container.Container, ev container.Event) {
	if ev.OOM {
		c.OOMKilled = true
	}
	if !ev.Exited || c.State == container.Exited {
		return
	}
	c.State, c.ExitCode, c.FinishedAt = container.Exited, ev.ExitCode, ev.Time
	if c.FinishedAt.IsZero() {
		c.FinishedAt = time.Now()
	}
	if op := p.ops[c.Name]; op != nil && op.awaiting == c.ID {
		delete(p.ops, c.Name)
	}
	delete(p.unhealthy, c.ID)
	delete(p.started, c.ID)
	k.probes.Remove(c.ID)
	p.tellExit(c.ID)
	if p.pod == nil {
		return
	}
	spec := containerSpec(p.pod, c.Name)
	if spec == nil {
		return
	}
	if msg := k.terminationMessage(p.pod, spec, c); msg != "" {
		e := p.endings[c.ID]
		e.Message = msg
		p.endings[c.ID] = e
	}
	k.tellBackoff(p, spec, c)
}

// tellBackoff records the event of a container that will have to wait before it starts again.
func (k *Kubelet) tellBackoff(p *podState, spec *corev1.Container, c *container.Container) {
	b := p.crash[c.Name]
	if b == nil || p.stop() || !shouldRestart(p.pod, spec, c.ExitCode) || !b.next(c.FinishedAt).After(time.Now()) {
		return
	}
	k.containerEvent(p.pod, spec, corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container "+c.Name+" in pod "+podLabel(p.pod))
}

// The limits of termination messages: bytes for the file, bytes and lines for the end of the log.
const (
	maxMessage      = 4096
	maxMessageLog   = 2048
	maxMessageLines = 80
)

// terminationMessage is what the container wrote to its terminationMessagePath or, if that is empty, it failed and its policy says
// so, the end of its log.
func (k *Kubelet) terminationMessage(pod *corev1.Pod, spec *corev1.Container, c *container.Container) string {
	if spec.TerminationMessagePath != "" {
		data, err := readHead(k.terminationLog(pod, c.Name, c.Attempt), maxMessage)
		if err == nil && len(data) > 0 {
			return string(data)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "Error on reading termination log: " + err.Error()
		}
	}
	if spec.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError && (c.ExitCode != 0 || c.OOMKilled) {
		return tailForMessage(c.LogPath, maxMessageLog, maxMessageLines)
	}
	return ""
}

// readHead reads at most n bytes of a regular file. A container may put anything in its place: links and fifos are not followed.
func readHead(name string, n int) ([]byte, error) {
	st, err := os.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fs.ErrNotExist
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := make([]byte, n)
	read := 0
	for read < n {
		m, err := f.Read(buf[read:])
		read += m
		if err != nil || m == 0 {
			break
		}
	}
	return buf[:read], nil
}

// removeOrphanDirs removes the directories of pods that neither the API nor the runtime knows.
func (k *Kubelet) removeOrphanDirs() {
	uids, err := k.volumes.Pods()
	if err != nil {
		k.log.Warn("cannot read the directories of pods", "err", err)
	}
	for _, uid := range uids {
		if k.podState(uid) != nil {
			continue
		}
		if err := k.volumes.Teardown(uid); err != nil {
			k.log.Warn("cannot remove the directory of a pod that is gone", "uid", uid, "err", err)
		}
	}
	entries, err := os.ReadDir(k.logsDir())
	if err != nil {
		return
	}
	for _, e := range entries {
		parts := strings.Split(e.Name(), "_")
		if len(parts) != 3 || k.podState(types.UID(parts[2])) != nil {
			continue
		}
		if err := os.RemoveAll(k.logsDir() + "/" + e.Name()); err != nil {
			k.log.Warn("cannot remove the logs of a pod that is gone", "dir", e.Name(), "err", err)
		}
	}
}
