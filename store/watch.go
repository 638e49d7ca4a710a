package store

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

const (
	watchBuffer = 32               // events that may wait in a watcher's channel
	watchSlow   = 30 * time.Second // a watcher that takes no event for so long is dropped
)

// watches are the watchers of a collection.
//
// A watcher that is up to date is live: it costs no goroutine, and the one dispatcher, which exists only while there is
// something to deliver, puts events into its channel. One that has to catch up (with what existed at the start, with
// history, after its channel was full) has a pump: a goroutine that reads the collection's history until the watcher is
// live.
type watches struct {
	c       *collection
	count   atomic.Int32 // of all; changes are not dispatched while it is 0
	running atomic.Bool  // there is a dispatcher

	mu         sync.Mutex
	dispatched uint64 // position in the history up to which live watchers were served
	all        map[*watcher]struct{}
	live       map[scope][]*watcher
	lives      int
}

// watcher implements Watch.
type watcher struct {
	ws        *watches
	ch        chan Event
	scope     scope
	match     func(*Item) bool
	bookmarks bool
	quit      chan struct{} // closed to end the pump

	// Guarded by watches.mu, except that next and sent belong to the pump while the watcher is not live.
	next  uint64 // position of the first change it has not been offered; once live, dispatched may be ahead of it
	sent  int64  // revision of the last event
	index int    // in its live list, -1 if not live
	ended bool
	err   error

	release func() bool // of the context's AfterFunc
	timer   *time.Timer // for the bookmark before the context's deadline, or nil
}

func (ws *watches) init(c *collection) {
	ws.c = c
	ws.all = map[*watcher]struct{}{}
	ws.live = map[scope][]*watcher{}
}

// Events implements Watch.
func (w *watcher) Events() <-chan Event { return w.ch }

// Watch implements Collection.
func (c *collection) Watch(ctx context.Context, opts WatchOptions) (Watch, error) {
	revision, err := parseRevision(opts.ResourceVersion)
	if err != nil {
		return nil, err
	}
	if err := c.load(ctx); err != nil {
		return nil, err
	}
	// A revision that this etcd has never had is of a time before it was restored: better to hear of that than to miss
	// what happens until it is reached.
	if err := c.fresh(ctx, opts.ResourceVersion, revision); err != nil {
		return nil, err
	}
	state := opts.InitialEvents || revision == 0
	w := &watcher{
		ws:        &c.watches,
		ch:        make(chan Event, watchBuffer),
		scope:     scope{opts.Namespace, opts.Name},
		match:     opts.Match,
		bookmarks: opts.Bookmarks,
		quit:      make(chan struct{}),
		index:     -1,
	}
	// From here on changes are dispatched, so that none falls between the position read below and going live.
	c.watches.count.Add(1)
	start, generation, err := c.start(w, state && !opts.FromNow, revision)
	if err == errBefore {
		if err = c.remember(ctx, revision); err == nil {
			start, generation, err = c.start(w, false, revision)
		}
	}
	if err != nil {
		c.watches.count.Add(-1)
		if err == errBefore { // lost again already
			err = ErrCompacted
		}
		return nil, err
	}
	start.end = opts.InitialEvents
	c.watches.mu.Lock()
	w.release = context.AfterFunc(ctx, func() { w.end(nil) })
	if deadline, ok := ctx.Deadline(); ok && opts.Bookmarks {
		w.timer = time.AfterFunc(time.Until(deadline)-2*time.Second, w.bookmark)
	}
	c.watches.all[w] = struct{}{}
	live := start.items == nil && !start.end && w.goLiveLocked()
	c.watches.mu.Unlock()
	c.s.mu.RLock()
	gone, stopped := generation != c.generation, c.s.stopped
	c.s.mu.RUnlock()
	if gone || stopped != nil { // between start and registering, when nobody could tell this watcher
		w.end(ErrCompacted)
	}
	if !live {
		go w.pump(start)
	}
	return w, nil
}

// beginning is what a watcher gets before the changes.
type beginning struct {
	items    *tree // nil if nothing
	revision int64 // of items
	end      bool  // a bookmark follows the items
}

// errBefore says that the history begins after the revision.
var errBefore = errors.New("the history begins later")

// start finds the watcher's place in the history.
func (c *collection) start(w *watcher, state bool, revision int64) (beginning, int, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if err := c.usableLocked(); err != nil {
		return beginning{}, 0, err
	}
	b := beginning{revision: c.s.applied}
	switch {
	case state:
		if err := c.brokenLocked(); err != nil {
			return beginning{}, 0, err
		}
		b.items = c.snapshotLocked()
		fallthrough
	case revision == 0:
		w.next, w.sent = c.history.end(), c.s.applied
	case revision < c.history.floor:
		return beginning{}, 0, errBefore
	default:
		w.next, w.sent = c.history.after(revision), revision
	}
	return b, c.generation, nil
}

