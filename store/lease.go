package store

import (
	"context"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// leases hands out etcd leases that many objects share: an Event each second must not cost a lease each second.
type leases struct {
	etcd etcd

	mu     sync.Mutex
	shared map[time.Duration]sharedLease // by TTL
}

type sharedLease struct {
	id    int64
	until time.Time // when it is too old for new objects
	left  int       // how many more objects may join: all of a lease go in one revision
}

const leaseObjects = 1000

// get returns a lease that ends no earlier than ttl from now, and later by no more than a tenth of it or a minute.
func (l *leases) get(ctx context.Context, ttl time.Duration) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if s, ok := l.shared[ttl]; ok && s.left > 0 && now.Before(s.until) {
		s.left--
		l.shared[ttl] = s
		return s.id, nil
	}
	window := min(ttl/10, time.Minute)
	seconds := int64((ttl + window + time.Second - 1) / time.Second)
	resp, err := l.etcd.LeaseGrant(ctx, &etcdserverpb.LeaseGrantRequest{TTL: seconds})
	if err != nil {
		return 0, err
	}
	if l.shared == nil {
		l.shared = map[time.Duration]sharedLease{}
	}
	l.shared[ttl] = sharedLease{id: resp.ID, until: now.Add(window), left: leaseObjects - 1}
	return resp.ID, nil
}

// forget drops a lease that etcd does not know any more.
func (l *leases) forget(ttl time.Duration, id int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shared[ttl].id == id {
		delete(l.shared, ttl)
	}
}
