package store

import (
	"context"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/btree"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// entry is a place in the key-ordered tree; the item carries the same key, but comparing should not touch it.
type entry struct {
	key  string
	item *Item
}

type tree = btree.BTreeG[entry]

func newTree() *tree {
	return btree.NewG(32, func(a, b entry) bool { return a.key < b.key })
}

// collection is the cache of one prefix. Everything in the first block is guarded by the store's lock, so that its
// contents and the store's applied revision are always seen together.
type collection struct {
	s   *Store
	cfg CollectionConfig

	items      *tree
	snapshot   *tree            // a copy of items that nobody changes; nil after a change
	broken     map[string]error // keys whose bytes cannot be decoded
	history    history
	inflight   map[string][]*flight // puts on their way, by key
	buffer     []buffered           // what came in while the first load runs
	changed    int64                // revision of the last change
	generation int                  // counts unloads, so that a load that began before one is thrown away

	state   atomic.Int32 // unloaded, loading, ready
	loading sync.Mutex   // held by the one that loads
	filling sync.Mutex   // held by the one that extends the history backwards

	objects, bytes atomic.Int64 // of items: see Size

	watches watches
}

type buffered struct {
	key      string
	item     *Item
	err      error
	revision int64
}

const (
	unloaded int32 = iota
	loading
	ready
	dropped // for good: see Store.Drop
)

var _ Collection = (*collection)(nil)

func newCollection(s *Store, cfg CollectionConfig) *collection {
	c := &collection{s: s, cfg: cfg, inflight: map[string][]*flight{}, history: history{first: historyStart}}
	c.watches.init(c)
	return c
}

// load fills the cache at its first use.
func (c *collection) load(ctx context.Context) error {
	if c.state.Load() == ready {
		return nil
	}
	c.loading.Lock()
	defer c.loading.Unlock()
	if c.state.Load() == ready {
		return nil
	}
	c.s.mu.Lock()
	if c.state.Load() == dropped {
		c.s.mu.Unlock()
		return fmt.Errorf("%w: %s is not kept any more", ErrUnavailable, c.cfg.Prefix)
	}
	c.state.Store(loading)
	c.buffer = nil
	generation := c.generation
	c.s.mu.Unlock()

	items, broken, revision, err := c.read(ctx)
	if err == nil {
		err = c.s.caughtUp(ctx, revision)
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	switch {
	case err != nil:
		if c.state.Load() == loading {
			c.state.Store(unloaded)
		}
		c.buffer = nil
		return fmt.Errorf("loading %s: %w", c.cfg.Prefix, err)
	case generation != c.generation:
		return fmt.Errorf("loading %s: %w: its history was compacted meanwhile", c.cfg.Prefix, ErrUnavailable)
	}
	c.items, c.broken, c.snapshot = items, broken, nil
	bytes := int64(0)
	items.Ascend(func(e entry) bool {
		bytes += int64(e.item.size)
		return true
	})
	c.objects.Store(int64(items.Len()))
	c.bytes.Store(bytes)
	c.history = history{first: c.history.end(), floor: revision}
	c.changed = revision
	c.state.Store(ready)
	for _, b := range c.buffer {
		switch {
		case b.revision <= revision:
		case b.err != nil:
			c.breakLocked(b.key, b.err, b.revision)
		default:
			c.applyLocked(b.key, b.item, nil, b.revision)
		}
	}
	c.buffer = nil
	return nil
}

// read gets all that etcd has, in pages of one revision.
func (c *collection) read(ctx context.Context) (*tree, map[string]error, int64, error) {
	items, broken := newTree(), map[string]error{}
	from, revision := c.cfg.Prefix, int64(0)
	for {
		r, err := c.s.etcd.Range(ctx, keyRange(c.cfg.Prefix, from, revision, 1000))
		if err != nil {
			return nil, nil, 0, translate(ctx, err)
		}
		if revision == 0 {
			revision = r.Header.Revision
		}
		for _, kv := range r.Kvs {
			key := string(kv.Key[len(c.cfg.Prefix):])
			item, err := c.decode(key, kv.Value, kv.ModRevision)
			if err != nil {
				c.s.log.Error("an object in etcd cannot be read", "key", string(kv.Key), "err", err)
				broken[key] = err
				continue
			}
			items.ReplaceOrInsert(entry{item.Key, item})
		}
		if !r.More {
			return items, broken, revision, nil
		}
		from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}

// unloadLocked forgets everything; the next use loads again.
func (c *collection) unloadLocked() {
	c.items, c.snapshot, c.broken, c.buffer = nil, nil, nil, nil
	c.objects.Store(0)
	c.bytes.Store(0)
	c.history = history{first: c.history.end()}
	c.generation++
	c.state.Store(unloaded)
}

// applyLocked is the one place where a change enters the cache; item is nil for a delete.
func (c *collection) applyLocked(key string, item, tomb *Item, revision int64) {
	switch c.state.Load() {
	case unloaded, dropped:
		return
	case loading:
		c.buffer = append(c.buffer, buffered{key: key, item: item, revision: revision})
		return
	}
	delete(c.broken, key)
	var old entry
	if item != nil {
		old, _ = c.items.ReplaceOrInsert(entry{item.Key, item})
	} else {
		old, _ = c.items.Delete(entry{key: key})
		if old.item == nil {
			return
		}
		if tomb == nil {
			tomb = old.item.at(revision)
		}
	}
	c.objects.Store(int64(c.items.Len()))
	c.bytes.Add(item.bytes() - old.item.bytes())
	c.snapshot = nil
	c.changed = revision
	c.history.add(&record{key: key, before: old.item, after: item, gone: tomb, revision: revision})
	c.watches.kick()
}

// Size is how many objects the cache holds and the bytes that they take in etcd; 0 before it is filled. It takes no lock.
func (c *collection) Size() (objects, bytes int64) { return c.objects.Load(), c.bytes.Load() }

// breakLocked takes note of a key whose new bytes cannot be decoded. To watchers it is gone: what is there now is not
// what they were told.
func (c *collection) breakLocked(key string, err error, revision int64) {
	if c.state.Load() == loading {
		c.buffer = append(c.buffer, buffered{key: key, err: err, revision: revision})
		return
	}
	if s := c.state.Load(); s == unloaded || s == dropped {
		return
	}
	c.s.log.Error("an object in etcd cannot be read", "key", c.cfg.Prefix+key, "err", err)
	c.applyLocked(key, nil, nil, revision)
	c.broken[key] = err
}

// brokenLocked is the error of a list that would have to leave objects out.
func (c *collection) brokenLocked() error {
	for key, err := range c.broken {
		return fmt.Errorf("%s%s cannot be read: %w", c.cfg.Prefix, key, err)
	}
	return nil
}

// snapshotLocked needs the store's lock for writing.
func (c *collection) snapshotLocked() *tree {
	if c.snapshot == nil {
		c.snapshot = c.items.Clone()
	}
	return c.snapshot
}

// view is the collection at a revision, free of locks.
func (c *collection) view() (*tree, int64, error) {
	c.s.mu.RLock()
	if c.state.Load() == ready && c.snapshot != nil && len(c.broken) == 0 {
		defer c.s.mu.RUnlock()
		return c.snapshot, c.s.applied, nil
	}
	c.s.mu.RUnlock()
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if err := c.usableLocked(); err != nil {
		return nil, 0, err
	}
	if err := c.brokenLocked(); err != nil {
		return nil, 0, err
	}
	return c.snapshotLocked(), c.s.applied, nil
}

// usableLocked fails in the moment between an unload and the next load.
func (c *collection) usableLocked() error {
	if c.state.Load() != ready {
		return fmt.Errorf("%w: the watch cache is starting over", ErrUnavailable)
	}
	return nil
}

// cached is the item the cache holds, nil if none.
func (c *collection) cached(key string) (*Item, error) {
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	if err := c.usableLocked(); err != nil {
		return nil, err
	}
	if err, ok := c.broken[key]; ok {
		return nil, fmt.Errorf("%s%s cannot be read: %w", c.cfg.Prefix, key, err)
	}
	e, _ := c.items.Get(entry{key: key})
	return e.item, nil
}

// Get implements Collection.
func (c *collection) Get(ctx context.Context, key, resourceVersion string) (*Item, error) {
	revision, err := parseRevision(resourceVersion)
	if err != nil {
		return nil, err
	}
	if err := c.load(ctx); err != nil {
		return nil, err
	}
	if err := c.fresh(ctx, resourceVersion, revision); err != nil {
		return nil, err
	}
	item, err := c.cached(key)
	if err == nil && item == nil {
		err = ErrNotFound
	}
	return item, err
}

// fresh waits until the cache is as new as a resourceVersion asks for.
func (c *collection) fresh(ctx context.Context, resourceVersion string, revision int64) error {
	switch {
	case resourceVersion == "":
		_, err := c.s.latest(ctx)
		return err
	case revision == 0:
		return nil
	}
	return c.s.notOlder(ctx, revision)
}

func parseRevision(resourceVersion string) (int64, error) {
	if resourceVersion == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(resourceVersion, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%w: %q is not a number", ErrBadRevision, resourceVersion)
	}
	return int64(n), nil
}

// encode makes the plain storage bytes of an object and refuses what etcd would.
func (c *collection) encode(key string, obj Object) ([]byte, error) {
	data, err := c.cfg.Codec.Encode(obj)
	if err != nil {
		return nil, fmt.Errorf("encoding %s%s: %w", c.cfg.Prefix, key, err)
	}
	if len(data) > maxObjectSize {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, len(data), maxObjectSize)
	}
	return data, nil
}

// decode makes an item of what etcd holds.
func (c *collection) decode(key string, stored []byte, revision int64) (*Item, error) {
	data, stale := stored, false
	if t := c.cfg.Transformer; t != nil {
		var err error
		if data, stale, err = t.FromStorage(c.cfg.Prefix+key, stored); err != nil {
			return nil, fmt.Errorf("decrypting: %w", err)
		}
	}
	item, err := c.item(key, data, revision)
	if err == nil {
		item.stale = stale
	}
	return item, err
}

func (c *collection) item(key string, data []byte, revision int64) (*Item, error) {
	obj, err := c.cfg.Codec.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("decoding: %w", err)
	}
	return newItem(key, obj, revision, len(data)), nil
}

// newItem takes over obj.
func newItem(key string, obj Object, revision int64, size int) *Item {
	obj.SetResourceVersion(strconv.FormatInt(revision, 10))
	return &Item{Key: strings.Clone(key), Object: obj, Revision: revision, size: int32(size)}
}

// bytes are those of the stored object, 0 of none.
func (i *Item) bytes() int64 {
	if i == nil {
		return 0
	}
	return int64(i.size)
}

// revision of an item, 0 of none.
func (i *Item) revision() int64 {
	if i == nil {
		return 0
	}
	return i.Revision
}

// at is the same state under another revision: how watchers see an object that is gone.
func (i *Item) at(revision int64) *Item {
	obj := shallow(i.Object)
	obj.SetResourceVersion(strconv.FormatInt(revision, 10))
	return &Item{Key: i.Key, Object: obj, Revision: revision, size: i.size}
}

// shallow copies an object just deep enough for its resourceVersion to be set; everything below is shared.
func shallow(obj Object) Object {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		top := make(map[string]any, len(u.Object))
		for k, v := range u.Object {
			top[k] = v
		}
		if meta, ok := top["metadata"].(map[string]any); ok {
			m := make(map[string]any, len(meta))
			for k, v := range meta {
				m[k] = v
			}
			top["metadata"] = m
		}
		return &unstructured.Unstructured{Object: top}
	}
	v := reflect.ValueOf(obj)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return obj.DeepCopyObject().(Object)
	}
	n := reflect.New(v.Elem().Type())
	n.Elem().Set(v.Elem())
	return n.Interface().(Object)
}
