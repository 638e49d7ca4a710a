package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// ownWrite is an acknowledged write of this process: all there is at its revision, already decoded.
type ownWrite struct {
	c    *collection
	key  string
	item *Item // nil for a delete
	tomb *Item // the deleted item
}

// flight is a put on its way to etcd, with the object that readers will get already decoded: the watch may bring it
// before its own acknowledgement.
type flight struct {
	c      *collection
	key    string
	plain  []byte
	stored []byte // plain, encrypted if the collection is
	obj    Object
	item   *Item // made of obj by whoever first knows the revision
}

// waiter waits for applied to reach its revision.
type waiter struct {
	revision int64
	done     chan struct{}
}

// wrote puts an acknowledged write into its cache as soon as everything before it is there: at once if nobody else
// wrote in between, else when the others' writes have come in by the watch.
func (s *Store) wrote(w ownWrite, revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wroteLocked(w, revision)
}

func (s *Store) wroteLocked(w ownWrite, revision int64) {
	if revision <= s.applied {
		return
	}
	s.own[revision] = w
	s.drainLocked()
	s.wakeLocked()
}

func (s *Store) launch(f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.c.inflight[f.key] = append(f.c.inflight[f.key], f)
}

// land takes in what became of a put: written at the revision, or not written if that is 0.
func (s *Store) land(f *flight, revision int64) *Item {
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := slices.DeleteFunc(f.c.inflight[f.key], func(o *flight) bool { return o == f })
	if len(rest) == 0 {
		delete(f.c.inflight, f.key)
	} else {
		f.c.inflight[f.key] = rest
	}
	if revision == 0 {
		return nil
	}
	if f.item != nil && f.item.Revision == revision {
		return f.item // the watch was faster
	}
	obj := f.obj
	if f.item != nil { // the same bytes under the same key, but another's write
		var err error
		if obj, err = f.c.cfg.Codec.Decode(f.plain); err != nil {
			return nil // it was decoded once already
		}
	}
	item := newItem(f.key, obj, revision, len(f.plain))
	s.wroteLocked(ownWrite{c: f.c, key: f.key, item: item}, revision)
	return item
}

// arrivedLocked is the item of a put on its way that the watch has brought, nil if it was not one of ours.
func (c *collection) arrivedLocked(key string, stored []byte, revision int64) *Item {
	for _, f := range c.inflight[key] {
		if f.item == nil && bytes.Equal(f.stored, stored) {
			f.item = newItem(key, f.obj, revision, len(f.plain))
			return f.item
		}
	}
	return nil
}

// drainLocked applies own writes for as long as they follow one another without a gap. A revision of ours holds
// nothing but the one write, so no event can be skipped by it.
func (s *Store) drainLocked() {
	for {
		w, ok := s.own[s.applied+1]
		if !ok {
			return
		}
		s.applied++
		delete(s.own, s.applied)
		w.c.applyLocked(w.key, w.item, w.tomb, s.applied)
	}
}

