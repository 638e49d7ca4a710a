// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/mini-k8s/mini/kubelet/container"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is a pod's runtime state in a few words: "c/1=run@sb0" is attempt 1 of c, running in sandbox sb0.
func world(words ...string) (cs []container.Container) {
	for i, w := range words {
		name, rest, _ := strings.Cut(w, "/")
		attempt, rest, _ := strings.Cut(rest, "=")
		state, sandbox, _ := strings.Cut(rest, "@")
		if sandbox == "" {
			sandbox = "sb0"
		}
		c := container.Container{ID: name + attempt, Name: name, SandboxID: sandbox, CreatedAt: t0.Add(time.Duration(i) * time.Second), FinishedAt: t0}
		fmt.Sscan(attempt, &c.Attempt)
		switch {
		case state == "run":
			c.State = container.Running
		case state == "new":
			c.State = container.Created
		case state == "?":
			c.State = container.Unknown
		default:
			c.State = container.Exited
			fmt.Sscanf(state, "exit%d", &c.ExitCode)
		}
		cs = append(cs, c)
	}
	sortNewest(cs)
	return cs
}

func policyPod(policy corev1.RestartPolicy, names ...string) *corev1.Pod {
	p := &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: policy}}
	always := corev1.ContainerRestartPolicyAlways
	for _, n := range names {
		switch c := (corev1.Container{Name: strings.TrimLeft(n, "+*"), Image: "i"}); n[0] {
		case '+':
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		case '*':
			c.RestartPolicy = &always
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		default:
			p.Spec.Containers = append(p.Spec.Containers, c)
		}
	}
	return p
}

