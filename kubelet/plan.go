// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/mini-k8s/mini/kubelet/container"
)

// opKind is what an operation in flight does to its target.
type opKind uint8

const (
	opNone opKind = iota
	opStart
	opStop
)

// Targets of operations that are not containers. A container name is a DNS label, so these cannot collide with one.
const (
	targetVolumes = "/volumes"
	targetSandbox = "/sandbox"
	// targetConclude is what comes after a pod: clean-up and the final delete.
	targetConclude = "/conclude"
)

// snapshot is everything plan decides from. It is read, never written.
type snapshot struct {
	Pod *corev1.Pod
	Now time.Time
	// Stop is set when the pod has to end whatever its containers do: deletion, eviction, deadline, rejection.
	Stop bool
	// Volumes says that the pod's directories and volumes are in place.
	Volumes    bool
	Sandboxes  []container.Sandbox   // newest first
	Containers []container.Container // newest first
	// Stopped holds the sandboxes whose network has been taken down.
	Stopped map[string]bool
	// Busy is keyed by target: a container's name, targetVolumes, targetSandbox.
	Busy map[string]opKind
	// Started holds, by container ID, those whose postStart hook and startup probe are through.
	Started map[string]bool
	// Unhealthy holds, by container ID, why a running container must be replaced.
	Unhealthy map[string]string
	// Replacing holds, by name, containers that were stopped because their definition changed and whose successors did not start yet.
	Replacing map[string]bool
	// Restart holds, by container ID, running containers that get their new resources by a restart.
	Restart map[string]bool
	// NotBefore is the end of a target's back-off.
	NotBefore map[string]time.Time
}

type verb uint8

const (
	prepareVolumes verb = iota
	createSandbox
	stopSandbox
	removeSandbox
	startContainer
	stopContainer
	removeContainer
)

func (v verb) String() string {
	return [...]string{"prepareVolumes", "createSandbox", "stopSandbox", "removeSandbox", "startContainer", "stopContainer", "removeContainer"}[v]
}

// action is one thing to do now. All actions of a plan may run at the same time.
type action struct {
	Verb      verb
	ID        string // of the sandbox or container, if it exists
	Container string
	Attempt   uint32
	Message   string // for stopContainer: the event's words
	Unhealthy bool   // stopContainer because of a probe
	Replace   bool   // stopContainer because of a changed definition
}

func (a action) String() string {
	return fmt.Sprintf("%s %s%s/%d", a.Verb, a.ID, a.Container, a.Attempt)
}

// podPlan is what to do next. An empty plan with Wake zero means: nothing until something happens.
type podPlan struct {
	Actions []action
	Wake    time.Time
	// Finished says that no container of the pod will run again; Down that besides nothing of it runs any more.
	Finished, Down bool
}

func (p *podPlan) add(a action) { p.Actions = append(p.Actions, a) }

func (p *podPlan) wakeAt(t time.Time) {
	if p.Wake.IsZero() || t.Before(p.Wake) {
		p.Wake = t
	}
}

// plan decides what a pod needs next. It is pure: same snapshot, same plan; and level-triggered: it knows no history but
// what the snapshot shows. Rules are those of upstream's kubelet (computePodActions, KEP-753 for sidecars, KEP-5307 for
// restart policies of containers).
func plan(s snapshot) podPlan {
	var p podPlan
	p.collectGarbage(s)
	p.Finished = s.Stop || finished(s)
	if p.Finished {
		p.Down = p.windDown(s)
		return p
	}
	if !s.Volumes {
		p.try(s, targetVolumes, action{Verb: prepareVolumes})
		return p
	}
	sandbox, ok := p.ensureSandbox(s)
	if !ok {
		return p
	}
	p.stopChanged(s)
	p.startEphemeral(s, sandbox)
	if !p.initialize(s, sandbox) {
		return p
	}
	p.startApps(s, sandbox)
	return p
}

// try adds a unless its target is busy or backing off.
func (p *podPlan) try(s snapshot, target string, a action) bool {
	if s.Busy[target] != opNone {
		return false
	}
	if t := s.NotBefore[target]; t.After(s.Now) {
		p.wakeAt(t)
		return false
	}
	p.add(a)
	return true
}

