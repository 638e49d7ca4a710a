package garbage

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/mini-k8s/mini/controller/resource"
)

// monitor feeds the graph with one resource. It is a store for a reflector that keeps nothing itself.
type monitor struct {
	c      *Controller
	res    *resource.Resource
	cancel context.CancelFunc
	once   sync.Once
	synced chan struct{}
}

// lister makes list and watch calls for the metadata of a resource. The fake client of tests says itself that it cannot
// stream lists, so its word is passed on.
func lister(client metadata.Interface, res *resource.Resource) cache.ListerWatcher {
	get := client.Resource(res.GroupVersionResource)
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return get.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return get.Watch(ctx, o)
		},
	}, client)
}

// run watches until ctx ends.
func (m *monitor) run(ctx context.Context) {
	r := cache.NewReflectorWithOptions(lister(m.c.cfg.Metadata, m.res), &metav1.PartialObjectMetadata{}, m, cache.ReflectorOptions{Name: m.res.GroupResource().String()})
	r.RunWithContext(ctx)
}

func (m *monitor) Add(obj any) error {
	if o, err := meta.Accessor(obj); err == nil {
		m.c.observe(m.res, o)
	}
	return nil
}

func (m *monitor) Update(obj any) error { return m.Add(obj) }

func (m *monitor) Delete(obj any) error {
	if o, err := meta.Accessor(obj); err == nil {
		m.c.tell(m.res, o.GetNamespace())
		m.c.gone(m.res, o.GetUID())
	}
	return nil
}

func (m *monitor) Replace(objs []any, _ string) error {
	present := make(map[types.UID]bool, len(objs))
	for _, obj := range objs {
		if o, err := meta.Accessor(obj); err == nil {
			present[o.GetUID()] = true
			m.c.observe(m.res, o)
		}
	}
	m.c.listed(m.res, present)
	m.c.tell(m.res, "")
	m.once.Do(func() { close(m.synced) })
	return nil
}

func (m *monitor) Resync() error { return nil }

// Transformer leaves of each object what the graph reads, before a list of them is held in memory.
func (m *monitor) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) {
		if p, ok := obj.(*metav1.PartialObjectMetadata); ok {
			p.Labels, p.Annotations, p.ManagedFields = nil, nil, nil
		}
		return obj, nil
	}
}
