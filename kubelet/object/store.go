// SPDX-License-Identifier: Apache-2.0

package object

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// Kind is what can be watched.
type Kind string

// The kinds that pods read.
const (
	Secret    Kind = "secret"
	ConfigMap Kind = "configmap"
)

// Key names one object.
type Key struct {
	Kind            Kind
	Namespace, Name string
}

// firstRead bounds how long a reader waits for an object that cannot be read yet.
const firstRead = 5 * time.Second

// Config is what a Store needs.
type Config struct {
	Client kubernetes.Interface
	// OnChange is called, from the watch's goroutine, after a used object changed, appeared or vanished.
	OnChange func(Key)
	Logger   *slog.Logger
}

// Store holds the objects in use.
type Store struct {
	cfg Config

	mu      sync.Mutex
	ctx     context.Context // of Run; watches live no longer
	entries map[Key]*entry
	users   map[types.UID]map[Key]bool
}

type entry struct {
	users  int
	cancel context.CancelFunc
	synced chan struct{} // closed at the first answer

	mu  sync.Mutex
	obj runtime.Object // nil while absent
	err error          // of the last attempt, while not synced
}

// New returns a Store whose watches live until ctx ends.
func New(ctx context.Context, cfg Config) *Store {
	return &Store{cfg: cfg, ctx: ctx, entries: map[Key]*entry{}, users: map[types.UID]map[Key]bool{}}
}

// Use says which objects a pod uses from now on; none ends its use.
func (s *Store) Use(pod types.UID, keys []Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.users[pod]
	now := make(map[Key]bool, len(keys))
	for _, k := range keys {
		if now[k] {
			continue
		}
		now[k] = true
		if !was[k] {
			s.acquireLocked(k)
		}
	}
	for k := range was {
		if now[k] {
			continue
		}
		if e := s.entries[k]; e.users == 1 {
			e.cancel()
			delete(s.entries, k)
		} else {
			e.users--
		}
	}
	if len(now) == 0 {
		delete(s.users, pod)
	} else {
		s.users[pod] = now
	}
}

func (s *Store) acquireLocked(k Key) {
	e := s.entries[k]
	if e == nil {
		e = &entry{synced: make(chan struct{})}
		var ctx context.Context
		ctx, e.cancel = context.WithCancel(s.ctx)
		s.entries[k] = e
		go s.follow(ctx, k, e)
	}
	e.users++
}

// Users returns the pods that use an object.
func (s *Store) Users(k Key) []types.UID {
	s.mu.Lock()
	defer s.mu.Unlock()
	var uids []types.UID
	for uid, keys := range s.users {
		if keys[k] {
			uids = append(uids, uid)
		}
	}
	return uids
}

// Secret returns a Secret in use, waiting for its first read. An absent one is a NotFound API error.
func (s *Store) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	o, err := s.get(ctx, Key{Secret, namespace, name})
	if err != nil {
		return nil, err
	}
	return o.(*corev1.Secret), nil
}

// ConfigMap is the same for a ConfigMap.
func (s *Store) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	o, err := s.get(ctx, Key{ConfigMap, namespace, name})
	if err != nil {
		return nil, err
	}
	return o.(*corev1.ConfigMap), nil
}