// ensureSandbox returns the ID of the running sandbox, or false while there is none.
func (p *podPlan) ensureSandbox(s snapshot) (string, bool) {
	if len(s.Sandboxes) == 0 {
		p.try(s, targetSandbox, action{Verb: createSandbox})
		return "", false
	}
	cur := s.Sandboxes[0]
	if cur.State == container.Running && !s.Stopped[cur.ID] {
		return cur.ID, s.Busy[targetSandbox] == opNone
	}
	if !s.Stopped[cur.ID] {
		p.try(s, targetSandbox, action{Verb: stopSandbox, ID: cur.ID})
		return "", false
	}
	// What ran in the dead sandbox must be seen to have ended before its successor is made.
	for _, c := range s.Containers {
		if alive(c) {
			p.try(s, c.Name, action{Verb: stopContainer, ID: c.ID, Container: c.Name, Message: "Pod sandbox changed, it will be killed and re-created."})
			return "", false
		}
	}
	for _, k := range s.Busy {
		if k == opStart {
			return "", false
		}
	}
	p.try(s, targetSandbox, action{Verb: createSandbox, Attempt: cur.Attempt + 1})
	return "", false
}

// stopChanged stops running containers whose definition changed or whose probe gave up on them.
func (p *podPlan) stopChanged(s snapshot) {
	for c := range podContainers(s.Pod) {
		l := latest(s.Containers, c.Name)
		if l == nil || l.State != container.Running {
			continue
		}
		switch {
		case l.Hash != "" && l.Hash != containerHash(c):
			p.try(s, c.Name, action{Verb: stopContainer, ID: l.ID, Container: c.Name, Replace: true,
				Message: fmt.Sprintf("Container %s definition changed, will be restarted", c.Name)})
		case s.Restart[l.ID]:
			p.try(s, c.Name, action{Verb: stopContainer, ID: l.ID, Container: c.Name, Replace: true,
				Message: fmt.Sprintf("Container %s resize requires restart", c.Name)})
		case s.Unhealthy[l.ID] != "":
			p.try(s, c.Name, action{Verb: stopContainer, ID: l.ID, Container: c.Name, Message: s.Unhealthy[l.ID], Unhealthy: true})
		}
	}
}

// initialize runs init containers in order and keeps sidecars running; true once the app containers may start.
func (p *podPlan) initialize(s snapshot, sandbox string) bool {
	past := initialized(s, sandbox)
	for i := range s.Pod.Spec.InitContainers {
		c := &s.Pod.Spec.InitContainers[i]
		l := latestIn(s.Containers, c.Name, sandbox)
		sidecar := isSidecar(c)
		if past && !sidecar {
			continue
		}
		switch {
		case l == nil || l.State == container.Created || l.State == container.Unknown:
			p.start(s, c, l)
			if !past {
				return false
			}
		case l.State == container.Running:
			if !past && (!sidecar || !s.Started[l.ID] || s.Busy[c.Name] != opNone) {
				return false
			}
		case sidecar:
			p.start(s, c, l)
			if !past {
				return false
			}
		case l.ExitCode != 0:
			p.start(s, c, l)
			return false
		}
	}
	return true
}

// initialized says whether the regular init containers are through in this sandbox: an app container of it exists.
func initialized(s snapshot, sandbox string) bool {
	for i := range s.Pod.Spec.Containers {
		if latestIn(s.Containers, s.Pod.Spec.Containers[i].Name, sandbox) != nil {
			return true
		}
	}
	return false
}

// startApps starts app containers one after the other, as upstream does: a postStart hook holds back the containers after it.
func (p *podPlan) startApps(s snapshot, sandbox string) {
	for i := range s.Pod.Spec.Containers {
		c := &s.Pod.Spec.Containers[i]
		if s.Busy[c.Name] == opStart {
			return
		}
		l := latest(s.Containers, c.Name)
		switch {
		case l == nil, l.State == container.Created, l.State == container.Unknown:
			if p.start(s, c, l) {
				return
			}
		case l.State == container.Exited && (s.Replacing[c.Name] || shouldRestart(s.Pod, c, l.ExitCode)):
			if p.start(s, c, l) {
				return
			}
		}
	}
}

