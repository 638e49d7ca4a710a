package fairness

import (
	"context"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/mini-k8s/mini/apiserver/request"
)

// Config is what all priority levels have together.
type Config struct {
	Seats int           // that they share
	Wait  time.Duration // the longest wait for a seat
}

// Dispatcher gives out seats.
type Dispatcher struct {
	config  Config
	seed    maphash.Seed
	current atomic.Pointer[schemas]
	waits   *waits

	mu      sync.Mutex
	levels  []*level // by name
	total   int      // seats: the sum of the nominal ones
	held    int      // seats in use or kept for who has them as min: the sum of max(inUse, min)
	waiting int      // requests
	tickets uint64
}

// New makes a dispatcher that knows the mandatory objects only.
func New(config Config) *Dispatcher {
	d := &Dispatcher{config: config, seed: maphash.MakeSeed(), waits: newWaits()}
	d.Set(nil, nil)
	return d
}

// Set makes the objects the ones that count: all there are. Mandatory ones that are missing are supplied. A level that is
// not valid is left out, or stays what it was; schemas whose level is not there are left out. Requests under way and
// waiting stay where they are. The objects are only read.
func (d *Dispatcher) Set(flowSchemas []*flowcontrolv1.FlowSchema, levels []*flowcontrolv1.PriorityLevelConfiguration) {
	levels, flowSchemas = slices.Clone(levels), slices.Clone(flowSchemas)
	for _, must := range bootstrap.MandatoryPriorityLevelConfigurations {
		if !slices.ContainsFunc(levels, func(o *flowcontrolv1.PriorityLevelConfiguration) bool { return o.Name == must.Name }) {
			levels = append(levels, must)
		}
	}
	for _, must := range bootstrap.MandatoryFlowSchemas {
		if !slices.ContainsFunc(flowSchemas, func(o *flowcontrolv1.FlowSchema) bool {
			return o.Name == must.Name && o.Spec.PriorityLevelConfiguration == must.Spec.PriorityLevelConfiguration
		}) {
			flowSchemas = append(flowSchemas, must)
		}
	}
	slices.SortFunc(flowSchemas, inOrder)

	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.levels {
		l.leaving = true
	}
	for _, o := range levels {
		i, found := slices.BinarySearchFunc(d.levels, o.Name, byName)
		l := &level{name: o.Name, exempt: o.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt}
		if found {
			l = d.levels[i]
		}
		if l.configure(o) != nil && !found {
			continue
		}
		if l.leaving = false; !found {
			l.listed = true
			d.levels = slices.Insert(d.levels, i, l)
		}
	}
	d.levels = slices.DeleteFunc(d.levels, func(l *level) bool {
		l.listed = !l.leaving || !l.idle()
		return !l.listed
	})
	d.shareLocked()
	d.current.Store(d.compileLocked(flowSchemas))
	d.dispatchLocked()
}

func byName(l *level, name string) int { return strings.Compare(l.name, name) }

// compileLocked makes the schemas ready. What was counted for a schema goes on while it points to the same level.
func (d *Dispatcher) compileLocked(flowSchemas []*flowcontrolv1.FlowSchema) *schemas {
	before := map[[2]string]*counts{}
	if old := d.current.Load(); old != nil {
		for _, s := range old.ordered {
			before[[2]string{s.name, s.level.name}] = s.counts
		}
	}
	made := &schemas{}
	for _, o := range flowSchemas {
		i, found := slices.BinarySearchFunc(d.levels, o.Spec.PriorityLevelConfiguration.Name, byName)
		if !found || d.levels[i].leaving {
			continue
		}
		l := d.levels[i]
		s := &Schema{
			name: o.Name, level: l, rules: compile(o.Spec.Rules), counts: before[[2]string{o.Name, l.name}],
			uid: []string{string(o.UID)}, levelUID: []string{string(l.uid)},
		}
		if s.counts == nil {
			s.counts = d.waits.counts(l.name, o.Name)
		}
		if m := o.Spec.DistinguisherMethod; m != nil {
			s.by = m.Type
		}
		made.ordered = append(made.ordered, s)
		if o.Name == flowcontrolv1.FlowSchemaNameCatchAll {
			made.catchAll = s
		}
	}
	return made
}

