// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"
)

// backlog is how many events wait for a reader before it is told to read everything anew instead.
const backlog = 1024

// hub hands events to any number of readers.
type hub struct {
	mu      sync.Mutex
	readers map[*reader]struct{}
}

type reader struct {
	mu    sync.Mutex
	queue []Event
	wake  chan struct{} // holds one token while queue has something
}

func (h *hub) publish(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for r := range h.readers {
		r.push(e)
	}
}

func (r *reader) push(e Event) {
	r.mu.Lock()
	if len(r.queue) >= backlog {
		r.queue = append(r.queue[:0], Event{})
	} else {
		r.queue = append(r.queue, e)
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *reader) take() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	q := r.queue
	r.queue = nil
	return q
}

// subscribe delivers until ctx ends, then closes the channel.
func (h *hub) subscribe(ctx context.Context) <-chan Event {
	r := &reader{wake: make(chan struct{}, 1)}
	h.mu.Lock()
	if h.readers == nil {
		h.readers = make(map[*reader]struct{})
	}
	h.readers[r] = struct{}{}
	h.mu.Unlock()
	out := make(chan Event)
	go func() {
		defer close(out)
		defer func() {
			h.mu.Lock()
			delete(h.readers, r)
			h.mu.Unlock()
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case <-r.wake:
			}
			for _, e := range r.take() {
				select {
				case <-ctx.Done():
					return
				case out <- e:
				}
			}
		}
	}()
	return out
}

// Events implements Runtime.
func (r *Containerd) Events(ctx context.Context) <-chan Event { return r.hub.subscribe(ctx) }

// reconnectTime is the pause before a lost event stream of another process's containerd is taken up again.
const reconnectTime = time.Second

// follow subscribes to containerd's events, then takes over what runs, so that nothing falls between the two.
func (r *Containerd) follow(ctx context.Context) error {
	for first := true; ; first = false {
		err := r.followOnce(ctx, first)
		if ctx.Err() != nil {
			return nil
		}
		if r.cfg.Socket == "" || first && err != nil {
			return fmt.Errorf("container runtime: events: %w", err)
		}
		r.log.Warn("lost containerd's events, connecting again", "socket", r.cfg.Socket, "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(reconnectTime):
		}
	}
}

func (r *Containerd) followOnce(ctx context.Context, first bool) error {
	ctx, cancel := context.WithCancel(engineContext(ctx, r.log))
	defer cancel()
	stream, errs := r.client.Subscribe(ctx, `topic=="/tasks/exit"`, `topic=="/tasks/oom"`, `topic~="^/images/"`)
	left, err := r.adopt(ctx)
	if err != nil {
		return err
	}
	// To take something away is to wait for its exit, so the events must be read meanwhile.
	removed := make(chan struct{})
	go func() {
		defer close(removed)
		r.removeLeft(ctx, left)
		if first { // no call looks into an image before ready
			if err := r.removeViews(ctx); err != nil && ctx.Err() == nil {
				r.log.Warn("could not remove what a crash left of looking into an image", "err", err)
			}
		}
		if ctx.Err() != nil {
			return
		}
		if first {
			close(r.ready)
		} else {
			r.hub.publish(Event{})
		}
	}()
	changed, kept := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(kept)
		r.keepImages(ctx, changed)
	}()
	defer func() { cancel(); <-removed; <-kept }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-errs:
			if err == nil {
				err = errors.New("stream ended")
			}
			return err
		case e := <-stream:
			if e != nil && strings.HasPrefix(e.Topic, "/images/") {
				select {
				case changed <- struct{}{}:
				default: // what is to be done covers it
				}
				continue
			}
			r.handle(ctx, e)
		}
	}
}

// settleTime is how long images must have stopped changing before they are kept: one pull is several changes.
const settleTime = time.Second

// keepImages makes changes of images last that others make, by the socket. Our own do not wait for it.
func (r *Containerd) keepImages(ctx context.Context, changed <-chan struct{}) {
	var settled <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			settled = time.After(settleTime)
		case <-settled:
			settled = nil
			if err := r.imagesChanged(ctx); err != nil && ctx.Err() == nil {
				r.log.Warn("a change of the images may not survive a power failure", "err", err)
			}
		}
	}
}

func (r *Containerd) handle(ctx context.Context, e *events.Envelope) {
	if e == nil || e.Namespace != namespace || e.Event == nil {
		return
	}
	v, err := typeurl.UnmarshalAny(e.Event)
	if err != nil {
		r.log.Warn("unreadable event of containerd", "topic", e.Topic, "err", err)
		return
	}
	switch v := v.(type) {
	case *apievents.TaskExit:
		if v.ID == v.ContainerID { // else it is of an exec
			r.exited(ctx, v.ContainerID, exitRecord{Timestamp: v.ExitedAt.AsTime(), Pid: int(v.Pid), Status: int(v.ExitStatus)})
		}
	case *apievents.TaskOOM:
		r.mu.Lock()
		c := r.containers[v.ContainerID]
		r.mu.Unlock()
		if c != nil {
			c.mu.Lock()
			c.rec.OOMKilled = true
			c.mu.Unlock()
			r.hub.publish(Event{Pod: c.pod, ContainerID: c.id, OOM: true, Time: e.Timestamp})
		}
	}
}
