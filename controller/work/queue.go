package work

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Config says what a queue works on.
type Config[K comparable] struct {
	// Name stands in logs and errors.
	Name string
	// Sync brings what key names to where it should be. An error is retried with a growing delay; a conflict is an
	// ordinary error here, logged at debug level only. Sync must return when ctx ends.
	Sync func(ctx context.Context, key K) error
	// Workers is how many keys are worked on at the same time; 0 means 1.
	Workers int
	// MinDelay and MaxDelay bound the delay after failures; 0 means 5 ms and 2 minutes.
	MinDelay, MaxDelay time.Duration
	Logger             *slog.Logger
}

// Queue holds keys and works on them while Run runs. Its methods may be called from any goroutine, also before Run.
type Queue[K comparable] struct {
	cfg Config[K]

	mu      sync.Mutex
	ctx     context.Context // set while Run runs
	pending []K
	state   map[K]keyState
	delayed map[K]*delay
	failed  map[K]int
	workers int
	idle    sync.WaitGroup
}

type keyState uint8

const (
	queued  keyState = 1 << iota // in pending
	working                      // a worker has it
	again                        // to be queued when its worker is done
)

type delay struct {
	at    time.Time
	timer *time.Timer
}

// NewQueue makes an empty queue.
func NewQueue[K comparable](cfg Config[K]) *Queue[K] {
	if cfg.Workers == 0 {
		cfg.Workers = 1
	}
	if cfg.MinDelay == 0 {
		cfg.MinDelay = 5 * time.Millisecond
	}
	if cfg.MaxDelay == 0 {
		cfg.MaxDelay = 2 * time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Queue[K]{
		cfg: cfg, state: map[K]keyState{}, delayed: map[K]*delay{}, failed: map[K]int{},
	}
}

// Add asks for key to be worked on as soon as a worker is free.
func (q *Queue[K]) Add(key K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.addLocked(key)
}

func (q *Queue[K]) addLocked(key K) {
	switch s := q.state[key]; {
	case s&working != 0:
		q.state[key] = s | again
	case s&queued != 0:
	default:
		q.state[key] = queued
		q.pending = append(q.pending, key)
		q.startLocked()
	}
}

// AddAfter asks for key to be worked on when d has passed. Of several waits of one key only the shortest is kept: the
// sync that it brings about asks again for what is still due.
func (q *Queue[K]) AddAfter(key K, d time.Duration) {
	if d <= 0 {
		q.Add(key)
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	at := time.Now().Add(d)
	if w := q.delayed[key]; w != nil {
		if !at.Before(w.at) {
			return
		}
		w.timer.Stop()
	}
	w := &delay{at: at}
	q.delayed[key] = w
	w.timer = time.AfterFunc(d, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.delayed[key] == w {
			delete(q.delayed, key)
			q.addLocked(key)
		}
	})
}

// Run works on keys until ctx ends, and returns nil when the last worker has ended. A queue runs once.
func (q *Queue[K]) Run(ctx context.Context) error {
	q.mu.Lock()
	if q.ctx != nil {
		q.mu.Unlock()
		return errors.New("queue " + q.cfg.Name + " runs already")
	}
	q.ctx = ctx
	q.startLocked()
	q.mu.Unlock()

	<-ctx.Done()
	q.mu.Lock()
	for _, w := range q.delayed {
		w.timer.Stop()
	}
	clear(q.delayed)
	q.mu.Unlock()
	q.idle.Wait()
	return nil
}

// startLocked starts a worker when there is a key for it.
func (q *Queue[K]) startLocked() {
	for q.ctx != nil && q.ctx.Err() == nil && q.workers < q.cfg.Workers && q.workers < len(q.pending) {
		q.workers++
		q.idle.Add(1)
		go q.work(q.ctx)
	}
}

func (q *Queue[K]) work(ctx context.Context) {
	defer q.idle.Done()
	for {
		key, ok := q.next(ctx)
		if !ok {
			return
		}
		q.done(ctx, key, q.sync(ctx, key))
	}
}

// next takes a key, or ends the calling worker when there is none.
func (q *Queue[K]) next(ctx context.Context) (K, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.pending) == 0 || ctx.Err() != nil {
		q.workers--
		if len(q.pending) == 0 {
			q.pending = nil // what a burst needed is given back
		}
		var none K
		return none, false
	}
	key := q.pending[0]
	q.pending = q.pending[1:]
	q.state[key] = working
	return key, true
}

// sync turns a panic of one key's sync into an error of that key: a malformed object must not take the node down.
func (q *Queue[K]) sync(ctx context.Context, key K) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			q.cfg.Logger.Error("sync panicked", "controller", q.cfg.Name, "key", key, "panic", p)
		}
	}()
	return q.cfg.Sync(ctx, key)
}

func (q *Queue[K]) done(ctx context.Context, key K, err error) {
	q.mu.Lock()
	s := q.state[key]
	delete(q.state, key)
	n := 0
	if err == nil {
		delete(q.failed, key)
	} else {
		n = q.failed[key] + 1
		q.failed[key] = n
	}
	if s&again != 0 {
		q.addLocked(key) // something changed meanwhile: what failed may now work, so do not wait
	}
	q.mu.Unlock()
	if err == nil || s&again != 0 || ctx.Err() != nil {
		return
	}
	wait := q.backoff(n)
	// The first failures are races with other writers as a rule, and the retry settles them.
	level := slog.LevelDebug
	if n > 3 && !apierrors.IsConflict(err) {
		level = slog.LevelWarn
	}
	q.cfg.Logger.Log(ctx, level, "sync failed, will be tried again", "controller", q.cfg.Name, "key", key, "err", err, "failures", n, "after", wait)
	q.AddAfter(key, wait)
}

func (q *Queue[K]) backoff(failures int) time.Duration {
	d := float64(q.cfg.MinDelay) * math.Pow(2, float64(failures-1))
	return time.Duration(min(d, float64(q.cfg.MaxDelay)))
}

// Len returns how many keys wait for a worker.
func (q *Queue[K]) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.pending)
}