// Classify finds the schema of a request.
func (d *Dispatcher) Classify(u user.Info, info *request.Info) *Schema {
	return d.current.Load().classify(u, info)
}

// Seat is what a request holds while it is worked on. It is used by one goroutine.
type Seat struct {
	dispatcher *Dispatcher
	schema     *Schema
	queue      *queue // nil: exempt
	seats      int
}

// Enter waits for the seats of a request, at least one and no more than its level allows a request. false is a refusal:
// there is no seat and no place to wait, the wait was too long, or ctx has ended. Leave must be called when the request is
// done.
func (d *Dispatcher) Enter(ctx context.Context, s *Schema, u user.Info, info *request.Info, seats int) (Seat, bool) {
	l := s.level
	if l.exempt {
		s.counts.start(1)
		return Seat{dispatcher: d, schema: s, seats: 1}, true
	}
	hash := d.hash(s.name, s.flow(u, info))
	d.mu.Lock()
	if !l.listed { // the level went away after Classify: there is another schema now
		d.mu.Unlock()
		return d.Enter(ctx, d.Classify(u, info), u, info, seats)
	}
	seats = min(max(seats, 1), l.widest)
	q := l.dealt(hash)
	if l.waiting == 0 && (l.inUse+seats <= l.min || d.waiting == 0 && d.fitsLocked(l, seats)) {
		d.startLocked(s, l, q, seats)
		d.mu.Unlock()
		s.counts.waited.Observe(0)
		return Seat{d, s, q, seats}, true
	}
	w := &waiter{schema: s, level: l, queue: q, seats: seats, start: make(chan struct{})}
	why := d.queueLocked(w)
	placed := w.placed
	d.mu.Unlock()
	if why == none && !placed {
		begun := time.Now()
		placed = d.waitFor(ctx, w)
		if why = timeOut; placed {
			why = none
		}
		s.counts.wait(placed, time.Since(begun))
	} else {
		s.counts.wait(placed, 0)
	}
	if why != none {
		s.counts.rejected[why].Add(1)
		return Seat{}, false
	}
	return Seat{d, s, q, w.seats}, true
}

// hash is the flow's, different in each process: nobody outside can choose names that collide.
func (d *Dispatcher) hash(schema, flow string) uint64 {
	var h maphash.Hash
	h.SetSeed(d.seed)
	h.WriteString(schema) //nolint:errcheck // never fails
	h.WriteByte(0)        //nolint:errcheck // never fails
	h.WriteString(flow)   //nolint:errcheck // never fails
	return h.Sum64()
}

// queueLocked lets a request wait, or says why not. It may have been placed at once.
func (d *Dispatcher) queueLocked(w *waiter) reason {
	l, q := w.level, w.queue
	if l.dealer != nil && len(q.line) >= l.length {
		l.rejected++
		return queueFull
	}
	if len(q.line) == 0 {
		l.busy = append(l.busy, q)
	}
	q.line = append(q.line, w)
	q.width += w.seats
	l.waiting++
	d.waiting++
	w.schema.counts.waiting.Add(1)
	d.dispatchLocked()
	if l.dealer == nil && !w.placed {
		d.removeLocked(w)
		l.rejected++
		return concurrencyLimit
	}
	return none
}

