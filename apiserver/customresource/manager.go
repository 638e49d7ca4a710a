package customresource

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/rest"
	"github.com/mini-k8s/mini/store"
)

// Store is what the manager needs of package store.
type Store interface {
	Collection(store.CollectionConfig) store.Collection
	Drop(prefix string)
}

// Config is a manager's surroundings.
type Config struct {
	Store       Store
	Definitions store.Collection // of CustomResourceDefinitions
	// REST is what the endpoints of custom resources share; Resource, Collection and TypeConverter are the manager's.
	REST rest.Config
	// Reserved tells the resources that definitions cannot take over: those of built-in rows.
	Reserved func(schema.GroupResource) bool
	// Changed is told what is served, in discovery's order, each time it has changed; it must not block.
	Changed func([]Served)
	User    user.Info // who deletes the objects of a definition that goes
	Logger  *slog.Logger
}

// Served is a custom resource in one version.
type Served struct {
	ID  string // another one whenever the row or the schemas are
	Row registry.Resource
	// Schemas returns the OpenAPI schemas of the kind and its list by model name.
	Schemas func(v2 bool) (map[string]any, error)
}

// Manager serves custom resources. It is an error to use it before New or to call Run twice.
type Manager struct {
	config  Config
	current atomic.Pointer[table]
	synced  chan struct{}

	mu       sync.Mutex
	advanced chan struct{} // closed and replaced when current has changed

	// Of Run's goroutine alone:
	group      *errgroup.Group
	seen       map[string]*store.Item // the definitions, by name
	definition map[string]*definition // those that are served
	cleaning   map[types.UID]bool
	serial     int
	retry      *time.Timer
	pause      time.Duration
}

// table is what is served at one moment.
type table struct {
	revision    int64 // up to which definitions have been looked at
	versions    map[schema.GroupVersionResource]*servedVersion
	definitions []*definition // in discovery's order
}

