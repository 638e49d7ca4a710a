package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Config says where the objects are kept. Exactly one of DataDir and Endpoints is set.
type Config struct {
	// DataDir holds an embedded etcd member, which lives and dies with Run. It listens on no network address.
	DataDir string
	// Socket is the path of a unix socket on which the embedded member serves etcd's gRPC API to who may open the file
	// (mode 0600): etcdctl, backups, an upstream kube-apiserver. "" serves nobody. The kernel allows about 100 bytes.
	Socket string

	// Endpoints are the client URLs of an etcd cluster that somebody else runs.
	Endpoints []string
	TLS       *tls.Config // nil for plain text

	Logger *slog.Logger // nil discards

	// Quota is the most bytes the embedded etcd's database may take on disk; 0 is 8 GiB. When it is reached writes fail
	// with ErrUnavailable until the store has freed space by itself.
	Quota int64
	// CompactEvery is how often history is dropped: at each turn everything older than the turn before, so that readers
	// find between one and two such periods of it. 0 is 5 minutes.
	CompactEvery time.Duration
}

const (
	root          = "/registry/" // upstream's etcd prefix, the only part of the key space the caches look at
	defaultQuota  = 8 << 30
	maxObjectSize = 3 << 19 // 1.5 MiB, etcd's own limit of a request
	// freshWait is how long a read waits for a revision that does not exist yet; upstream's watch cache waits as long.
	freshWait = 3 * time.Second
)

// Store is an open etcd and the watch caches in front of it.
type Store struct {
	log    *slog.Logger
	etcd   etcd
	leases leases
	every  time.Duration
	full   chan struct{} // has room for one: etcd said that its quota is used up

	mu sync.RWMutex
	// applied is the revision up to which every event is in the caches.
	applied int64
	// compacted is the oldest revision at which lists are still answered, as far as this process has compacted.
	compacted   int64
	own         map[int64]ownWrite // acknowledged writes of this process that are ahead of applied
	waiting     []waiter
	collections map[string]*collection // by prefix
	stopped     error                  // why no more events will come; nil while they may
}

// Open starts the embedded etcd member, or dials the endpoints, and returns when etcd answers. Nothing is read from it
// yet: each collection loads at its first use. Run must be called soon after, it feeds the caches and ends everything.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if (cfg.DataDir == "") == (len(cfg.Endpoints) == 0) {
		return nil, errors.New("store: set either DataDir or Endpoints")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Quota == 0 {
		cfg.Quota = defaultQuota
	}
	if cfg.CompactEvery == 0 {
		cfg.CompactEvery = 5 * time.Minute
	}
	s := &Store{
		log:         cfg.Logger,
		every:       cfg.CompactEvery,
		full:        make(chan struct{}, 1),
		own:         map[int64]ownWrite{},
		collections: map[string]*collection{},
	}
	var err error
	if cfg.DataDir != "" {
		s.etcd, err = startMember(ctx, cfg)
	} else {
		s.etcd, err = dial(ctx, cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if s.applied, err = s.etcd.revision(ctx); err != nil {
		s.etcd.close()
		return nil, fmt.Errorf("store: asking etcd for its revision: %w", err)
	}
	s.leases.etcd = s.etcd
	return s, nil
}

// Run feeds the caches and keeps etcd in shape until ctx ends, then ends all watches, stops the embedded member and
// returns nil. An error means that etcd is lost for this process: the embedded member has stopped by itself.
func (s *Store) Run(ctx context.Context) error {
	defer s.etcd.close()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.feed(gctx) })
	g.Go(func() error { return s.compact(gctx) })
	g.Go(func() error { return s.tend(gctx) })
	g.Go(func() error { return s.etcd.wait(gctx) })
	err := g.Wait()
	s.stop()
	if ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())) {
		return nil
	}
	return fmt.Errorf("store: %w", err)
}

// stop ends every watch and tells who waits that nothing will come any more.
func (s *Store) stop() {
	s.mu.Lock()
	s.stopped = fmt.Errorf("%w: it is shutting down", ErrUnavailable)
	s.wakeLocked()
	all := make([]*collection, 0, len(s.collections))
	for _, c := range s.collections {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		c.endWatches(nil)
	}
}

// Healthy returns nil if etcd answers with a quorum behind it and the caches follow it; ctx bounds the wait.
func (s *Store) Healthy(ctx context.Context) error {
	if err := s.etcd.healthy(ctx); err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	if _, err := s.latest(ctx); err != nil {
		return fmt.Errorf("watch cache: %w", err)
	}
	return nil
}

// Collection returns the objects below cfg.Prefix. Calls with the same prefix share one collection, of the first config.
func (s *Store) Collection(cfg CollectionConfig) Collection {
	if !strings.HasPrefix(cfg.Prefix, root) || !strings.HasSuffix(cfg.Prefix, "/") || len(cfg.Prefix) == len(root) {
		panic(fmt.Sprintf("store: the prefix %q is not of the form %sRESOURCE/", cfg.Prefix, root))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.collections[cfg.Prefix]; ok {
		return c
	}
	c := newCollection(s, cfg)
	s.collections[cfg.Prefix] = c
	return c
}

// Drop forgets the collection below prefix, for a resource that is served no more: its watches end, calls to it fail with
// ErrUnavailable, and Collection makes a new one. What etcd holds stays there.
func (s *Store) Drop(prefix string) {
	s.mu.Lock()
	c, ok := s.collections[prefix]
	if ok {
		delete(s.collections, prefix)
		c.unloadLocked()
		c.state.Store(dropped)
	}
	s.mu.Unlock()
	if ok {
		c.endWatches(nil)
	}
}

// Stats is what the metrics of the apiserver tell about the store.
type Stats struct {
	Revision    int64 // up to which the caches hold everything
	Collections []CollectionStats
}

// CollectionStats is one loaded collection.
type CollectionStats struct {
	Prefix   string
	Objects  int
	Watchers int
}

// Stats counts; it is cheap enough for every scrape. Collections that nobody has used yet are left out.
func (s *Store) Stats() Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	stats := Stats{Revision: s.applied}
	for prefix, c := range s.collections {
		if c.state.Load() == ready {
			stats.Collections = append(stats.Collections, CollectionStats{prefix, c.items.Len(), int(c.watches.count.Load())})
		}
	}
	slices.SortFunc(stats.Collections, func(a, b CollectionStats) int { return strings.Compare(a.Prefix, b.Prefix) })
	return stats
}