func (d *Dispatcher) waitFor(ctx context.Context, w *waiter) (placed bool) {
	timer := time.NewTimer(d.config.Wait)
	defer timer.Stop()
	select {
	case <-w.start:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if w.placed { // at the same moment
		return true
	}
	d.removeLocked(w)
	w.level.rejected++
	w.level.timedOut++
	d.dispatchLocked() // it may have been the one that others had to wait for
	d.settleLocked(w.level)
	return false
}

// removeLocked takes a waiter out of its queue.
func (d *Dispatcher) removeLocked(w *waiter) {
	l, q := w.level, w.queue
	i := slices.Index(q.line, w)
	q.line = slices.Delete(q.line, i, i+1)
	if len(q.line) == 0 {
		i := slices.Index(l.busy, q)
		l.busy = slices.Delete(l.busy, i, i+1)
		q.line = nil
	}
	q.width -= w.seats
	l.waiting--
	d.waiting--
	w.schema.counts.waiting.Add(-1)
}

// fitsLocked says whether a level may have so many seats more.
func (d *Dispatcher) fitsLocked(l *level, seats int) bool {
	after := l.inUse + seats
	if after <= l.min {
		return true
	}
	return after <= l.max && d.held+after-max(l.inUse, l.min) <= d.total
}

func (d *Dispatcher) startLocked(s *Schema, l *level, q *queue, seats int) {
	d.takeLocked(l, q, seats)
	l.running++
	l.dispatched++
	l.clock = max(l.clock, q.turn)
	q.turn += uint64(seats)
	d.tickets++
	l.last = d.tickets
	s.counts.start(seats)
}

// takeLocked changes what is in use by so many seats.
func (d *Dispatcher) takeLocked(l *level, q *queue, seats int) {
	d.held += max(l.inUse+seats, l.min) - max(l.inUse, l.min)
	l.inUse += seats
	q.inUse += seats
}

// dispatchLocked starts what can be started.
func (d *Dispatcher) dispatchLocked() {
	for d.waiting > 0 {
		w := d.chooseLocked()
		if w == nil {
			return
		}
		d.removeLocked(w)
		d.startLocked(w.schema, w.level, w.queue, w.seats)
		w.placed = true
		close(w.start)
	}
}

// chooseLocked is the waiter whose turn it is, nil if that one has to wait on.
func (d *Dispatcher) chooseLocked() *waiter {
	var best *waiter
	for _, l := range d.levels {
		if l.waiting == 0 {
			continue
		}
		w := l.next().line[0]
		switch after := l.inUse + w.seats; {
		case after <= l.min:
			return w
		case after > l.max:
		case best == nil || l.part() < best.level.part() || l.part() == best.level.part() && l.last < best.level.last:
			best = w
		}
	}
	if best == nil || !d.fitsLocked(best.level, best.seats) {
		return nil
	}
	return best
}

// Leave gives the seats back; a second time it does nothing.
func (t *Seat) Leave() {
	d, s, q := t.dispatcher, t.schema, t.queue
	if s == nil {
		return
	}
	t.schema = nil
	s.counts.end(t.seats)
	if q == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.takeLocked(s.level, q, -t.seats)
	s.level.running--
	d.dispatchLocked()
	d.settleLocked(s.level)
}

// settleLocked lets go of a level that was deleted and has no requests any more.
func (d *Dispatcher) settleLocked(l *level) {
	if !l.leaving || !l.idle() || !l.listed {
		return
	}
	l.listed = false
	d.levels = slices.DeleteFunc(d.levels, func(other *level) bool { return other == l })
	d.shareLocked()
	d.dispatchLocked()
}

// shareLocked divides the seats anew.
func (d *Dispatcher) shareLocked() {
	shares := make([]share, len(d.levels))
	for i, l := range d.levels {
		shares[i] = l.share
	}
	d.total, d.held = 0, 0
	for i, limits := range divide(d.config.Seats, shares) {
		l := d.levels[i]
		l.limits = limits
		d.total += l.nominal
		d.held += max(l.inUse, l.min)
		for _, q := range l.busy { // who waits must not be wider than what there is now
			for _, w := range q.line {
				q.width -= max(0, w.seats-l.widest)
				w.seats = min(w.seats, l.widest)
			}
		}
	}
}
