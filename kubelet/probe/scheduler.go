// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Kind is what a probe's verdict is for.
type Kind uint8

// The three kinds.
const (
	Startup Kind = iota
	Liveness
	Readiness
)

func (k Kind) String() string { return [...]string{"Startup", "Liveness", "Readiness"}[k] }

// Result of one run.
type Result uint8

// The results. Unknown counts for neither side: the probe itself could not be made.
const (
	Unknown Result = iota
	Success
	Failure
)

// Target is the container a probe is for.
type Target struct {
	Pod       *corev1.Pod
	Container *corev1.Container
	ID        string // of the container
	IP        string // of the pod
	StartedAt time.Time
}

// Verdict is told when it changes.
type Verdict struct {
	Target Target
	Kind   Kind
	OK     bool
	Output string // of the run that decided it
}

// Runner makes one run of a probe; it must respect ctx's deadline.
type Runner interface {
	Probe(ctx context.Context, t Target, p *corev1.Probe) (Result, string)
}

// Config is what a Scheduler needs. The callbacks run on the goroutine of a probe and must not call back into the Scheduler for
// the same container while they hold a lock that Add or Remove is called under.
type Config struct {
	Runner Runner
	// OnVerdict is told every change of a verdict.
	OnVerdict func(Verdict)
	// OnFailure is told every failed run, for the Unhealthy event.
	OnFailure func(t Target, k Kind, r Result, output string)
}

// Scheduler runs the probes of a node.
type Scheduler struct {
	cfg Config
	ctx context.Context

	mu    sync.Mutex
	queue queue
	timer *time.Timer
	work  map[string][]*worker // by container ID
}

// worker is one probe of one container. Scheduler.mu guards it.
type worker struct {
	target Target
	kind   Kind
	spec   *corev1.Probe
	due    time.Time
	index  int // in the queue, -1 outside

	gone    bool
	running bool
	last    Result
	row     int32 // results like last in a row
	told    bool
	verdict bool
}

// NewScheduler returns a Scheduler that stops when ctx ends.
func NewScheduler(ctx context.Context, cfg Config) *Scheduler {
	s := &Scheduler{cfg: cfg, ctx: ctx, work: map[string][]*worker{}}
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.timer != nil {
			s.timer.Stop()
		}
	})
	return s
}

// Add starts the probes of a container. A container that is there already is left as it is. For one that was already
// running before this process, started and ready say what the API shows of it: such a container is not asked to start
// up again, and keeps its readiness until a probe says otherwise.
func (s *Scheduler) Add(t Target, started, ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.work[t.ID]; ok {
		return
	}
	ws := []*worker{}
	add := func(k Kind, p *corev1.Probe) {
		if p == nil {
			return
		}
		ws = append(ws, &worker{target: t, kind: k, spec: p, index: -1})
	}
	if !started {
		add(Startup, t.Container.StartupProbe)
	}
	add(Liveness, t.Container.LivenessProbe)
	add(Readiness, t.Container.ReadinessProbe)
	s.work[t.ID] = ws
	holdBack := !started && t.Container.StartupProbe != nil
	for _, w := range ws {
		if w.kind == Readiness && ready {
			w.told, w.verdict, w.last, w.row = true, true, Success, w.spec.SuccessThreshold
		}
		if w.kind == Startup || !holdBack {
			s.firstLocked(w)
		}
	}
	s.armLocked()
}

// firstLocked schedules a probe's first run: after its initial delay, counted from the container's start.
func (s *Scheduler) firstLocked(w *worker) {
	now := time.Now()
	w.due = w.target.StartedAt.Add(time.Duration(w.spec.InitialDelaySeconds) * time.Second)
	if now.Sub(w.target.StartedAt) > time.Minute {
		// Taken over after a restart: spread the first round of all the node's probes over one period.
		w.due = now.Add(time.Duration(rand.Int64N(int64(period(w.spec)))))
	}
	if w.due.Before(now) {
		w.due = now
	}
	heap.Push(&s.queue, w)
}

// Remove ends the probes of a container.
func (s *Scheduler) Remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.work[id] {
		w.gone = true
		if w.index >= 0 {
			heap.Remove(&s.queue, w.index)
		}
	}
	delete(s.work, id)
}

