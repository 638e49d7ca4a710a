package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	corev1 "k8s.io/api/core/v1"
)

// change is a line of the model's log: value is "" for a delete.
type change struct {
	revision   int64
	key, value string
}

// model is what the collection must look like: the log of all changes.
type model struct {
	log       []change
	compacted int64
}

func (m *model) at(revision int64) map[string]string {
	state := map[string]string{}
	for _, c := range m.log {
		switch {
		case c.revision > revision:
			return state
		case c.value == "":
			delete(state, c.key)
		default:
			state[c.key] = c.value
		}
	}
	return state
}

// events is what a watcher from the revision on must see.
func (m *model) events(after int64, covers func(key, value string) bool) (out []string) {
	state := m.at(after)
	for _, c := range m.log {
		if c.revision <= after {
			continue
		}
		old, was := state[c.key]
		before := was && covers(c.key, old)
		now := c.value != "" && covers(c.key, c.value)
		switch {
		case before && now:
			out = append(out, fmt.Sprintf("%d modified %s=%s", c.revision, c.key, c.value))
		case now:
			out = append(out, fmt.Sprintf("%d added %s=%s", c.revision, c.key, c.value))
		case before:
			out = append(out, fmt.Sprintf("%d deleted %s=%s", c.revision, c.key, old))
		}
		if c.value == "" {
			delete(state, c.key)
		} else {
			state[c.key] = c.value
		}
	}
	return out
}

