package store

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// List implements Collection. What a resourceVersion means without and with limit and match is upstream's table in
// "Kubernetes API Concepts", Resource versions; a limit on resourceVersion 0 is ignored, as upstream's watch cache does,
// so that informers start with one request.
func (c *collection) List(ctx context.Context, opts ListOptions) (*List, error) {
	revision, err := parseRevision(opts.ResourceVersion)
	if err != nil {
		return nil, err
	}
	if err := c.load(ctx); err != nil {
		return nil, err
	}
	q := query{scope: scope{opts.Namespace, opts.Name}, match: opts.Match, limit: opts.Limit}
	exact := revision > 0 && (opts.ResourceVersionMatch == metav1.ResourceVersionMatchExact ||
		opts.ResourceVersionMatch == "" && opts.Limit > 0)
	switch {
	case opts.Continue != "":
		at, start, err := decodeContinue(opts.Continue)
		if err != nil {
			return nil, err
		}
		q.start = start
		if at > 0 {
			list, err := c.listAt(ctx, q, at)
			if errors.Is(err, ErrCompacted) {
				return &List{Inconsistent: encodeContinue(-1, start)}, ErrCompacted
			}
			return list, err
		}
		if _, err := c.s.latest(ctx); err != nil {
			return nil, err
		}
	case exact:
		return c.listAt(ctx, q, revision)
	default:
		if opts.ResourceVersion == "0" {
			q.limit = 0
		}
		if err := c.fresh(ctx, opts.ResourceVersion, revision); err != nil {
			return nil, err
		}
	}
	items, at, err := c.view()
	if err != nil {
		return nil, err
	}
	return q.run(items, at), nil
}

// listAt lists the state at one revision: from the cache if it still is, or can be wound back to, that state, else from
// etcd. What etcd has compacted is gone although the cache might know it: how long a revision can be listed must not depend
// on how much happens in a collection, and clients hold on to a token that never expires.
func (c *collection) listAt(ctx context.Context, q query, revision int64) (*List, error) {
	if err := c.s.notOlder(ctx, revision); err != nil {
		return nil, err
	}
	items, err := c.viewAt(revision)
	if err != nil {
		return nil, err
	}
	if items != nil {
		return q.run(items, revision), nil
	}
	return c.listFromEtcd(ctx, q, revision)
}

// viewAt is the collection as it was at the revision, nil if the history does not go back that far.
func (c *collection) viewAt(revision int64) (*tree, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if err := c.usableLocked(); err != nil {
		return nil, err
	}
	if err := c.brokenLocked(); err != nil {
		return nil, err
	}
	if revision < c.s.compacted {
		return nil, ErrCompacted
	}
	if c.changed <= revision {
		return c.snapshotLocked(), nil
	}
	if revision < c.history.floor {
		return nil, nil
	}
	items := c.snapshotLocked().Clone()
	// Clone marks both trees, so the shared copy is spent.
	c.snapshot = nil
	for i := len(c.history.records) - 1; i >= 0 && c.history.records[i].revision > revision; i-- {
		r := c.history.records[i]
		if r.before != nil {
			items.ReplaceOrInsert(entry{r.key, r.before})
		} else {
			items.Delete(entry{key: r.key})
		}
	}
	return items, nil
}