// start plans the next attempt of c after l (nil if there was none).
func (p *podPlan) start(s snapshot, c *corev1.Container, l *container.Container) bool {
	a := action{Verb: startContainer, Container: c.Name}
	// The restart count goes on across sandboxes, so it is counted from every container of that name.
	if any := latest(s.Containers, c.Name); any != nil {
		a.Attempt = any.Attempt + 1
	} else if n, ok := reportedRestarts(s.Pod, c.Name); ok {
		a.Attempt = n + 1
	}
	if l != nil && l.State == container.Created {
		a.ID, a.Attempt = l.ID, l.Attempt // a start that was cut short: the same attempt again
	}
	if l != nil && l.State == container.Unknown {
		return p.try(s, c.Name, action{Verb: stopContainer, ID: l.ID, Container: c.Name, Message: fmt.Sprintf("Stopping container %s", c.Name)})
	}
	return p.try(s, c.Name, a)
}

func (p *podPlan) startEphemeral(s snapshot, sandbox string) {
	for i := range s.Pod.Spec.EphemeralContainers {
		c := (*corev1.Container)(&s.Pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		if l := latest(s.Containers, c.Name); l == nil || l.State == container.Created {
			p.start(s, c, l)
		}
	}
}

// windDown stops everything in the right order: app, init and ephemeral containers at once, then the sidecars from the
// last to the first, then the sandbox. It returns true when nothing is left to stop.
func (p *podPlan) windDown(s snapshot) bool {
	left := false
	for target, k := range s.Busy {
		left = left || k != opNone && target != targetConclude
	}
	sidecars := map[string]bool{}
	for i := range s.Pod.Spec.InitContainers {
		if c := &s.Pod.Spec.InitContainers[i]; isSidecar(c) {
			sidecars[c.Name] = true
		}
	}
	running := func(name string) *container.Container {
		if l := latest(s.Containers, name); l != nil && alive(*l) {
			return l
		}
		return nil
	}
	stop := func(l *container.Container) {
		left = true
		if s.Busy[l.Name] == opNone {
			p.add(action{Verb: stopContainer, ID: l.ID, Container: l.Name, Message: "Stopping container " + l.Name})
		}
	}
	seen := map[string]bool{}
	hold := false
	for i := range s.Containers {
		l := &s.Containers[i]
		if seen[l.Name] || sidecars[l.Name] {
			continue
		}
		seen[l.Name] = true
		if alive(*l) {
			stop(l)
			hold = true
		}
	}
	for name, k := range s.Busy {
		if k != opNone && !strings.HasPrefix(name, "/") && !sidecars[name] {
			hold = true
		}
	}
	for i := len(s.Pod.Spec.InitContainers) - 1; i >= 0 && !hold; i-- {
		name := s.Pod.Spec.InitContainers[i].Name
		if !sidecars[name] {
			continue
		}
		if l := running(name); l != nil {
			stop(l)
			hold = true
		}
	}
	if left {
		return false
	}
	for _, sb := range s.Sandboxes {
		if !s.Stopped[sb.ID] {
			left = true
			p.try(s, targetSandbox, action{Verb: stopSandbox, ID: sb.ID})
			break
		}
	}
	return !left
}

// collectGarbage removes dead containers beyond the latest and the one before it, and sandboxes that hold neither.
func (p *podPlan) collectGarbage(s snapshot) {
	kept := map[string]int{}
	holds := map[string]bool{}
	for _, c := range s.Containers {
		kept[c.Name]++
		if kept[c.Name] > 2 && !alive(c) {
			if s.Busy[c.ID] == opNone {
				p.add(action{Verb: removeContainer, ID: c.ID, Container: c.Name})
			}
			continue
		}
		holds[c.SandboxID] = true
	}
	for i, sb := range s.Sandboxes {
		if i > 0 && s.Stopped[sb.ID] && !holds[sb.ID] && s.Busy[sb.ID] == opNone {
			p.add(action{Verb: removeSandbox, ID: sb.ID})
		} else if i > 0 && !s.Stopped[sb.ID] && s.Busy[targetSandbox] == opNone && s.Busy[sb.ID] == opNone {
			p.add(action{Verb: stopSandbox, ID: sb.ID})
		}
	}
}

// finished says that no container of the pod will run again by itself: Succeeded or Failed.
func finished(s snapshot) bool {
	sandbox := ""
	if len(s.Sandboxes) > 0 {
		sandbox = s.Sandboxes[0].ID
	}
	if !initialized(s, sandbox) {
		for i := range s.Pod.Spec.InitContainers {
			c := &s.Pod.Spec.InitContainers[i]
			if isSidecar(c) || s.Busy[c.Name] == opStart {
				continue
			}
			if l := latestIn(s.Containers, c.Name, sandbox); l != nil && l.State == container.Exited && l.ExitCode != 0 && !shouldRestart(s.Pod, c, l.ExitCode) {
				return true
			}
		}
	}
	for i := range s.Pod.Spec.Containers {
		c := &s.Pod.Spec.Containers[i]
		l := latest(s.Containers, c.Name)
		if l == nil || l.State != container.Exited || s.Busy[c.Name] == opStart || s.Replacing[c.Name] || shouldRestart(s.Pod, c, l.ExitCode) {
			return false
		}
	}
	return len(s.Pod.Spec.Containers) > 0
}

// shouldRestart applies a container's restart rules, its own policy, then the pod's, to an exit code.
func shouldRestart(pod *corev1.Pod, c *corev1.Container, exit int32) bool {
	for _, r := range c.RestartPolicyRules {
		if r.ExitCodes == nil || r.Action != corev1.ContainerRestartRuleActionRestart {
			continue
		}
		in := slices.Contains(r.ExitCodes.Values, exit)
		if in == (r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
			return true
		}
	}
	policy := pod.Spec.RestartPolicy
	if c.RestartPolicy != nil {
		policy = corev1.RestartPolicy(*c.RestartPolicy)
	}
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return exit != 0
	}
	return true
}

