package garbage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/mini-k8s/mini/controller/feed"
	"github.com/mini-k8s/mini/controller/resource"
	"github.com/mini-k8s/mini/controller/work"
)

// Config is what the controller needs.
type Config struct {
	Metadata  metadata.Interface
	Discovery discovery.DiscoveryInterface
	Feeds     *feed.Set
	Logger    *slog.Logger
	// Shared are informers that run anyway: their objects are not watched a second time.
	Shared []Shared
	// Gone, if set, is told of each object that goes, whoever deletes it, and with an empty namespace that some of a
	// resource may have gone unseen. It must not block.
	Gone func(gr schema.GroupResource, namespace string)
}

// Shared is an informer of all objects of a resource.
type Shared struct {
	Resource resource.Resource // verbs aside
	Informer cache.SharedIndexInformer
}

const (
	// patience bounds the wait for the first list of all resources.
	patience = 30 * time.Second
	// settleDiscovery is how long after the change of a definition its resources are asked for.
	settleDiscovery = time.Second
	// rememberAbsent is how many owners known to be gone are remembered, so that many dependents cost one look-up.
	rememberAbsent = 500
)

// Controller collects garbage.
type Controller struct {
	cfg       Config
	sources   []feed.Source
	queue     *work.Queue[types.UID]
	discovery *work.Queue[string]

	mu       sync.Mutex
	graph    *graph
	kinds    map[schema.GroupKind]*resource.Resource
	shared   map[schema.GroupResource]*resource.Resource
	monitors map[schema.GroupVersionResource]*monitor
	absent   []types.UID // oldest first
	running  sync.WaitGroup
	first    chan struct{} // closed after the first discovery
}

// New subscribes to the shared informers.
func New(cfg Config) (*Controller, error) {
	if cfg.Metadata == nil || cfg.Discovery == nil || cfg.Feeds == nil || cfg.Logger == nil {
		return nil, errors.New("garbage collector: incomplete config")
	}
	c := &Controller{
		cfg: cfg, graph: newGraph(), kinds: map[schema.GroupKind]*resource.Resource{},
		shared: map[schema.GroupResource]*resource.Resource{}, monitors: map[schema.GroupVersionResource]*monitor{},
		first: make(chan struct{}),
	}
	c.queue = work.NewQueue(work.Config[types.UID]{Name: "garbage", Sync: c.sync, Workers: 8, Logger: cfg.Logger})
	c.discovery = work.NewQueue(work.Config[string]{Name: "garbage-discovery", Sync: c.discover, MinDelay: 100 * time.Millisecond, Logger: cfg.Logger})
	for i := range cfg.Shared {
		res := &cfg.Shared[i].Resource
		c.shared[res.GroupResource()], c.kinds[res.GroupKind()] = res, res
		c.sources = append(c.sources, cfg.Feeds.Handle(cfg.Shared[i].Informer, cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { c.sharedChanged(res, obj) },
			UpdateFunc: func(_, obj any) { c.sharedChanged(res, obj) },
			DeleteFunc: func(obj any) {
				if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
					obj = gone.Obj
				}
				if o, err := meta.Accessor(obj); err == nil {
					c.tell(res, o.GetNamespace())
					c.gone(res, o.GetUID())
				}
			},
		}))
	}
	return c, nil
}

func (c *Controller) sharedChanged(res *resource.Resource, obj any) {
	if o, err := meta.Accessor(obj); err == nil {
		c.observe(res, o)
	}
}

// Run blocks until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	defer c.running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.discovery.Add("")
	found := make(chan error, 1)
	c.running.Go(func() { found <- c.discovery.Run(ctx) })
	if !feed.Wait(ctx, c.sources...) || !c.wait(ctx) {
		return nil
	}
	err := c.queue.Run(ctx)
	return errors.Join(err, <-found)
}