// listFromEtcd reads a page at a revision that the cache no longer knows.
func (c *collection) listFromEtcd(ctx context.Context, q query, revision int64) (*List, error) {
	list := &List{Revision: revision}
	prefix := c.cfg.Prefix + q.prefix()
	from := prefix + q.start
	batch := int64(1000)
	if q.limit > 0 {
		batch = q.limit + 1
	}
	for {
		r, err := c.s.etcd.Range(ctx, keyRange(prefix, from, revision, batch))
		if err != nil {
			return nil, translate(ctx, err)
		}
		for _, kv := range r.Kvs {
			key := string(kv.Key[len(c.cfg.Prefix):])
			if !q.covers(key) {
				continue
			}
			item, err := c.decode(key, kv.Value, kv.ModRevision)
			if err != nil {
				return nil, fmt.Errorf("%s cannot be read: %w", kv.Key, err)
			}
			if q.match != nil && !q.match(item) {
				continue
			}
			if q.limit > 0 && int64(len(list.Items)) == q.limit {
				list.Continue = q.token(revision, list.Items)
				return list, nil
			}
			list.Items = append(list.Items, item)
		}
		if !r.More {
			return list, nil
		}
		from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}

// scope narrows a collection to a namespace, a name, or both; zero is everything.
type scope struct{ namespace, name string }

// scopeOf splits a key.
func scopeOf(key string) scope {
	if i := strings.IndexByte(key, '/'); i >= 0 {
		return scope{key[:i], key[i+1:]}
	}
	return scope{"", key}
}

func (s scope) prefix() string {
	if s.namespace == "" {
		return ""
	}
	return s.namespace + "/"
}

func (s scope) covers(key string) bool {
	k := scopeOf(key)
	return (s.namespace == "" || s.namespace == k.namespace) && (s.name == "" || s.name == k.name)
}

// query is one walk over a tree.
type query struct {
	scope
	match func(*Item) bool
	limit int64
	start string // first key to look at, below the scope's prefix
}

// each calls f with the items in key order until it says no.
func (q *query) each(items *tree, f func(*Item) bool) {
	prefix := q.prefix()
	walk := func(e entry) bool {
		if q.name != "" && !q.covers(e.key) || q.match != nil && !q.match(e.item) {
			return true
		}
		return f(e.item)
	}
	if q.name != "" {
		// With a name there is one key to look at, unless the keys have namespaces and all of them are asked for.
		first, _ := items.Min()
		if prefix != "" || !strings.Contains(first.key, "/") {
			if e, ok := items.Get(entry{key: prefix + q.name}); ok && e.key >= prefix+q.start {
				walk(e)
			}
			return
		}
	}
	switch {
	case prefix != "":
		items.AscendRange(entry{key: prefix + q.start}, entry{key: prefixEnd(prefix)}, walk)
	case q.start != "":
		items.AscendGreaterOrEqual(entry{key: q.start}, walk)
	default:
		items.Ascend(walk)
	}
}

// run makes a page.
func (q *query) run(items *tree, revision int64) *List {
	list := &List{Revision: revision}
	if q.limit <= 0 && q.scope == (scope{}) && q.match == nil && q.start == "" {
		list.Items = make([]*Item, 0, items.Len())
	}
	var rest int64
	q.each(items, func(item *Item) bool {
		if q.limit <= 0 || int64(len(list.Items)) < q.limit {
			list.Items = append(list.Items, item)
			return true
		}
		rest++
		return q.match == nil
	})
	if rest > 0 {
		list.Continue = q.token(revision, list.Items)
		if q.match == nil {
			list.Remaining = &rest
		}
	}
	return list
}

// token continues after the last item.
func (q *query) token(revision int64, items []*Item) string {
	return encodeContinue(revision, strings.TrimPrefix(items[len(items)-1].Key, q.prefix())+"\x00")
}

// continueToken is upstream's: clients do not look into it, but some outlive a change of server.
type continueToken struct {
	APIVersion      string `json:"v"`
	ResourceVersion int64  `json:"rv"`
	StartKey        string `json:"start"`
}

const continueVersion = "meta.k8s.io/v1"

func encodeContinue(revision int64, start string) string {
	b, err := json.Marshal(continueToken{continueVersion, revision, start})
	if err != nil {
		panic(err) // three plain fields
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// decodeContinue returns the revision, -1 for the newest, and the key to start at.
func decodeContinue(s string) (revision int64, start string, _ error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return 0, "", fmt.Errorf("%w: %v", ErrBadContinue, err)
	}
	var t continueToken
	if err := json.Unmarshal(b, &t); err != nil {
		return 0, "", fmt.Errorf("%w: %v", ErrBadContinue, err)
	}
	if t.APIVersion != continueVersion || t.ResourceVersion < -1 || t.ResourceVersion == 0 || t.StartKey == "" {
		return 0, "", fmt.Errorf("%w: it is not of this server", ErrBadContinue)
	}
	return t.ResourceVersion, t.StartKey, nil
}