func (s *Store) get(ctx context.Context, k Key) (runtime.Object, error) {
	s.mu.Lock()
	e := s.entries[k]
	s.mu.Unlock()
	if e == nil {
		return nil, errors.New("object " + string(k.Kind) + " " + k.Namespace + "/" + k.Name + " is not registered for a pod of this node")
	}
	t := time.NewTimer(firstRead)
	defer t.Stop()
	select {
	case <-e.synced:
	case <-t.C:
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.err != nil {
			return nil, e.err
		}
		return nil, errors.New("timed out waiting for the API server to answer for " + string(k.Kind) + " " + k.Namespace + "/" + k.Name)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.obj == nil {
		return nil, apierrors.NewNotFound(corev1.Resource(string(k.Kind)+"s"), k.Name)
	}
	return e.obj, nil
}

// follow reads and watches one object until ctx ends.
func (s *Store) follow(ctx context.Context, k Key, e *entry) {
	delay := 20 * time.Millisecond
	for ctx.Err() == nil {
		err := s.listWatch(ctx, k, e)
		if err == errImmutable {
			return
		}
		if err == nil {
			delay = 20 * time.Millisecond
		} else {
			e.mu.Lock()
			e.err = err
			e.mu.Unlock()
			s.cfg.Logger.Debug("watch of an object that pods use ended", "kind", k.Kind, "namespace", k.Namespace, "name", k.Name, "err", err)
		}
		t := time.NewTimer(delay)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
		delay = min(2*delay, 10*time.Second)
	}
}

var errImmutable = errors.New("immutable")

// listWatch is one round: list, then watch until the connection ends.
func (s *Store) listWatch(ctx context.Context, k Key, e *entry) error {
	opts := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", k.Name).String()}
	var found runtime.Object
	core := s.cfg.Client.CoreV1()
	switch k.Kind {
	case Secret:
		l, err := core.Secrets(k.Namespace).List(ctx, opts)
		if err != nil {
			return err
		}
		for i := range l.Items {
			if l.Items[i].Name == k.Name {
				found = &l.Items[i]
			}
		}
		opts.ResourceVersion = l.ResourceVersion
	case ConfigMap:
		l, err := core.ConfigMaps(k.Namespace).List(ctx, opts)
		if err != nil {
			return err
		}
		for i := range l.Items {
			if l.Items[i].Name == k.Name {
				found = &l.Items[i]
			}
		}
		opts.ResourceVersion = l.ResourceVersion
	}
	s.set(k, e, found)
	if immutable(found) {
		return errImmutable
	}
	var w watch.Interface
	var err error
	opts.AllowWatchBookmarks = true
	if k.Kind == Secret {
		w, err = core.Secrets(k.Namespace).Watch(ctx, opts)
	} else {
		w, err = core.ConfigMaps(k.Namespace).Watch(ctx, opts)
	}
	if err != nil {
		return err
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev, ok := <-w.ResultChan():
			if !ok {
				return nil
			}
			if done, err := s.apply(k, e, ev); done || err != nil {
				return err
			}
		}
	}
}

func (s *Store) apply(k Key, e *entry, ev watch.Event) (done bool, err error) {
	switch ev.Type {
	case watch.Error:
		return true, apierrors.FromObject(ev.Object)
	case watch.Bookmark:
		return false, nil
	}
	if m, ok := ev.Object.(metav1.Object); !ok || m.GetName() != k.Name {
		return false, nil
	}
	if ev.Type == watch.Deleted {
		s.set(k, e, nil)
		return false, nil
	}
	s.set(k, e, ev.Object)
	if immutable(ev.Object) {
		return true, errImmutable
	}
	return false, nil
}

func immutable(o runtime.Object) bool {
	switch o := o.(type) {
	case *corev1.Secret:
		return o.Immutable != nil && *o.Immutable
	case *corev1.ConfigMap:
		return o.Immutable != nil && *o.Immutable
	}
	return false
}

// set stores what was read and tells of a change.
func (s *Store) set(k Key, e *entry, o runtime.Object) {
	e.mu.Lock()
	changed := version(e.obj) != version(o)
	select {
	case <-e.synced:
	default:
		changed = e.err != nil // somebody may have given up waiting for the first read
		close(e.synced)
	}
	e.obj, e.err = o, nil
	e.mu.Unlock()
	if changed && s.cfg.OnChange != nil {
		s.cfg.OnChange(k)
	}
}

func version(o runtime.Object) string {
	if m, ok := o.(metav1.Object); ok {
		return string(m.GetUID()) + "/" + m.GetResourceVersion()
	}
	return "absent"
}
