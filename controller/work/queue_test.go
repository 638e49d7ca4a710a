package work

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func run[K comparable](t *testing.T, q *Queue[K]) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- q.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestQueueMergesKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		q := NewQueue(Config[string]{Sync: func(context.Context, string) error {
			n.Add(1)
			time.Sleep(time.Second)
			return nil
		}, Workers: 4})
		for range 5 {
			q.Add("a") // before Run: one entry
		}
		run(t, q)
		synctest.Wait()
		if n.Load() != 1 {
			t.Fatalf("%d syncs for five adds before Run, want 1", n.Load())
		}
		q.Add("a")
		q.Add("a") // while it is worked on: once more, and not at the same time
		synctest.Wait()
		if n.Load() != 1 {
			t.Fatal("a key is worked on twice at a time")
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n.Load() != 2 {
			t.Fatalf("%d syncs, want 2", n.Load())
		}
	})
}

func TestQueueWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int32
		q := NewQueue(Config[int]{Sync: func(context.Context, int) error {
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(time.Second)
			now.Add(-1)
			return nil
		}, Workers: 3})
		run(t, q)
		start := time.Now()
		for i := range 9 {
			q.Add(i)
		}
		for q.Len() > 0 {
			time.Sleep(time.Second)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if most.Load() != 3 || time.Since(start) > 5*time.Second {
			t.Fatalf("at most %d at a time in %s, want 3 in about 3 s", most.Load(), time.Since(start))
		}
		if q.workers != 0 {
			t.Fatalf("%d workers stay when there is nothing to do", q.workers)
		}
	})
}

func TestQueueBacksOffPerKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var bad []time.Duration
		good := 0
		start := time.Now()
		q := NewQueue(Config[string]{MinDelay: time.Second, MaxDelay: 10 * time.Second, Sync: func(_ context.Context, key string) error {
			mu.Lock()
			defer mu.Unlock()
			if key == "good" {
				good++
				return nil
			}
			bad = append(bad, time.Since(start))
			if len(bad) == 7 {
				return nil
			}
			if len(bad) == 3 {
				panic("malformed")
			}
			return errors.New("no")
		}})
		run(t, q)
		q.Add("bad")
		q.Add("good")
		synctest.Wait()
		if good != 1 {
			t.Fatal("a failing key holds up another")
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		want := []time.Duration{0, 1, 3, 7, 15, 25, 35}
		for i, w := range want {
			if i >= len(bad) || bad[i] != w*time.Second {
				t.Fatalf("tries at %v, want seconds %v", bad, want)
			}
		}
		if len(bad) != len(want) || len(q.failed) != 0 || len(q.state) != 0 || len(q.delayed) != 0 {
			t.Fatalf("after success: %d tries, state left %v %v %v", len(bad), q.failed, q.state, q.delayed)
		}
	})
}

func TestQueueAddAfterKeepsTheEarliest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		start := time.Now()
		q := NewQueue(Config[string]{Sync: func(context.Context, string) error {
			at = append(at, time.Since(start))
			return nil
		}})
		run(t, q)
		q.AddAfter("a", 10*time.Second)
		q.AddAfter("a", 3*time.Second)
		q.AddAfter("a", 5*time.Second)
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(at) != 1 || at[0] != 3*time.Second {
			t.Fatalf("synced at %v, want once at 3s", at)
		}
		q.AddAfter("a", 0)
		synctest.Wait()
		if len(at) != 2 {
			t.Fatal("no delay is not at once")
		}
	})
}

func TestQueueEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		q := NewQueue(Config[string]{Sync: func(ctx context.Context, _ string) error {
			<-ctx.Done()
			return ctx.Err()
		}})
		done := make(chan error)
		go func() { done <- q.Run(ctx) }()
		q.Add("a")
		q.AddAfter("b", time.Hour)
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		q.Add("c") // ignored, must not panic or start anything
		if q.workers != 0 {
			t.Fatal("a worker outlives Run")
		}
	})
}
