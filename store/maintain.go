package store

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// compact drops history at every turn of s.every: what is older than the turn before.
func (s *Store) compact(ctx context.Context) error {
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	s.mu.RLock()
	last := s.applied
	s.mu.RUnlock()
	done := int64(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if last > done {
				if err := s.compactTo(ctx, last); err != nil && ctx.Err() == nil {
					s.log.Warn("compacting etcd failed; trying again later", "err", err)
				} else {
					done = last
				}
			}
		case <-s.full:
			// Space first: history is worth less than writes.
			s.mu.RLock()
			last = s.applied
			s.mu.RUnlock()
			s.reclaim(ctx, last)
			continue
		}
		s.mu.RLock()
		last = s.applied
		s.mu.RUnlock()
		s.rest()
	}
}

// rest lets go of memory that nobody has asked for lately.
func (s *Store) rest() {
	s.mu.Lock()
	var trees []*tree
	for _, c := range s.collections {
		if c.state.Load() == ready {
			trees = append(trees, c.snapshotLocked())
		}
	}
	s.mu.Unlock()
	for _, t := range trees {
		t.Ascend(func(e entry) bool {
			e.item.rest()
			return true
		})
	}
	s.etcd.shrink()
}

func (s *Store) compactTo(ctx context.Context, revision int64) error {
	_, err := s.etcd.Compact(ctx, &etcdserverpb.CompactionRequest{Revision: revision, Physical: true})
	if err != nil && !errors.Is(rpctypes.Error(err), rpctypes.ErrCompacted) { // somebody else's compaction went further
		return err
	}
	s.mu.Lock()
	s.compacted = max(s.compacted, revision)
	s.mu.Unlock()
	return nil
}

// reclaim answers etcd's NOSPACE alarm.
func (s *Store) reclaim(ctx context.Context, revision int64) {
	s.log.Warn("etcd's space quota is used up; compacting and defragmenting")
	if err := s.compactTo(ctx, revision); err != nil {
		s.log.Error("compacting etcd failed", "err", err)
		return
	}
	if err := s.etcd.reclaim(ctx); err != nil {
		s.log.Error("etcd is full; delete objects or raise the quota", "err", err)
	}
}

// failed translates an error of a write and has a full etcd looked after.
func (s *Store) failed(ctx context.Context, err error) error {
	if errors.Is(rpctypes.Error(err), rpctypes.ErrNoSpace) {
		select {
		case s.full <- struct{}{}:
		default: // is being looked after
		}
	}
	s.mu.RLock()
	stopped := s.stopped
	s.mu.RUnlock()
	if stopped != nil {
		return stopped // what etcd says while it stops is of no use
	}
	return translate(ctx, err)
}

// tend sends the bookmarks and lets go of old history.
func (s *Store) tend(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := time.Now().Unix()
		s.mu.Lock()
		all := make([]*collection, 0, len(s.collections))
		for _, c := range s.collections {
			c.history.trim(now)
			all = append(all, c)
		}
		s.mu.Unlock()
		for _, c := range all {
			c.watches.bookmark()
		}
	}
}
