package fairness

import (
	"context"
	"sync"
	"time"
)

// Config bounds a queue.
type Config struct {
	Places int           // requests under way at the same time
	Line   int           // requests of one user that may wait
	Wait   time.Duration // the longest wait
}

// Queue gives out places.
type Queue struct {
	config Config

	mu      sync.Mutex
	running int
	waiting int
	tickets uint64
	users   map[string]*user
}

type user struct {
	running int
	line    []*request
}

type request struct {
	ticket uint64        // grows with arrival
	turn   chan struct{} // closed when it has a place
	placed bool
}

// New makes a queue with all places free.
func New(config Config) *Queue { return &Queue{config: config, users: map[string]*user{}} }

// Enter waits for a place for a request of the user. false is a refusal: the line is full, the wait was too long, or ctx has
// ended. leave must be called once when the request is done.
func (q *Queue) Enter(ctx context.Context, name string) (leave func(), ok bool) {
	q.mu.Lock()
	u := q.users[name]
	if u == nil {
		u = &user{}
		q.users[name] = u
	}
	if q.running < q.config.Places && q.waiting == 0 {
		q.takeLocked(u)
		q.mu.Unlock()
		return func() { q.leave(name) }, true
	}
	if len(u.line) >= q.config.Line {
		q.forgetLocked(name, u)
		q.mu.Unlock()
		return nil, false
	}
	q.tickets++
	r := &request{ticket: q.tickets, turn: make(chan struct{})}
	u.line = append(u.line, r)
	q.waiting++
	q.mu.Unlock()

	timer := time.NewTimer(q.config.Wait)
	defer timer.Stop()
	select {
	case <-r.turn:
		return func() { q.leave(name) }, true
	case <-timer.C:
	case <-ctx.Done():
	}
	q.giveUp(name, r)
	return nil, false
}

// giveUp takes a request out of its line. One that was given its place at the same moment passes it on.
func (q *Queue) giveUp(name string, r *request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	u := q.users[name]
	if r.placed {
		q.leaveLocked(name, u)
		return
	}
	for i, other := range u.line {
		if other == r {
			u.line = append(u.line[:i], u.line[i+1:]...)
			break
		}
	}
	q.waiting--
	q.forgetLocked(name, u)
}

func (q *Queue) takeLocked(u *user) {
	u.running++
	q.running++
}

func (q *Queue) leave(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.leaveLocked(name, q.users[name])
}

func (q *Queue) leaveLocked(name string, u *user) {
	u.running--
	q.running--
	q.forgetLocked(name, u)
	for q.running < q.config.Places && q.waiting > 0 {
		next := q.nextLocked()
		r := next.line[0]
		next.line[0] = nil
		next.line = next.line[1:]
		q.waiting--
		q.takeLocked(next)
		r.placed = true
		close(r.turn)
	}
}

// nextLocked is the user whose turn it is; there is one who waits.
func (q *Queue) nextLocked() *user {
	var best *user
	for _, u := range q.users {
		if len(u.line) == 0 {
			continue
		}
		if best == nil || u.running < best.running || u.running == best.running && u.line[0].ticket < best.line[0].ticket {
			best = u
		}
	}
	return best
}

func (q *Queue) forgetLocked(name string, u *user) {
	if u.running == 0 && len(u.line) == 0 {
		delete(q.users, name)
	}
}