// Keep ends the probes of a container except readiness: a pod that is being deleted goes on saying whether it can serve.
func (s *Scheduler) Keep(id string, kind Kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var left []*worker
	for _, w := range s.work[id] {
		if w.kind == kind {
			left = append(left, w)
			continue
		}
		w.gone = true
		if w.index >= 0 {
			heap.Remove(&s.queue, w.index)
		}
	}
	if _, ok := s.work[id]; ok {
		s.work[id] = left
	}
}

// Len is the number of probes that are scheduled or running.
func (s *Scheduler) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, ws := range s.work {
		n += len(ws)
	}
	return n
}

func (s *Scheduler) armLocked() {
	if len(s.queue) == 0 || s.ctx.Err() != nil {
		if s.timer != nil {
			s.timer.Stop()
		}
		return
	}
	d := max(time.Until(s.queue[0].due), 0)
	if s.timer == nil {
		s.timer = time.AfterFunc(d, s.fire)
		return
	}
	s.timer.Reset(d)
}

// fire starts everything that is due.
func (s *Scheduler) fire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for len(s.queue) > 0 && !s.queue[0].due.After(now) && s.ctx.Err() == nil {
		w := heap.Pop(&s.queue).(*worker)
		w.running = true
		go s.run(w)
	}
	s.armLocked()
}

func (s *Scheduler) run(w *worker) {
	timeout := time.Duration(max(w.spec.TimeoutSeconds, 1)) * time.Second
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	result, output := s.cfg.Runner.Probe(ctx, w.target, w.spec)
	cancel()
	if s.ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	w.running = false
	if w.gone {
		s.mu.Unlock()
		return
	}
	changed := w.count(result)
	if w.told && (w.kind == Startup || w.kind == Liveness && !w.verdict) {
		s.restLocked(w)
	} else {
		w.due = w.due.Add(period(w.spec))
		if now := time.Now(); w.due.Before(now) {
			w.due = now.Add(period(w.spec))
		}
		heap.Push(&s.queue, w)
	}
	v := Verdict{Target: w.target, Kind: w.kind, OK: w.verdict, Output: output}
	s.armLocked()
	s.mu.Unlock()
	if result != Success && s.cfg.OnFailure != nil {
		s.cfg.OnFailure(w.target, w.kind, result, output)
	}
	if changed && s.cfg.OnVerdict != nil {
		s.cfg.OnVerdict(v)
	}
}

// count takes one result in and says whether the verdict changed with it.
func (w *worker) count(r Result) bool {
	if r == Unknown {
		return false
	}
	if r != w.last {
		w.last, w.row = r, 0
	}
	w.row++
	need := max(w.spec.FailureThreshold, 1)
	if r == Success {
		need = max(w.spec.SuccessThreshold, 1)
	} else if w.spec.FailureThreshold == 0 {
		need = 3
	}
	if w.row < need || w.told && w.verdict == (r == Success) {
		return false
	}
	first := !w.told
	w.told, w.verdict = true, r == Success
	switch {
	case !first || w.kind == Startup:
		return true
	case w.kind == Liveness:
		return !w.verdict // everybody assumed that it lives
	}
	return w.verdict // and that it is not ready
}

// restLocked ends a probe that has said its last word; a startup probe that passed sets the others going.
func (s *Scheduler) restLocked(w *worker) {
	if w.kind != Startup || !w.verdict {
		return
	}
	for _, o := range s.work[w.target.ID] {
		if o != w && o.index < 0 && !o.running && !o.gone {
			s.firstLocked(o)
		}
	}
}

func period(p *corev1.Probe) time.Duration {
	if p.PeriodSeconds <= 0 {
		return 10 * time.Second
	}
	return time.Duration(p.PeriodSeconds) * time.Second
}

// queue is a heap by due time.
type queue []*worker

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *queue) Push(x any) {
	w := x.(*worker)
	w.index = len(*q)
	*q = append(*q, w)
}
func (q *queue) Pop() any {
	old := *q
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	w.index = -1
	return w
}