func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// alive is everything that may have a process. A container that was only created has none.
func alive(c container.Container) bool {
	return c.State == container.Running || c.State == container.Unknown
}

func latest(all []container.Container, name string) *container.Container {
	for i := range all {
		if all[i].Name == name {
			return &all[i]
		}
	}
	return nil
}

func latestIn(all []container.Container, name, sandbox string) *container.Container {
	for i := range all {
		if all[i].Name == name && all[i].SandboxID == sandbox {
			return &all[i]
		}
	}
	return nil
}

// sortNewest orders as the snapshot wants it: newest attempt first.
func sortNewest(all []container.Container) {
	slices.SortStableFunc(all, func(a, b container.Container) int {
		return cmp.Or(cmp.Compare(b.Attempt, a.Attempt), b.CreatedAt.Compare(a.CreatedAt))
	})
}

// podContainers yields every container of the pod that is not ephemeral.
func podContainers(pod *corev1.Pod) func(yield func(*corev1.Container) bool) {
	return func(yield func(*corev1.Container) bool) {
		for i := range pod.Spec.InitContainers {
			if !yield(&pod.Spec.InitContainers[i]) {
				return
			}
		}
		for i := range pod.Spec.Containers {
			if !yield(&pod.Spec.Containers[i]) {
				return
			}
		}
	}
}

// containerSpec finds a container of any kind by name.
func containerSpec(pod *corev1.Pod, name string) *corev1.Container {
	for c := range podContainers(pod) {
		if c.Name == name {
			return c
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return (*corev1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		}
	}
	return nil
}

// containerHash covers what cannot change in a running container. Only the image can change in a stored pod, so the name
// and the image are all that counts; a new version of mini then never restarts a container because of a new field.
func containerHash(c *corev1.Container) string {
	h := fnv.New64a()
	h.Write([]byte(c.Name))
	h.Write([]byte{0})
	h.Write([]byte(c.Image))
	return strconv.FormatUint(h.Sum64(), 16)
}

// reportedRestarts is the restart count the API still shows for a container of which the runtime knows nothing any more.
func reportedRestarts(pod *corev1.Pod, name string) (uint32, bool) {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, st := range list {
			if st.Name == name && st.ContainerID != "" {
				return uint32(st.RestartCount), true
			}
		}
	}
	return 0, false
}
