package apiserver

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	clientrest "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/mini-k8s/mini/apiserver/rest"
	"github.com/mini-k8s/mini/store"
)

// NewInformers returns shared informers for components in the server's process. config is from LoopbackConfig and client
// made of it. The informers' objects are those of the server's own watch caches, not copies, so that who changes one of
// them changes what the server answers: even more than anywhere else, they are read-only. Like the loopback client they
// see everything.
func NewInformers(config *clientrest.Config, client kubernetes.Interface) informers.SharedInformerFactory {
	transport, ok := config.Transport.(*loopback)
	if !ok {
		return informers.NewSharedInformerFactory(client, 0)
	}
	return &sharedInformers{SharedInformerFactory: informers.NewSharedInformerFactory(client, 0), server: transport.server}
}

// listWatch reads the collection of one kind without encoding anything. It implements cache.ListerWatcherWithContext.
type listWatch struct {
	server *Server
	kind   schema.GroupVersionKind
	empty  func() store.Object
}

var _ cache.ListerWatcherWithContext = (*listWatch)(nil)

// collection is looked up late: informers are made before the server has its rows.
func (l *listWatch) collection() (store.Collection, func(store.Object) (store.Object, error), error) {
	for i := range l.server.rows {
		row := &l.server.rows[i]
		if row.GVK == l.kind && row.Create == nil && row.Computed == nil {
			return l.server.collection(row.StorageKey(), row.StoredKind()), row.FromStored, nil
		}
	}
	return nil, nil, apierrors.NewNotFound(schema.GroupResource{Group: l.kind.Group, Resource: l.kind.Kind}, "")
}

// List implements cache.ListerWatcher.
func (l *listWatch) List(opts metav1.ListOptions) (runtime.Object, error) {
	return l.ListWithContext(context.Background(), opts)
}

// Watch implements cache.ListerWatcher.
func (l *listWatch) Watch(opts metav1.ListOptions) (watch.Interface, error) {
	return l.WatchWithContext(context.Background(), opts)
}

// ListWithContext implements cache.ListerWithContext.
func (l *listWatch) ListWithContext(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
	if err := selectsNothing(opts); err != nil {
		return nil, err
	}
	c, convert, err := l.collection()
	if err != nil {
		return nil, err
	}
	page, err := c.List(ctx, store.ListOptions{ResourceVersion: opts.ResourceVersion, ResourceVersionMatch: opts.ResourceVersionMatch})
	if err != nil {
		return nil, l.status(err)
	}
	list := &internalversion.List{Items: make([]runtime.Object, len(page.Items))}
	list.ResourceVersion = strconv.FormatInt(page.Revision, 10)
	for i, item := range page.Items {
		if list.Items[i], err = converted(item.Object, convert); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// WatchWithContext implements cache.WatcherWithContext.
func (l *listWatch) WatchWithContext(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	if err := selectsNothing(opts); err != nil {
		return nil, err
	}
	c, convert, err := l.collection()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	stopping := context.AfterFunc(l.server.ending, cancel)
	events, err := c.Watch(ctx, store.WatchOptions{
		ResourceVersion: opts.ResourceVersion, Bookmarks: opts.AllowWatchBookmarks,
		InitialEvents: opts.SendInitialEvents != nil && *opts.SendInitialEvents,
	})
	if err != nil {
		stopping()
		cancel()
		return nil, l.status(err)
	}
	w := &objectWatch{events: make(chan watch.Event), cancel: cancel}
	go func() {
		defer stopping()
		defer cancel()
		defer close(w.events)
		for ev := range events.Events() {
			select {
			case w.events <- l.event(ev, convert):
			case <-ctx.Done():
				return
			}
		}
	}()
	return w, nil
}

// selectsNothing refuses what informers of a factory without options never ask for.
func selectsNothing(opts metav1.ListOptions) error {
	if opts.LabelSelector != "" || opts.FieldSelector != "" || opts.Continue != "" {
		return apierrors.NewBadRequest("shared informers hold all objects of their kind")
	}
	return nil
}

func converted(obj store.Object, convert func(store.Object) (store.Object, error)) (runtime.Object, error) {
	if convert == nil {
		return obj, nil
	}
	return convert(obj)
}

var eventTypes = map[store.EventType]watch.EventType{store.Added: watch.Added, store.Modified: watch.Modified, store.Deleted: watch.Deleted}

func (l *listWatch) event(ev store.Event, convert func(store.Object) (store.Object, error)) watch.Event {
	switch ev.Type {
	case store.Failed:
		return watch.Event{Type: watch.Error, Object: rest.Status(ev.Err, schema.GroupResource{Group: l.kind.Group}, "")}
	case store.Bookmark:
		obj := l.empty()
		obj.SetResourceVersion(strconv.FormatInt(ev.Revision, 10))
		if ev.InitialEventsEnd {
			obj.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
		}
		return watch.Event{Type: watch.Bookmark, Object: obj}
	}
	obj, err := converted(ev.Item.Object, convert)
	if err != nil {
		return watch.Event{Type: watch.Error, Object: rest.Status(err, schema.GroupResource{Group: l.kind.Group}, "")}
	}
	return watch.Event{Type: eventTypes[ev.Type], Object: obj}
}

// status makes an API error of the store's, as the reflector knows them.
func (l *listWatch) status(err error) error {
	if errors.Is(err, store.ErrCompacted) {
		return apierrors.NewResourceExpired(err.Error())
	}
	return apierrors.FromObject(rest.Status(err, schema.GroupResource{Group: l.kind.Group}, ""))
}

// objectWatch implements watch.Interface.
type objectWatch struct {
	events chan watch.Event
	cancel context.CancelFunc
	stop   sync.Once
}

// Stop implements watch.Interface.
func (w *objectWatch) Stop() { w.stop.Do(w.cancel) }

// ResultChan implements watch.Interface.
func (w *objectWatch) ResultChan() <-chan watch.Event { return w.events }

// newInformer is the informer of a kind over the server's cache; ok is false where the kind is not one of the scheme's.
func (s *Server) newInformer(obj runtime.Object, resync time.Duration) (informer cache.SharedIndexInformer, ok bool) {
	kinds, _, err := s.scheme.ObjectKinds(obj)
	if err != nil || len(kinds) == 0 {
		return nil, false
	}
	if _, ok := obj.(store.Object); !ok {
		return nil, false
	}
	lw := &listWatch{server: s, kind: kinds[0], empty: func() store.Object {
		made, err := s.scheme.New(kinds[0])
		if err != nil {
			panic(fmt.Sprintf("the scheme knows the type of %s but cannot make one: %v", kinds[0], err))
		}
		return made.(store.Object)
	}}
	return cache.NewSharedIndexInformerWithOptions(lw, obj, cache.SharedIndexInformerOptions{
		ResyncPeriod: resync, Indexers: cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc},
	}), true
}