func TestPlan(t *testing.T) {
	up := []container.Sandbox{{ID: "sb0", State: container.Running}}
	down := []container.Sandbox{{ID: "sb0", State: container.Exited}}
	always, onFailure, never := corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever
	for _, tt := range []struct {
		why  string
		s    snapshot
		want string // actions, then "wake", "finished", "down"
	}{
		{"volumes come first", snapshot{Pod: policyPod(always, "a")}, "prepareVolumes /0"},
		{"and once only", snapshot{Pod: policyPod(always, "a"), Busy: map[string]opKind{targetVolumes: opStart}}, ""},
		{"then the sandbox", snapshot{Pod: policyPod(always, "a"), Volumes: true}, "createSandbox /0"},
		{"then the container", snapshot{Pod: policyPod(always, "a"), Volumes: true, Sandboxes: up}, "startContainer a/0"},
		{"containers start one after the other", snapshot{Pod: policyPod(always, "a", "b"), Volumes: true, Sandboxes: up, Busy: map[string]opKind{"a": opStart}}, ""},
		{"the next one when the first is done", snapshot{Pod: policyPod(always, "a", "b"), Volumes: true, Sandboxes: up, Containers: world("a/0=run")}, "startContainer b/0"},
		{"a container in back-off does not hold up the next", snapshot{Pod: policyPod(always, "a", "b"), Volumes: true, Sandboxes: up, Containers: world("a/0=exit1"),
			NotBefore: map[string]time.Time{"a": t0.Add(time.Minute)}}, "startContainer b/0 wake"},
		{"nothing to do", snapshot{Pod: policyPod(always, "a"), Volumes: true, Sandboxes: up, Containers: world("a/0=run")}, ""},
		{"restart", snapshot{Pod: policyPod(always, "a"), Volumes: true, Sandboxes: up, Containers: world("a/0=exit0")}, "startContainer a/1"},
		{"a start that was cut short keeps its attempt", snapshot{Pod: policyPod(always, "a"), Volumes: true, Sandboxes: up, Containers: world("a/2=new", "a/1=exit1")}, "startContainer a2a/2"},
		{"unknown state: stop first", snapshot{Pod: policyPod(always, "a"), Volumes: true, Sandboxes: up, Containers: world("a/0=?")}, "stopContainer a0a/0"},
		{"OnFailure and success", snapshot{Pod: policyPod(onFailure, "a"), Volumes: true, Sandboxes: up, Containers: world("a/0=exit0")}, "stopSandbox sb0/0 finished"},
		{"Never and failure", snapshot{Pod: policyPod(never, "a"), Volumes: true, Sandboxes: up, Containers: world("a/0=exit1"), Stopped: map[string]bool{"sb0": true}}, "finished down"},
		{"init before app", snapshot{Pod: policyPod(always, "+i", "+j", "a"), Volumes: true, Sandboxes: up}, "startContainer i/0"},
		{"second init", snapshot{Pod: policyPod(always, "+i", "+j", "a"), Volumes: true, Sandboxes: up, Containers: world("i/0=exit0")}, "startContainer j/0"},
		{"init runs", snapshot{Pod: policyPod(always, "+i", "a"), Volumes: true, Sandboxes: up, Containers: world("i/0=run")}, ""},
		{"init failed", snapshot{Pod: policyPod(always, "+i", "a"), Volumes: true, Sandboxes: up, Containers: world("i/0=exit1")}, "startContainer i/1"},
		{"init failed for good", snapshot{Pod: policyPod(never, "+i", "a"), Volumes: true, Sandboxes: up, Containers: world("i/0=exit1")}, "stopSandbox sb0/0 finished"},
		{"sidecar must have started before the next", snapshot{Pod: policyPod(always, "*s", "a"), Volumes: true, Sandboxes: up, Containers: world("s/0=run")}, ""},
		{"sidecar has", snapshot{Pod: policyPod(always, "*s", "a"), Volumes: true, Sandboxes: up, Containers: world("s/0=run"), Started: map[string]bool{"s0": true}}, "startContainer a/0"},
		{"a dead sidecar is restarted beside the app", snapshot{Pod: policyPod(never, "*s", "a"), Volumes: true, Sandboxes: up, Containers: world("s/0=exit0", "a/0=run")}, "startContainer s/1"},
		{"the app's end stops the sidecars, last first", snapshot{Pod: policyPod(never, "*s", "*z", "a"), Volumes: true, Sandboxes: up, Containers: world("s/0=run", "z/0=run", "a/0=exit0")}, "stopContainer z0z/0 finished"},
		{"deletion stops apps first", snapshot{Stop: true, Pod: policyPod(always, "*s", "a", "b"), Volumes: true, Sandboxes: up, Containers: world("s/0=run", "a/0=run", "b/0=run")}, "stopContainer b0b/0 stopContainer a0a/0 finished"},
		{"and waits for them", snapshot{Stop: true, Pod: policyPod(always, "*s", "a"), Volumes: true, Sandboxes: up, Containers: world("s/0=run", "a/0=exit0"), Busy: map[string]opKind{"a": opStop}}, "finished"},
		{"a start in flight holds the end back", snapshot{Stop: true, Pod: policyPod(always, "a"), Volumes: true, Sandboxes: up, Busy: map[string]opKind{"a": opStart}}, "finished"},
		{"deleted before anything was made", snapshot{Stop: true, Pod: policyPod(always, "a")}, "finished down"},
		{"the sandbox died", snapshot{Pod: policyPod(always, "a"), Volumes: true, Sandboxes: down, Containers: world("a/0=run")}, "stopSandbox sb0/0"},
		{"its containers go with it", snapshot{Pod: policyPod(always, "a"), Volumes: true, Sandboxes: down, Containers: world("a/0=run"), Stopped: map[string]bool{"sb0": true}}, "stopContainer a0a/0"},
		{"then a new one", snapshot{Pod: policyPod(always, "a"), Volumes: true, Sandboxes: down, Containers: world("a/0=exit137"), Stopped: map[string]bool{"sb0": true}}, "createSandbox /1"},
		{"no new sandbox for a pod that is through", snapshot{Pod: policyPod(never, "a"), Volumes: true, Sandboxes: down, Containers: world("a/0=exit137"), Stopped: map[string]bool{"sb0": true}}, "finished down"},
		{"in a new sandbox init runs again", snapshot{Pod: policyPod(always, "+i", "a"), Volumes: true, Sandboxes: []container.Sandbox{{ID: "sb1", Attempt: 1, State: container.Running}, down[0]},
			Containers: world("i/0=exit0@sb0", "a/0=exit137@sb0"), Stopped: map[string]bool{"sb0": true}}, "startContainer i/1"},
		{"and the app after it", snapshot{Pod: policyPod(always, "+i", "a"), Volumes: true, Sandboxes: []container.Sandbox{{ID: "sb1", Attempt: 1, State: container.Running}, down[0]},
			Containers: world("i/0=exit0@sb0", "i/1=exit0@sb1", "a/0=exit137@sb0"), Stopped: map[string]bool{"sb0": true}}, "startContainer a/1"},
		{"unhealthy", snapshot{Pod: policyPod(always, "a"), Volumes: true, Sandboxes: up, Containers: world("a/0=run"), Unhealthy: map[string]string{"a0": "x"}}, "stopContainer a0a/0"},
		{"dead attempts beyond one go", snapshot{Pod: policyPod(always, "a"), Volumes: true, Sandboxes: up, Containers: world("a/0=exit1", "a/1=exit1", "a/2=run")}, "removeContainer a0a/0"},
		{"with their sandbox", snapshot{Pod: policyPod(always, "a"), Volumes: true, Sandboxes: []container.Sandbox{{ID: "sb1", Attempt: 1, State: container.Running}, down[0]},
			Containers: world("a/2=run@sb1", "a/1=exit1@sb1"), Stopped: map[string]bool{"sb0": true}}, "removeSandbox sb0/0"},
	} {
		tt.s.Now = t0
		p := plan(tt.s)
		var got []string
		for _, a := range p.Actions {
			got = append(got, a.String())
		}
		for word, on := range map[string]bool{"wake": !p.Wake.IsZero()} {
			if on {
				got = append(got, word)
			}
		}
		if p.Finished {
			got = append(got, "finished")
		}
		if p.Down {
			got = append(got, "down")
		}
		// Of actions that may run at the same time the order says nothing.
		a, b := slices.Sorted(slices.Values(strings.Fields(strings.Join(got, " ")))), slices.Sorted(slices.Values(strings.Fields(tt.want)))
		if !slices.Equal(a, b) {
			t.Errorf("%s: got %q, want %q", tt.why, strings.Join(got, " "), tt.want)
		}
	}
}