// wait returns when every resource that was discovered has been listed, or patience is at its end; false when ctx has ended.
func (c *Controller) wait(ctx context.Context) bool {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	select {
	case <-c.first:
	case <-ctx.Done():
		return false
	}
	for waited := map[*monitor]bool{}; ; {
		m := c.unsynced(waited)
		if m == nil {
			return true
		}
		select {
		case <-m.synced:
			waited[m] = true
		case <-deadline.C:
			c.cfg.Logger.Warn("a resource cannot be listed: its objects may be missed as dependents", "resource", m.res.String())
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// unsynced returns a monitor that wait has still to wait for, nil if there is none.
func (c *Controller) unsynced(waited map[*monitor]bool) *monitor {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.monitors {
		if !waited[m] {
			return m
		}
	}
	return nil
}

// discover starts monitors for new resources and ends those of resources that are no more.
func (c *Controller) discover(ctx context.Context, _ string) error {
	all, err := resource.List(c.cfg.Discovery)
	if len(all) == 0 {
		return errors.Join(errors.New("no resources"), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	current := map[schema.GroupVersionResource]bool{}
	for _, res := range all {
		if c.shared[res.GroupResource()] != nil {
			continue
		}
		if !res.Can("delete", "list", "watch") || ignored(res) {
			continue
		}
		current[res.GroupVersionResource] = true
		if c.monitors[res.GroupVersionResource] == nil {
			c.start(ctx, res)
		}
		c.kinds[res.GroupKind()] = c.monitors[res.GroupVersionResource].res
	}
	for gvr, m := range c.monitors {
		if !current[gvr] && err == nil { // with an error it is not known to be gone
			m.cancel()
			m.once.Do(func() { close(m.synced) })
			delete(c.monitors, gvr)
			if c.kinds[m.res.GroupKind()] == m.res {
				delete(c.kinds, m.res.GroupKind())
			}
			c.look(c.graph.listed(m.res, nil))
		}
	}
	select {
	case <-c.first:
	default:
		close(c.first)
	}
	return err
}

// ignored are objects that own nothing, are owned by nothing, and are many.
func ignored(res *resource.Resource) bool { return res.Resource == "events" }

func (c *Controller) start(ctx context.Context, res *resource.Resource) {
	ctx, cancel := context.WithCancel(ctx)
	m := &monitor{c: c, res: res, cancel: cancel, synced: make(chan struct{})}
	c.monitors[res.GroupVersionResource] = m
	c.running.Go(func() { m.run(ctx) })
}

func (c *Controller) look(uids []types.UID) {
	for _, uid := range uids {
		c.queue.Add(uid)
	}
}

func (c *Controller) observe(res *resource.Resource, o metav1.Object) {
	switch res.Group {
	case "apiextensions.k8s.io", "apiregistration.k8s.io":
		c.discovery.AddAfter("", settleDiscovery)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.absent, o.GetUID()); i >= 0 {
		c.absent = slices.Delete(c.absent, i, i+1) // it was looked for before it was there
	}
	// Most objects own nothing and are owned by nothing: they do not even pass through the graph.
	if len(o.GetOwnerReferences()) == 0 && o.GetDeletionTimestamp() == nil && c.graph.nodes[o.GetUID()] == nil {
		return
	}
	c.look(c.graph.observe(objectOf(res, o)))
}

func (c *Controller) gone(res *resource.Resource, uid types.UID) {
	switch res.Group {
	case "apiextensions.k8s.io", "apiregistration.k8s.io":
		c.discovery.AddAfter("", settleDiscovery)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.goneLocked(uid)
}

func (c *Controller) tell(res *resource.Resource, namespace string) {
	if c.cfg.Gone != nil {
		c.cfg.Gone(res.GroupResource(), namespace)
	}
}

func (c *Controller) goneLocked(uid types.UID) {
	n := c.graph.nodes[uid]
	if n == nil {
		return
	}
	if len(n.dependents) > 0 {
		c.absent = append(c.absent, uid)
		if len(c.absent) > rememberAbsent {
			c.absent = slices.Delete(c.absent, 0, len(c.absent)-rememberAbsent)
		}
	}
	c.look(c.graph.gone(uid))
}

func (c *Controller) listed(res *resource.Resource, present map[types.UID]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look(c.graph.listed(res, present))
}

// find returns the resource of a kind.
func (c *Controller) find(kind schema.GroupVersionKind) (*resource.Resource, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if res := c.kinds[kind.GroupKind()]; res != nil {
		return res, nil
	}
	c.discovery.AddAfter("", settleDiscovery)
	return nil, fmt.Errorf("kind %s is not known to the server", kind)
}
