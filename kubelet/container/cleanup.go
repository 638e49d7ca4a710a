// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"sync"
	"time"
)

// cleanups are what could not be undone when a step had failed, such as on a full disk. Nobody else knows of it, so it is
// tried again here until it works. After a crash recovery finds it.
type cleanups struct {
	wake chan struct{}
	mu   sync.Mutex
	list []cleanup
}

type cleanup struct {
	what string // for the log
	do   func(context.Context) error
}

// The pauses between tries.
const (
	cleanupPauseFirst = 100 * time.Millisecond
	cleanupPauseMost  = time.Minute
)

func (c *cleanups) add(what string, do func(context.Context) error) {
	c.mu.Lock()
	c.list = append(c.list, cleanup{what, do})
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default: // what is to come covers it
	}
}

// run tries until ctx ends. It sleeps while there is nothing to do.
func (c *cleanups) run(ctx context.Context, fail func(what string, err error)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		for pause := cleanupPauseFirst; ; pause = min(2*pause, cleanupPauseMost) {
			select {
			case <-ctx.Done():
				return
			case <-c.wake:
				pause = cleanupPauseFirst
			case <-time.After(pause):
			}
			if c.try(ctx, fail) {
				break
			}
		}
	}
}

// try reports whether nothing is left to do.
func (c *cleanups) try(ctx context.Context, fail func(what string, err error)) bool {
	c.mu.Lock()
	list := c.list
	c.list = nil
	c.mu.Unlock()
	var again []cleanup
	for _, it := range list {
		ctx, cancel := context.WithTimeout(ctx, cleanupTime)
		if err := it.do(ctx); err != nil {
			again = append(again, it)
			fail(it.what, err)
		}
		cancel()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(again, c.list...)
	return len(c.list) == 0
}

// removeLater tries to remove a sandbox until it is gone.
func (r *Containerd) removeLater(s *sandbox) {
	r.cleanups.add("sandbox "+s.id, func(ctx context.Context) error {
		s.op.Lock()
		defer s.op.Unlock()
		if _, err := r.sandbox(s.id); err != nil {
			return nil // somebody else did
		}
		return r.destroySandbox(ctx, s)
	})
}
