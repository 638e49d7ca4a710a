package fairness

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func enter(t *testing.T, q *Queue, name string) func() {
	t.Helper()
	leave, ok := q.Enter(t.Context(), name)
	if !ok {
		t.Fatalf("%s was refused", name)
	}
	return leave
}

// TestFloodDoesNotStarve: while one user keeps all places and a full line, a request of another waits for one place only.
func TestFloodDoesNotStarve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const places, takes = 4, 10 * time.Millisecond
		q := New(Config{Places: places, Line: 100, Wait: 15 * time.Second})
		ctx, stop := context.WithCancel(t.Context())
		var group sync.WaitGroup
		var served, refused int
		var mu sync.Mutex
		for range 200 { // more than places and line hold
			group.Go(func() {
				for ctx.Err() == nil {
					leave, ok := q.Enter(ctx, "flood")
					mu.Lock()
					if ok {
						served++
					} else {
						refused++
					}
					mu.Unlock()
					time.Sleep(takes)
					if ok {
						leave()
					}
				}
			})
		}
		synctest.Wait()
		for range 50 {
			begun := time.Now()
			leave := enter(t, q, "calm")
			if waited := time.Since(begun); waited > takes {
				t.Fatalf("waited %v for a place", waited)
			}
			time.Sleep(takes)
			leave()
		}
		stop()
		group.Wait()
		if served < 50*(places-1) || refused == 0 {
			t.Errorf("the flood was served %d times and refused %d times", served, refused)
		}
		if len(q.users) != 0 || q.running != 0 || q.waiting != 0 {
			t.Errorf("left over: %d users, %d running, %d waiting", len(q.users), q.running, q.waiting)
		}
	})
}

func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(Config{Places: 1, Line: 1, Wait: time.Second})
		leave := enter(t, q, "a")
		done := make(chan bool, 1)
		go func() { _, ok := q.Enter(t.Context(), "a"); done <- ok }()
		synctest.Wait()
		if _, ok := q.Enter(t.Context(), "a"); ok {
			t.Error("a full line took one more")
		}
		begun := time.Now()
		if <-done || time.Since(begun) != time.Second {
			t.Errorf("a wait ended after %v", time.Since(begun))
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, ok := q.Enter(ctx, "b"); done <- ok }()
		synctest.Wait()
		cancel()
		if <-done {
			t.Error("a request whose client has gone got a place")
		}
		leave()
		enter(t, q, "c")()
		if len(q.users) != 0 {
			t.Errorf("%d users are left", len(q.users))
		}
	})
}

// TestPlaces: never more than the places are taken, a free place is never kept from who waits, and places are shared
// evenly among those who want more.
func TestPlaces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := New(Config{Places: rapid.IntRange(1, 5).Draw(t, "places"), Line: 100, Wait: time.Hour})
		var leaves []func()
		var group sync.WaitGroup
		ctx, cancel := context.WithCancel(context.Background())
		var mu sync.Mutex
		wait := func(waiting, running int) {
			for {
				q.mu.Lock()
				ok := q.waiting == waiting && q.running == running
				q.mu.Unlock()
				mu.Lock()
				ok = ok && len(leaves) == running
				mu.Unlock()
				if ok {
					return
				}
				time.Sleep(10 * time.Microsecond)
			}
		}
		total := 0
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "enter") {
				name := fmt.Sprint(rapid.IntRange(0, 2).Draw(t, "user"))
				group.Go(func() {
					if leave, ok := q.Enter(ctx, name); ok {
						mu.Lock()
						leaves = append(leaves, leave)
						mu.Unlock()
					}
				})
				total++
			} else if total > 0 {
				mu.Lock()
				leave := leaves[0]
				leaves = leaves[1:]
				mu.Unlock()
				leave()
				total--
			}
			wait(max(0, total-q.config.Places), min(total, q.config.Places))
		}
		cancel()
		group.Wait()
	})
}

func BenchmarkQueue(b *testing.B) {
	q := New(Config{Places: 400, Line: 50, Wait: time.Second})
	b.ReportAllocs()
	for b.Loop() {
		leave, ok := q.Enter(context.Background(), "user")
		if !ok {
			b.Fatal("refused")
		}
		leave()
	}
}