// Under random operations, readers at random revisions and with random options find what a plain log of the changes says,
// whether it comes from the cache, from its history wound back, or from etcd.
func TestModel(t *testing.T) {
	base, n := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		s, err := Open(context.Background(), Config{DataDir: fmt.Sprintf("%s/%d", base, n)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()
		c := configMaps(s)
		m := &model{}
		keys := rapid.SampledFrom([]string{"a/1", "a/2", "a/3", "b/1", "b/2", "c/1"})
		values := rapid.SampledFrom([]string{"x", "y", "z"})
		newest := int64(1)
		revisions := func(t *rapid.T) int64 { return rapid.Int64Range(max(m.compacted, 1), newest).Draw(t, "revision") }
		wrote := func(item *Item, key, value string) {
			if item != nil && item.Revision > newest {
				newest = item.Revision
				m.log = append(m.log, change{newest, key, value})
			}
		}
		options := func(t *rapid.T) (scope, string, func(*Item) bool, func(key, value string) bool) {
			sc := scope{rapid.SampledFrom([]string{"", "", "a", "b"}).Draw(t, "namespace"), rapid.SampledFrom([]string{"", "", "", "1"}).Draw(t, "name")}
			value := rapid.SampledFrom([]string{"", "", "x"}).Draw(t, "match")
			var match func(*Item) bool
			if value != "" {
				match = func(i *Item) bool { return i.Object.(*corev1.ConfigMap).Data["v"] == value }
			}
			return sc, value, match, func(k, v string) bool {
				namespace, name, _ := strings.Cut(k, "/")
				return (sc.namespace == "" || sc.namespace == namespace) && (sc.name == "" || sc.name == name) && (value == "" || v == value)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				key, value := keys.Draw(t, "key"), values.Draw(t, "value")
				namespace, name, _ := strings.Cut(key, "/")
				item, err := c.Mutate(ctx, key, func(*Item) (Change, error) { return Change{Put: configMap(namespace, name, "v", value)}, nil })
				if err != nil {
					t.Fatal(err)
				}
				if m.at(newest)[key] == value && item.Revision > newest {
					t.Fatalf("a put of the same value wrote revision %d", item.Revision)
				}
				wrote(item, key, value)
			},
			"create": func(t *rapid.T) {
				key, value := keys.Draw(t, "key"), values.Draw(t, "value")
				namespace, name, _ := strings.Cut(key, "/")
				item, err := c.Create(ctx, key, configMap(namespace, name, "v", value))
				if _, exists := m.at(newest)[key]; exists != errors.Is(err, ErrExists) || err != nil && !exists {
					t.Fatalf("creating %s: %v", key, err)
				}
				wrote(item, key, value)
			},
			"delete": func(t *rapid.T) {
				key := keys.Draw(t, "key")
				item, err := c.Mutate(ctx, key, func(*Item) (Change, error) { return Change{Delete: true}, nil })
				if _, exists := m.at(newest)[key]; err != nil || exists != (item != nil) {
					t.Fatalf("deleting %s: %v, %v", key, item, err)
				}
				wrote(item, key, "")
			},
			"age": func(t *rapid.T) {
				s.mu.Lock()
				defer s.mu.Unlock()
				c.history.trim(time.Now().Unix() + 1000)
			},
			"compact": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "often") > 0 {
					t.Skip()
				}
				m.compacted = revisions(t)
				if err := s.compactTo(ctx, m.compacted); err != nil {
					t.Fatal(err)
				}
			},
			"get": func(t *rapid.T) {
				key := keys.Draw(t, "key")
				item, err := c.Get(ctx, key, rapid.SampledFrom([]string{"", "0", rv(newest)}).Draw(t, "version"))
				value, exists := m.at(newest)[key]
				if exists != (err == nil) || !exists && !errors.Is(err, ErrNotFound) {
					t.Fatalf("get %s: %v", key, err)
				}
				if exists && item.Object.(*corev1.ConfigMap).Data["v"] != value {
					t.Fatalf("get %s: %v, want %s", key, item.Object, value)
				}
			},
			"list": func(t *rapid.T) {
				sc, _, match, covers := options(t)
				opts := ListOptions{Namespace: sc.namespace, Name: sc.name, Match: match, Limit: rapid.Int64Range(0, 4).Draw(t, "limit")}
				revision := newest
				if rapid.Bool().Draw(t, "exact") {
					revision = revisions(t)
					opts.ResourceVersion, opts.ResourceVersionMatch = rv(revision), metav1.ResourceVersionMatchExact
				}
				var got []string
				for page := 0; ; page++ {
					l, err := c.List(ctx, opts)
					if err != nil {
						t.Fatal(err)
					}
					if page == 0 && opts.ResourceVersion == "" {
						revision = l.Revision
					}
					if l.Revision != revision || opts.Limit > 0 && int64(len(l.Items)) > opts.Limit {
						t.Fatalf("page %d: revision %d, want %d; %d items", page, l.Revision, revision, len(l.Items))
					}
					for _, i := range l.Items {
						got = append(got, i.Key+"="+i.Object.(*corev1.ConfigMap).Data["v"])
					}
					if l.Continue == "" {
						break
					}
					opts.Continue, opts.ResourceVersion, opts.ResourceVersionMatch = l.Continue, "", ""
				}
				var want []string
				for k, v := range m.at(revision) {
					if covers(k, v) {
						want = append(want, k+"="+v)
					}
				}
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Fatalf("list at %d: %v, want %v", revision, got, want)
				}
			},
			"watch": func(t *rapid.T) {
				sc, _, match, covers := options(t)
				after := revisions(t)
				wctx, end := context.WithCancel(ctx)
				defer end()
				w, err := c.Watch(wctx, WatchOptions{Namespace: sc.namespace, Name: sc.name, Match: match, ResourceVersion: rv(after)})
				if err != nil {
					t.Fatal(err)
				}
				want := m.events(after, covers)
				for i, line := range want {
					select {
					case e, ok := <-w.Events():
						if !ok {
							t.Fatal("the watch was closed")
						}
						if got := fmt.Sprintf("%d %s", e.Revision, describe(e)); got != line {
							t.Fatalf("event %d after %d: got %s, want %s", i, after, got, line)
						}
					case <-time.After(30 * time.Second):
						t.Fatalf("event %d after %d did not come: %s", i, after, line)
					}
				}
				select {
				case e := <-w.Events():
					t.Fatalf("an event too many: %s", describe(e))
				default:
				}
			},
		})
	})
}
