package feed

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"k8s.io/client-go/tools/cache"
)

// Set collects handlers until Start.
type Set struct {
	mu      sync.Mutex
	order   []*subscription
	started bool
}

type subscription struct {
	informer cache.SharedIndexInformer
	handlers []cache.ResourceEventHandler
	reg      cache.ResourceEventHandlerRegistration
}

// Source is one informer as a controller sees it; Wait waits for it.
type Source struct{ sub *subscription }

// Handle adds h for the objects of informer. It must be called before Start.
func (s *Set) Handle(informer cache.SharedIndexInformer, h cache.ResourceEventHandler) Source {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sub := range s.order {
		if sub.informer == informer {
			sub.handlers = append(sub.handlers, h)
			return Source{sub}
		}
	}
	sub := &subscription{informer: informer, handlers: []cache.ResourceEventHandler{h}}
	s.order = append(s.order, sub)
	return Source{sub}
}

// Read makes the informer part of the set without a handler, for a controller that only reads its store.
func (s *Set) Read(informer cache.SharedIndexInformer) Source {
	return s.Handle(informer, cache.ResourceEventHandlerFuncs{})
}

// Start subscribes to every informer. The informers themselves are started by their factory, afterwards.
func (s *Set) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started {
		return errors.New("feeds have started already")
	}
	s.started = true
	for _, sub := range s.order {
		reg, err := sub.informer.AddEventHandler(sub)
		if err != nil {
			return fmt.Errorf("subscribe to informer: %w", err)
		}
		sub.reg = reg
	}
	return nil
}

// Wait returns true when every source's initial objects have been handed to all handlers, false when ctx ended before.
// It must be called after Start.
func Wait(ctx context.Context, sources ...Source) bool {
	for _, src := range sources {
		select {
		case <-src.sub.reg.HasSyncedChecker().Done():
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (s *subscription) OnAdd(obj any, initial bool) {
	for _, h := range s.handlers {
		h.OnAdd(obj, initial)
	}
}

func (s *subscription) OnUpdate(old, obj any) {
	for _, h := range s.handlers {
		h.OnUpdate(old, obj)
	}
}

func (s *subscription) OnDelete(obj any) {
	for _, h := range s.handlers {
		h.OnDelete(obj)
	}
}

// Of makes a handler from one function on typed objects: it is called with (nil, obj) for an object that appeared,
// (old, obj) for a change and (old, nil) for one that is gone, tombstones unwrapped. Objects of another type are ignored.
func Of[T any](f func(old, obj *T)) cache.ResourceEventHandler { return handler[T](f) }

type handler[T any] func(old, obj *T)

func (h handler[T]) OnAdd(obj any, _ bool) {
	if o, ok := obj.(*T); ok {
		h(nil, o)
	}
}

func (h handler[T]) OnUpdate(old, obj any) {
	o, ok := old.(*T)
	n, ok2 := obj.(*T)
	if ok && ok2 {
		h(o, n)
	}
}

func (h handler[T]) OnDelete(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	if o, ok := obj.(*T); ok {
		h(o, nil)
	}
}