func TestRestartRules(t *testing.T) {
	never, always := corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyAlways
	rule := func(op corev1.ContainerRestartRuleOnExitCodesOperator, codes ...int32) []corev1.ContainerRestartRule {
		return []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestart, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: op, Values: codes}}}
	}
	for i, tt := range []struct {
		pod  corev1.RestartPolicy
		c    corev1.Container
		exit int32
		want bool
	}{
		{corev1.RestartPolicyNever, corev1.Container{}, 1, false},
		{corev1.RestartPolicyNever, corev1.Container{RestartPolicy: &always}, 0, true},
		{corev1.RestartPolicyAlways, corev1.Container{RestartPolicy: &never}, 1, false},
		{corev1.RestartPolicyNever, corev1.Container{RestartPolicy: &never, RestartPolicyRules: rule(corev1.ContainerRestartRuleOnExitCodesOpIn, 42)}, 42, true},
		{corev1.RestartPolicyNever, corev1.Container{RestartPolicy: &never, RestartPolicyRules: rule(corev1.ContainerRestartRuleOnExitCodesOpIn, 42)}, 1, false},
		{corev1.RestartPolicyNever, corev1.Container{RestartPolicy: &never, RestartPolicyRules: rule(corev1.ContainerRestartRuleOnExitCodesOpNotIn, 42)}, 1, true},
	} {
		if got := shouldRestart(&corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: tt.pod}}, &tt.c, tt.exit); got != tt.want {
			t.Errorf("%d: %v", i, got)
		}
	}
}

// simulation carries plans out, with failures and exits in between.
type simulation struct {
	s   snapshot
	seq int
}

func (m *simulation) apply(t *rapid.T, a action) {
	switch a.Verb {
	case prepareVolumes:
		m.s.Volumes = true
	case createSandbox:
		m.seq++
		m.s.Sandboxes = append([]container.Sandbox{{ID: fmt.Sprint("sb", m.seq), Attempt: a.Attempt, State: container.Running}}, m.s.Sandboxes...)
	case stopSandbox:
		m.s.Stopped[a.ID] = true
		for i := range m.s.Sandboxes {
			if m.s.Sandboxes[i].ID == a.ID {
				m.s.Sandboxes[i].State = container.Exited
			}
		}
		for i := range m.s.Containers {
			if c := &m.s.Containers[i]; c.SandboxID == a.ID && alive(*c) {
				c.State, c.ExitCode = container.Exited, 137
			}
		}
	case removeSandbox:
		for _, c := range m.s.Containers {
			if c.SandboxID == a.ID && alive(c) {
				t.Fatalf("sandbox %s is removed with a running container", a.ID)
			}
		}
		m.s.Sandboxes = deleteWhere(m.s.Sandboxes, func(s container.Sandbox) bool { return s.ID == a.ID })
		m.s.Containers = deleteWhere(m.s.Containers, func(c container.Container) bool { return c.SandboxID == a.ID })
	case startContainer:
		m.seq++
		m.s.Containers = deleteWhere(m.s.Containers, func(c container.Container) bool { return c.ID == a.ID })
		for _, c := range m.s.Containers {
			if c.Name == a.Container && alive(c) {
				t.Fatalf("%s is started beside itself", a.Container)
			}
			if c.Name == a.Container && c.Attempt >= a.Attempt {
				t.Fatalf("%s: attempt %d after %d", a.Container, a.Attempt, c.Attempt)
			}
		}
		id := fmt.Sprint("c", m.seq)
		m.s.Containers = append(m.s.Containers, container.Container{ID: id, Name: a.Container, Attempt: a.Attempt, SandboxID: m.s.Sandboxes[0].ID, State: container.Running, FinishedAt: t0})
		sortNewest(m.s.Containers)
		m.s.Started[id] = true
	case stopContainer:
		if c := findContainer(m.s.Containers, a.ID); c != nil && alive(*c) {
			c.State, c.ExitCode = container.Exited, 143
		}
	case removeContainer:
		if c := findContainer(m.s.Containers, a.ID); c == nil || alive(*c) {
			t.Fatalf("removal of a running container %s", a.ID)
		}
		m.s.Containers = deleteWhere(m.s.Containers, func(c container.Container) bool { return c.ID == a.ID })
	}
}

