package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// openShared is a store on an embedded etcd that also serves a socket, and a second store that is its client: another
// apiserver on the same etcd.
func openShared(t testing.TB, cfg Config) (local, other *Store) {
	t.Helper()
	dir, err := os.MkdirTemp("", "s") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cfg.Socket = filepath.Join(dir, "etcd")
	local = open(t, cfg)
	return local, open(t, Config{Endpoints: []string{"unix://" + cfg.Socket}, Logger: cfg.Logger})
}

// The caches of two apiservers on one etcd show one history: every watcher of either sees the same changes in the same
// order, and every list is the state that these changes lead to.
func TestHistoryIsOne(t *testing.T) {
	local, other := openShared(t, Config{})
	caches := []*collection{configMaps(local), configMaps(other)}
	for i := range 5 {
		set(t, caches[0], fmt.Sprintf("ns/%d", i), "v", "before")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	type observed struct {
		w      Watch
		events []Event
	}
	var watchers []*observed
	for i := range 8 {
		w, err := caches[i%2].Watch(ctx, WatchOptions{InitialEvents: i%4 < 2})
		if err != nil {
			t.Fatal(err)
		}
		watchers = append(watchers, &observed{w: w})
	}

	const writers, writes = 8, 60
	var wg, watching sync.WaitGroup
	var mu sync.Mutex
	var lists []*List
	var last int64
	for n := range writers {
		wg.Go(func() {
			c := caches[n%2]
			rnd := rand.New(rand.NewPCG(uint64(n), 1))
			for i := range writes {
				key := fmt.Sprintf("ns/%d", rnd.IntN(12))
				item, err := c.Mutate(ctx, key, func(current *Item) (Change, error) {
					if current != nil && rnd.IntN(4) == 0 {
						return Change{Delete: true}, nil
					}
					return Change{Put: configMap("ns", strings.TrimPrefix(key, "ns/"), "v", fmt.Sprintf("%d-%d", n, i))}, nil
				})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				last = max(last, item.Revision)
				mu.Unlock()
				// A reader of the other process sees it.
				switch seen, err := caches[(n+1)%2].Get(ctx, key, ""); {
				case err == nil && seen.Revision < item.Revision:
					t.Errorf("read %d after %d was written", seen.Revision, item.Revision)
				case err != nil && !errors.Is(err, ErrNotFound):
					t.Error(err)
				}
				if i%10 == 0 {
					l, err := c.List(ctx, ListOptions{ResourceVersion: []string{"", "0"}[rnd.IntN(2)]})
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					lists = append(lists, l)
					mu.Unlock()
				}
			}
		})
	}
	for _, o := range watchers {
		watching.Go(func() {
			for e := range o.w.Events() {
				if e.Type != Bookmark {
					o.events = append(o.events, e)
				}
				if e.Type == Failed {
					t.Error(e.Err)
				}
				if e.Item != nil && e.Item.Key == "ns/stop" {
					return
				}
			}
			t.Error("a watch was closed")
		})
	}
	wg.Wait()
	stop := set(t, caches[1], "ns/stop", "v", "stop")
	watching.Wait()
	if stop.Revision <= last {
		t.Errorf("revision %d after %d", stop.Revision, last)
	}

	show := func(events []Event) (out []string) {
		for _, e := range events {
			out = append(out, fmt.Sprintf("%d %s", e.Revision, describe(e)))
		}
		return out
	}
	first := show(watchers[0].events)
	for i, o := range watchers {
		for j := 1; j < len(o.events); j++ {
			if j >= 5 && o.events[j].Revision <= o.events[j-1].Revision {
				t.Fatalf("watcher %d: %d after %d", i, o.events[j].Revision, o.events[j-1].Revision)
			}
		}
		if got := show(o.events); strings.Join(got, "\n") != strings.Join(first, "\n") {
			t.Fatalf("watchers 0 and %d differ:\n%s\n\n%s", i, strings.Join(first, "\n"), strings.Join(got, "\n"))
		}
	}
	for _, l := range lists {
		state := map[string]string{}
		for _, e := range watchers[0].events {
			if e.Revision > l.Revision {
				break
			}
			if e.Type == Deleted {
				delete(state, e.Item.Key)
			} else {
				state[e.Item.Key] = e.Item.Object.(*corev1.ConfigMap).Data["v"]
			}
		}
		if len(state) != len(l.Items) {
			t.Errorf("list at %d has %d items, the history says %d", l.Revision, len(l.Items), len(state))
		}
		for _, i := range l.Items {
			if got := i.Object.(*corev1.ConfigMap).Data["v"]; got != state[i.Key] {
				t.Errorf("list at %d: %s is %q, the history says %q", l.Revision, i.Key, got, state[i.Key])
			}
		}
	}
}

// A client that watched before a restart goes on where it was, as long as etcd has the history.
func TestWatchAcrossRestart(t *testing.T) {
	dir := t.TempDir()
	s, stop := openUntil(t, Config{DataDir: dir})
	c := configMaps(s)
	a := set(t, c, "ns/a", "v", "1")
	set(t, c, "ns/b", "v", "1")
	set(t, c, "ns/a", "v", "2")
	remove(t, c, "ns/b")
	stop()

	s, stop = openUntil(t, Config{DataDir: dir})
	defer stop()
	c = configMaps(s)
	w, err := c.Watch(t.Context(), WatchOptions{ResourceVersion: rv(a.Revision)})
	if err != nil {
		t.Fatal(err)
	}
	matching, err := c.Watch(t.Context(), WatchOptions{ResourceVersion: rv(a.Revision), Match: func(i *Item) bool {
		return i.Object.(*corev1.ConfigMap).Data["v"] == "1"
	}})
	if err != nil {
		t.Fatal(err)
	}
	set(t, c, "ns/c", "v", "1")
	for _, want := range []string{"added ns/b=1", "modified ns/a=2", "deleted ns/b=1", "added ns/c=1"} {
		if got := next(t, w); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	for _, want := range []string{"added ns/b=1", "deleted ns/a=1", "deleted ns/b=1", "added ns/c=1"} {
		if got := next(t, matching); got != want {
			t.Errorf("matching: got %s, want %s", got, want)
		}
	}
}

func TestWatchOldRevisionFromRemote(t *testing.T) {
	local, other := openShared(t, Config{})
	a := set(t, configMaps(local), "ns/a", "v", "1")
	set(t, configMaps(local), "ns/a", "v", "2")
	set(t, configMaps(local), "ns/a", "v", "3")
	w, err := configMaps(other).Watch(t.Context(), WatchOptions{ResourceVersion: rv(a.Revision)})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"modified ns/a=2", "modified ns/a=3"} {
		if got := next(t, w); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