// feed keeps etcd's watch running and takes in what it brings.
func (s *Store) feed(ctx context.Context) error {
	for {
		s.mu.RLock()
		after := s.applied
		s.mu.RUnlock()
		err := s.etcd.watch(ctx, after, s.take)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrCompacted):
			// Away for so long that there is no way to know what happened: start over, and so must the watchers.
			s.log.Warn("etcd compacted the history that the watch cache had not seen; starting over")
			if err := s.restart(ctx); err != nil {
				return err
			}
		default:
			s.log.Warn("the watch on etcd ended; trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// restart forgets what the caches hold and goes on from etcd's present revision.
func (s *Store) restart(ctx context.Context) error {
	revision, err := s.etcd.revision(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		s.log.Warn("etcd does not tell its revision; trying again", "err", err)
		return nil // feed comes back here
	}
	s.mu.Lock()
	s.applied = max(s.applied, revision)
	for r := range s.own {
		if r <= s.applied {
			delete(s.own, r)
		}
	}
	old := make([]*collection, 0, len(s.collections))
	for _, c := range s.collections {
		c.unloadLocked()
		old = append(old, c)
	}
	s.wakeLocked()
	s.mu.Unlock()
	for _, c := range old {
		c.endWatches(ErrCompacted)
	}
	return nil
}

// arrival is a change from etcd's watch on its way into a cache.
type arrival struct {
	c    *collection
	key  string
	item *Item // nil for a delete
	err  error // the bytes cannot be decoded
}

// take applies a delivery of etcd's watch. What came in as an own write before is skipped; the bytes of others are
// decoded without the lock.
func (s *Store) take(p progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	arrivals := make([]arrival, len(p.events))
	var foreign []int
	for i, e := range p.events {
		a := &arrivals[i]
		if e.Kv.ModRevision <= s.applied {
			continue
		}
		a.c, a.key = s.routeLocked(string(e.Kv.Key))
		if a.c == nil || e.Type != mvccpb.Event_PUT || a.c.state.Load() == unloaded {
			continue
		}
		if w, ok := s.own[e.Kv.ModRevision]; ok {
			a.item = w.item
		} else if a.item = a.c.arrivedLocked(a.key, e.Kv.Value, e.Kv.ModRevision); a.item == nil {
			foreign = append(foreign, i)
		}
	}
	if len(foreign) > 0 {
		s.mu.Unlock()
		for _, i := range foreign {
			a, kv := &arrivals[i], p.events[i].Kv
			a.item, a.err = a.c.decode(a.key, kv.Value, kv.ModRevision)
		}
		s.mu.Lock()
	}
	for i, e := range p.events {
		rev := e.Kv.ModRevision
		if rev <= s.applied {
			continue // own writes have drained meanwhile
		}
		if a := arrivals[i]; a.err != nil {
			a.c.breakLocked(a.key, a.err, rev)
		} else if a.c != nil {
			a.c.applyLocked(a.key, a.item, nil, rev)
		}
		// The rest of this revision belongs to it, and own writes may follow only after that.
		if i+1 == len(p.events) || p.events[i+1].Kv.ModRevision != rev {
			s.applied = rev
			delete(s.own, rev)
		}
	}
	if p.revision > s.applied {
		for r := range s.own {
			if r <= p.revision {
				delete(s.own, r)
			}
		}
		s.applied = p.revision
	}
	s.drainLocked()
	s.wakeLocked()
}

// routeLocked finds the collection of an etcd key, nil if nobody asked for one.
func (s *Store) routeLocked(key string) (*collection, string) {
	if !strings.HasPrefix(key, root) {
		return nil, ""
	}
	for i := len(root); i < len(key); i++ {
		if key[i] == '/' {
			if c, ok := s.collections[key[:i+1]]; ok {
				return c, key[i+1:]
			}
		}
	}
	return nil, ""
}

// wakeLocked lets go of those whose revision has come, and of all when nothing comes any more.
func (s *Store) wakeLocked() {
	kept := s.waiting[:0]
	for _, w := range s.waiting {
		if w.revision <= s.applied || s.stopped != nil {
			close(w.done)
		} else {
			kept = append(kept, w)
		}
	}
	clear(s.waiting[len(kept):])
	s.waiting = kept
}

// reached says whether the caches hold everything up to the revision; an error if they never will.
func (s *Store) reached(revision int64) (bool, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.applied >= revision, s.stopped
}

// caughtUp waits until the caches hold everything up to the revision.
func (s *Store) caughtUp(ctx context.Context, revision int64) error {
	if ok, err := s.reached(revision); ok || err != nil {
		return err
	}
	s.mu.Lock()
	if s.applied >= revision {
		s.mu.Unlock()
		return nil
	}
	w := waiter{revision, make(chan struct{})}
	s.waiting = append(s.waiting, w)
	s.mu.Unlock()
	nudge := time.NewTimer(2 * time.Millisecond)
	defer nudge.Stop()
	for {
		select {
		case <-w.done:
			s.mu.RLock()
			defer s.mu.RUnlock()
			return s.stopped
		case <-nudge.C:
			s.etcd.progress(ctx)
			nudge.Reset(100 * time.Millisecond)
		case <-ctx.Done():
			s.mu.Lock()
			for i := range s.waiting {
				if s.waiting[i].done == w.done {
					s.waiting = append(s.waiting[:i], s.waiting[i+1:]...)
					break
				}
			}
			s.mu.Unlock()
			return context.Cause(ctx)
		}
	}
}

// latest waits until the caches hold every write that was acknowledged before the call, and returns a revision at
// which they do.
func (s *Store) latest(ctx context.Context) (int64, error) {
	revision, err := s.etcd.revision(ctx)
	if err != nil {
		return 0, translate(ctx, err)
	}
	if ok, err := s.reached(revision); ok || err != nil {
		return revision, err
	}
	wait, cancel := context.WithTimeoutCause(ctx, 2*freshWait, fmt.Errorf("%w: its changes are late", ErrUnavailable))
	defer cancel()
	return revision, s.caughtUp(wait, revision)
}

// notOlder waits for a revision that a client has seen or believes to have seen.
func (s *Store) notOlder(ctx context.Context, revision int64) error {
	if ok, err := s.reached(revision); ok || err != nil {
		return err
	}
	wait, cancel := context.WithTimeoutCause(ctx, freshWait, ErrFuture)
	defer cancel()
	return s.caughtUp(wait, revision)
}