// check holds what must be true of every plan in every state.
func (m *simulation) check(t *rapid.T, p podPlan) {
	if again := plan(m.s); fmt.Sprint(again) != fmt.Sprint(p) {
		t.Fatalf("two plans of one snapshot differ:\n%v\n%v", p, again)
	}
	targets := map[string]bool{}
	for _, a := range p.Actions {
		key := a.ID + "/" + a.Container
		if targets[key] {
			t.Fatalf("two actions on %s: %v", key, p.Actions)
		}
		targets[key] = true
		if m.s.Stop && (a.Verb == startContainer || a.Verb == createSandbox || a.Verb == prepareVolumes) {
			t.Fatalf("%v for a pod that is to stop", a)
		}
		if a.Verb != startContainer {
			continue
		}
		c := containerSpec(m.s.Pod, a.Container)
		isApp := slices.ContainsFunc(m.s.Pod.Spec.Containers, func(x corev1.Container) bool { return x.Name == a.Container })
		for i := range m.s.Pod.Spec.InitContainers {
			ic := &m.s.Pod.Spec.InitContainers[i]
			l := latestIn(m.s.Containers, ic.Name, m.s.Sandboxes[0].ID)
			if isApp && !isSidecar(ic) && !initialized(m.s, m.s.Sandboxes[0].ID) && (l == nil || l.State != container.Exited || l.ExitCode != 0) {
				t.Fatalf("app %s is started before init %s is through", c.Name, ic.Name)
			}
		}
	}
	if p.Down && slices.ContainsFunc(m.s.Containers, alive) {
		t.Fatal("down, but something runs")
	}
}

func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var names []string
		for i := range rapid.IntRange(0, 3).Draw(rt, "inits") {
			names = append(names, rapid.SampledFrom([]string{"+", "*"}).Draw(rt, "kind")+fmt.Sprint("i", i))
		}
		for i := range rapid.IntRange(1, 3).Draw(rt, "apps") {
			names = append(names, fmt.Sprint("a", i))
		}
		policy := rapid.SampledFrom([]corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}).Draw(rt, "policy")
		m := &simulation{s: snapshot{Pod: policyPod(policy, names...), Now: t0, Stopped: map[string]bool{}, Busy: map[string]opKind{}, Started: map[string]bool{}, Unhealthy: map[string]string{}}}
		settle := func() podPlan {
			for range 200 {
				p := plan(m.s)
				m.check(rt, p)
				if len(p.Actions) == 0 {
					return p
				}
				// Any one of them may be the first to come about.
				m.apply(rt, p.Actions[rapid.IntRange(0, len(p.Actions)-1).Draw(rt, "which")])
				// Init containers come to their end.
				for i := range m.s.Containers {
					c := &m.s.Containers[i]
					if spec := containerSpec(m.s.Pod, c.Name); c.State == container.Running && strings.HasPrefix(c.Name, "i") && !isSidecar(spec) {
						c.State, c.ExitCode = container.Exited, 0
					}
				}
			}
			rt.Fatal("does not settle")
			return podPlan{}
		}
		for range rapid.IntRange(0, 8).Draw(rt, "events") {
			p := settle()
			if !p.Finished {
				for i := range m.s.Pod.Spec.Containers {
					c := &m.s.Pod.Spec.Containers[i]
					if l := latest(m.s.Containers, c.Name); l == nil || l.State != container.Running && shouldRestart(m.s.Pod, c, l.ExitCode) {
						rt.Fatalf("settled, but %s does not run: %+v", c.Name, l)
					}
				}
			}
			switch rapid.IntRange(0, 3).Draw(rt, "event") {
			case 0, 1: // something exits
				if n := len(m.s.Containers); n > 0 {
					if c := &m.s.Containers[rapid.IntRange(0, n-1).Draw(rt, "victim")]; c.State == container.Running {
						c.State, c.ExitCode = container.Exited, int32(rapid.IntRange(0, 1).Draw(rt, "code"))
					}
				}
			case 2: // the sandbox dies
				if len(m.s.Sandboxes) > 0 {
					m.s.Sandboxes[0].State = container.Exited
				}
			case 3:
				if n := len(m.s.Containers); n > 0 {
					if c := m.s.Containers[rapid.IntRange(0, n-1).Draw(rt, "sick")]; c.State == container.Running {
						m.s.Unhealthy[c.ID] = "sick"
					}
				}
			}
		}
		settle()
		m.s.Stop = true
		if p := settle(); !p.Down {
			rt.Fatalf("stopped, but not down: %+v", m.s)
		}
	})
}