// remember extends the history backwards to the revision with what etcd knows: for a client that was away for minutes,
// or that has outlived this process. One reads for all, since after a restart they all come.
func (c *collection) remember(ctx context.Context, revision int64) error {
	c.filling.Lock()
	defer c.filling.Unlock()
	c.s.mu.RLock()
	floor, generation := c.history.floor, c.generation
	c.s.mu.RUnlock()
	if revision >= floor {
		return nil
	}
	events, err := c.s.etcd.changes(ctx, c.cfg.Prefix, revision, floor)
	if err != nil {
		return translate(ctx, err)
	}
	now := time.Now().Unix()
	records := make([]*record, 0, len(events))
	for _, e := range events {
		r := &record{key: string(e.Kv.Key[len(c.cfg.Prefix):]), revision: e.Kv.ModRevision, at: now}
		if e.PrevKv != nil {
			if r.before, err = c.decode(r.key, e.PrevKv.Value, e.PrevKv.ModRevision); err != nil {
				r.before = nil // was not to be seen, see breakLocked
			}
		}
		if e.Type == mvccpb.Event_PUT {
			if r.after, err = c.decode(r.key, e.Kv.Value, e.Kv.ModRevision); err != nil {
				r.after = nil
			}
		}
		if r.after == nil {
			if r.before == nil {
				continue
			}
			r.gone = r.before.at(r.revision)
		}
		records = append(records, r)
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.history.floor == floor && c.generation == generation {
		c.history.prepend(records, revision)
	}
	return nil
}

// pump sends what the watcher missed and ends when it is live, or over.
func (w *watcher) pump(b beginning) {
	ws, c := w.ws, w.ws.c
	if b.items != nil {
		q := query{scope: w.scope, match: w.match}
		ok := true
		q.each(b.items, func(item *Item) bool {
			ok = w.send(Event{Type: Added, Item: item, Revision: item.Revision})
			return ok
		})
		if !ok {
			w.finish()
			return
		}
	}
	if b.end && !w.send(Event{Type: Bookmark, Revision: b.revision, InitialEventsEnd: true}) {
		w.finish()
		return
	}
	b = beginning{} // the rest may take long, and its items are free to go
	for {
		ws.mu.Lock()
		live, over, to := w.goLiveLocked(), w.ended, ws.dispatched
		ws.mu.Unlock()
		if live {
			return
		}
		if over {
			w.finish()
			return
		}
		c.s.mu.RLock()
		records, ok := c.history.slice(w.next, to, 128)
		c.s.mu.RUnlock()
		if !ok { // too slow: the history has moved on
			w.end(nil)
			w.finish()
			return
		}
		for _, r := range records {
			if e, ok := w.see(r); ok && !w.send(e) {
				w.finish()
				return
			}
			w.next++
		}
	}
}

// goLiveLocked makes a watcher live if it has seen all that was dispatched.
func (w *watcher) goLiveLocked() bool {
	ws := w.ws
	if w.ended {
		return false
	}
	if ws.lives == 0 {
		// Nobody is harmed by a jump, and what was not dispatched while nobody watched is for this one.
		ws.dispatched = max(ws.dispatched, w.next)
		defer ws.kick()
	}
	if w.next < ws.dispatched {
		return false
	}
	list := ws.live[w.scope]
	w.index = len(list)
	ws.live[w.scope] = append(list, w)
	ws.lives++
	return true
}

func (w *watcher) leaveLiveLocked() {
	ws := w.ws
	list := ws.live[w.scope]
	last := list[len(list)-1]
	list[w.index], last.index = last, w.index
	list[len(list)-1] = nil
	if list = list[:len(list)-1]; len(list) == 0 {
		delete(ws.live, w.scope)
	} else {
		ws.live[w.scope] = list
	}
	w.index = -1
	ws.lives--
}

// see is the change as the watcher's scope and match let it appear; false if not at all.
func (w *watcher) see(r *record) (Event, bool) {
	if !w.scope.covers(r.key) {
		return Event{}, false
	}
	before := r.before != nil && (w.match == nil || w.match(r.before))
	after := r.after != nil && (w.match == nil || w.match(r.after))
	switch {
	case before && after:
		return Event{Type: Modified, Item: r.after, Revision: r.revision}, true
	case after:
		return Event{Type: Added, Item: r.after, Revision: r.revision}, true
	case before:
		return Event{Type: Deleted, Item: r.lost(), Revision: r.revision}, true
	}
	return Event{}, false
}

// send is the pump's: it waits for room, but not for ever.
func (w *watcher) send(e Event) bool {
	select {
	case <-w.quit:
		return false
	default:
	}
	w.sent = max(w.sent, e.Revision)
	select {
	case w.ch <- e:
		return true
	default:
	}
	slow := time.NewTimer(watchSlow)
	defer slow.Stop()
	select {
	case w.ch <- e:
		return true
	case <-slow.C:
		w.end(nil)
		return false
	case <-w.quit:
		return false
	}
}

// end stops the watcher; the channel is closed by whoever may send on it.
func (w *watcher) end(err error) {
	w.ws.mu.Lock()
	defer w.ws.mu.Unlock()
	w.endLocked(err)
}

func (w *watcher) endLocked(err error) {
	if w.ended {
		return
	}
	w.ended, w.err = true, err
	delete(w.ws.all, w)
	w.ws.count.Add(-1)
	w.release()
	if w.timer != nil {
		w.timer.Stop()
	}
	close(w.quit)
	if w.index >= 0 {
		w.leaveLiveLocked()
		w.finish()
	}
}

// finish closes the channel.
func (w *watcher) finish() {
	if w.err != nil {
		select {
		case w.ch <- Event{Type: Failed, Err: w.err}:
		default:
		}
	}
	close(w.ch)
}

// kick has the changes delivered. It is called with the store's lock held and takes none.
func (ws *watches) kick() {
	if ws.count.Load() > 0 && ws.running.CompareAndSwap(false, true) {
		go ws.dispatch()
	}
}

// dispatch serves the live watchers until they have everything.
func (ws *watches) dispatch() {
	for {
		ws.mu.Lock()
		from := ws.dispatched
		ws.mu.Unlock()
		s, h := ws.c.s, &ws.c.history
		s.mu.RLock()
		first := max(from, h.first)
		records, _ := h.slice(first, h.end(), 256)
		s.mu.RUnlock()
		if len(records) == 0 && first == from {
			ws.running.Store(false)
			s.mu.RLock()
			more := h.end() > from
			s.mu.RUnlock()
			if more && ws.running.CompareAndSwap(false, true) {
				continue
			}
			return
		}
		ws.mu.Lock()
		if first > from {
			ws.dropBehindLocked(first)
		}
		for i, r := range records {
			ws.deliverLocked(r, first+uint64(i))
		}
		ws.dispatched = max(ws.dispatched, first+uint64(len(records)))
		ws.mu.Unlock()
	}
}

// dropBehindLocked ends the live watchers that would have needed changes the history has lost already.
func (ws *watches) dropBehindLocked(first uint64) {
	for w := range ws.all {
		if w.index >= 0 && w.next < first {
			w.endLocked(nil)
		}
	}
}

// deliverLocked offers one change to the live watchers whose scope covers it.
func (ws *watches) deliverLocked(r *record, position uint64) {
	k := scopeOf(r.key)
	scopes := [...]scope{{}, {k.namespace, ""}, {"", k.name}, k}
	for i, s := range scopes {
		if i > 1 && k.namespace == "" && i != 2 || i == 1 && k.namespace == "" {
			continue // without a namespace there are two scopes only
		}
		for j := 0; j < len(ws.live[s]); {
			w := ws.live[s][j]
			if position < w.next {
				j++
				continue
			}
			e, ok := w.see(r)
			if !ok {
				j++
				continue
			}
			select {
			case w.ch <- e:
				w.sent = r.revision
				j++
			default: // full: let it catch up by itself; another watcher takes its place in the list
				w.leaveLiveLocked()
				w.next = position
				go w.pump(beginning{})
			}
		}
	}
}

// bookmark offers a bookmark to one watcher if it is live.
func (w *watcher) bookmark() {
	w.ws.mu.Lock()
	defer w.ws.mu.Unlock()
	if w.index >= 0 {
		w.bookmarkLocked(w.ws.reachedLocked())
	}
}

// bookmark offers one to every live watcher that wants them.
func (ws *watches) bookmark() {
	if ws.count.Load() == 0 {
		return
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	revision := ws.reachedLocked()
	for w := range ws.all {
		if w.bookmarks && w.index >= 0 {
			w.bookmarkLocked(revision)
		}
	}
}

// reachedLocked is the revision up to which the live watchers have everything.
func (ws *watches) reachedLocked() int64 {
	s, h := ws.c.s, &ws.c.history
	s.mu.RLock()
	defer s.mu.RUnlock()
	if ws.dispatched < h.end() {
		i := max(ws.dispatched, h.first) - h.first
		return h.records[i].revision - 1
	}
	return s.applied
}

func (w *watcher) bookmarkLocked(revision int64) {
	if revision <= w.sent {
		return
	}
	select {
	case w.ch <- Event{Type: Bookmark, Revision: revision}:
		w.sent = revision
	default: // it has events to read, which tell it more
	}
}

// endWatches ends all watchers; an error is told to them.
func (c *collection) endWatches(err error) {
	c.watches.mu.Lock()
	defer c.watches.mu.Unlock()
	for w := range c.watches.all {
		w.endLocked(err)
	}
}