// New returns a manager that serves nothing yet.
func New(config Config) (*Manager, error) {
	if config.Store == nil || config.Definitions == nil || config.Reserved == nil || config.Changed == nil || config.User == nil {
		return nil, errors.New("customresource: the config is incomplete")
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	config.REST.Logger = config.Logger
	m := &Manager{
		config: config, synced: make(chan struct{}), advanced: make(chan struct{}),
		definition: map[string]*definition{}, cleaning: map[types.UID]bool{},
	}
	m.current.Store(&table{})
	return m, nil
}

// Synced is closed when what etcd held at the start is served.
func (m *Manager) Synced() <-chan struct{} { return m.synced }

// Handler returns who serves a resource, nil if nobody does. It asks for the newest definitions before it says so.
func (m *Manager) Handler(ctx context.Context, gvr schema.GroupVersionResource) (http.Handler, error) {
	if v, ok := m.current.Load().versions[gvr]; ok {
		return v, nil
	}
	if !strings.Contains(gvr.Group, ".") || m.config.Reserved(gvr.GroupResource()) {
		return nil, nil
	}
	item, err := m.config.Definitions.Get(ctx, gvr.Resource+"."+gvr.Group, "")
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := m.reached(ctx, item.Revision); err != nil {
		return nil, err
	}
	if v, ok := m.current.Load().versions[gvr]; ok {
		return v, nil
	}
	return nil, nil
}

// Size is how many custom resources of a kind the server holds and the bytes that they take in etcd, of any version; 0 where
// that is not known. It never waits.
func (m *Manager) Size(gvr schema.GroupVersionResource) (objects, bytes int64) {
	if v, ok := m.current.Load().versions[gvr]; ok {
		if c, ok := v.def.collection.(interface{ Size() (objects, bytes int64) }); ok {
			return c.Size()
		}
	}
	return 0, 0
}

// reached waits until definitions of the revision are served.
func (m *Manager) reached(ctx context.Context, revision int64) error {
	for {
		m.mu.Lock()
		advanced := m.advanced
		m.mu.Unlock()
		if m.current.Load().revision >= revision {
			return nil
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Run watches the definitions until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	m.group, ctx = errgroup.WithContext(ctx)
	m.group.Go(func() error { m.watch(ctx); return nil })
	return m.group.Wait()
}

// watch starts over whenever the store ends the watch.
func (m *Manager) watch(ctx context.Context) {
	m.retry = time.NewTimer(0)
	<-m.retry.C
	for ctx.Err() == nil {
		if err := m.follow(ctx); err != nil && ctx.Err() == nil {
			m.config.Logger.Warn("the definitions of custom resources cannot be watched; trying again", "error", err)
			wait(ctx, time.Second)
		}
	}
	for _, d := range m.definition {
		d.end()
	}
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// follow takes in one watch: first what there is, at once, and then each change.
func (m *Manager) follow(ctx context.Context) error {
	watching, err := m.config.Definitions.Watch(ctx, store.WatchOptions{InitialEvents: true, Bookmarks: true})
	if err != nil {
		return err
	}
	events := watching.Events()
	seen, complete, revision := map[string]*store.Item{}, false, int64(0)
	for {
		var e store.Event
		var ok bool
		select {
		case e, ok = <-events:
		case <-m.retry.C:
			m.settle(ctx, revision)
			continue
		}
		for more := true; more; { // what has come in together is looked at together
			if !ok {
				return nil
			}
			switch e.Type {
			case store.Failed:
				return e.Err
			case store.Deleted:
				delete(seen, e.Item.Key)
			case store.Added, store.Modified:
				seen[e.Item.Key] = e.Item
			case store.Bookmark:
				complete = complete || e.InitialEventsEnd
			}
			revision = max(revision, e.Revision)
			select {
			case e, ok = <-events:
			default:
				more = false
			}
		}
		if complete {
			m.seen = seen
			m.settle(ctx, revision)
		}
	}
}

// settle makes true what follows from the definitions.
func (m *Manager) settle(ctx context.Context, revision int64) {
	all := make([]*apiextensionsv1.CustomResourceDefinition, 0, len(m.seen))
	for _, item := range m.seen {
		all = append(all, item.Object.(*apiextensionsv1.CustomResourceDefinition))
	}
	planned := plan(all, metav1.NewTime(time.Now().Truncate(time.Second)))
	for i, crd := range all {
		if status, ok := planned[crd.Name]; ok {
			next := *crd
			next.Status = status
			all[i] = &next
		}
	}
	m.publish(all, revision)
	failed := false
	for name, status := range planned {
		if err := m.write(ctx, m.seen[name], status); err != nil && ctx.Err() == nil {
			m.config.Logger.Warn("the status of a custom resource's definition cannot be written; trying again", "definition", name, "error", err)
			failed = true
		}
	}
	uids := map[types.UID]bool{}
	for _, crd := range all {
		uids[crd.UID] = true
		m.clean(ctx, crd)
	}
	maps.DeleteFunc(m.cleaning, func(uid types.UID, _ bool) bool { return !uids[uid] })
	m.pause = min(2*m.pause+100*time.Millisecond, 10*time.Second)
	if failed {
		m.retry.Reset(m.pause)
	} else {
		m.pause = 0
	}
}

// publish changes what is served.
func (m *Manager) publish(all []*apiextensionsv1.CustomResourceDefinition, revision int64) {
	next := &table{revision: revision, versions: map[schema.GroupVersionResource]*servedVersion{}}
	served := map[string]*definition{}
	changed := len(m.definition) == 0 && m.current.Load().revision == 0
	for _, crd := range all {
		if !isTrue(crd, apiextensionsv1.Established) || m.config.Reserved(schema.GroupResource{Group: crd.Spec.Group, Resource: crd.Spec.Names.Plural}) {
			continue
		}
		d := m.definition[crd.Name]
		if d == nil || !same(d.crd, crd) {
			changed = true
			if d != nil && d.crd.UID != crd.UID {
				m.config.Store.Drop(prefix(crd))
			}
			if d != nil {
				d.end()
			}
			m.serial++
			d = newDefinition(m.serial, crd, m.config.Store.Collection(Collection(crd)), m.config.REST)
		}
		d.terminating.Store(crd.DeletionTimestamp != nil)
		served[crd.Name] = d
		next.definitions = append(next.definitions, d)
		for _, v := range d.served() {
			next.versions[v.gvk.GroupVersion().WithResource(v.row.Name)] = v
		}
	}
	var gone []*definition
	for name, d := range m.definition {
		if served[name] == nil {
			gone = append(gone, d)
		}
	}
	changed = changed || len(gone) > 0
	slices.SortFunc(next.definitions, func(a, b *definition) int {
		return cmp.Or(strings.Compare(a.crd.Spec.Group, b.crd.Spec.Group), strings.Compare(a.crd.Name, b.crd.Name))
	})
	m.definition = served
	if changed {
		m.config.Changed(next.served())
	}
	m.current.Store(next)
	for _, d := range gone {
		d.end()
		m.config.Store.Drop(prefix(d.crd))
	}
	m.mu.Lock()
	close(m.advanced)
	m.advanced = make(chan struct{})
	m.mu.Unlock()
	select {
	case <-m.synced:
	default:
		close(m.synced)
	}
}

// served are the served versions: groups by name, the preferred version of a group first, kinds by name.
func (t *table) served() []Served {
	var versions []*servedVersion
	for _, d := range t.definitions {
		versions = append(versions, d.served()...)
	}
	slices.SortStableFunc(versions, func(a, b *servedVersion) int {
		return cmp.Or(strings.Compare(a.gvk.Group, b.gvk.Group), compareVersions(b.gvk.Version, a.gvk.Version), strings.Compare(a.row.Name, b.row.Name))
	})
	out := make([]Served, len(versions))
	for i, v := range versions {
		out[i] = Served{ID: v.id(), Row: v.row, Schemas: v.schemas}
	}
	return out
}

// write changes a definition's status, unless the definition has changed since it was decided.
func (m *Manager) write(ctx context.Context, item *store.Item, status apiextensionsv1.CustomResourceDefinitionStatus) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := m.config.Definitions.Mutate(ctx, item.Key, func(current *store.Item) (store.Change, error) {
		if current == nil || current.Revision != item.Revision {
			return store.Change{}, nil // that is another event
		}
		crd := *current.Object.(*apiextensionsv1.CustomResourceDefinition)
		crd.Status = status
		return store.Change{Put: &crd}, nil
	})
	if err != nil {
		return fmt.Errorf("status of %s: %w", item.Key, err)
	}
	return nil
}

func isTrue(crd *apiextensionsv1.CustomResourceDefinition, t apiextensionsv1.CustomResourceDefinitionConditionType) bool {
	c := condition(&crd.Status, t)
	return c != nil && c.Status == apiextensionsv1.ConditionTrue
}
