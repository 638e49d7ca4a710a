package apiserver_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mini-k8s/mini/apiserver"
	"github.com/mini-k8s/mini/store"
)

// watched is an event as a client sees it, cut down to what the tests look at.
type watched struct {
	Type   string
	Object struct {
		Kind     string
		Metadata struct {
			Name, ResourceVersion string
			Annotations           map[string]string
		}
		Data map[string]string
		Code int
		Rows []struct{ Cells []any }
	}
}

func (w watched) String() string {
	return strings.Join([]string{w.Type, w.Object.Metadata.Name, w.Object.Data["k"]}, " ")
}

// watch opens a watch over the network and returns its events; the channel is closed when the server ends it.
func (c *cluster) watch(t testing.TB, path string, headers ...string) <-chan watched {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "GET", c.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer admin")
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.http(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", resp.StatusCode, readAll(t, resp.Body))
	}
	events := make(chan watched, 1000)
	go func() {
		defer close(events)
		defer resp.Body.Close()
		for lines := bufio.NewReader(resp.Body); ; {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				return
			}
			var e watched
			if err := json.Unmarshal(line, &e); err != nil {
				t.Errorf("%v in %s", err, line)
				return
			}
			events <- e
		}
	}()
	return events
}

func next(t testing.TB, events <-chan watched) watched {
	t.Helper()
	select {
	case e, ok := <-events:
		if !ok {
			t.Fatal("the watch has ended")
		}
		return e
	case <-time.After(30 * time.Second):
		t.Fatal("no event")
	}
	return watched{}
}

func sees(t testing.TB, events <-chan watched, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := strings.TrimSpace(next(t, events).String()); got != w {
			t.Fatalf("event %q, want %q", got, w)
		}
	}
}

func TestWatch(t *testing.T) {
	c := start(t)
	put := func(name, label, data string) answer {
		t.Helper()
		a := c.do(t, "PATCH", maps+"/"+name+"?fieldManager=t&force=true", fmt.Sprintf(
			`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"labels":{"l":%q}},"data":{"k":%q}}`, label, data),
			"Content-Type", "application/apply-patch+yaml")
		if a.code >= 300 {
			t.Fatal(a)
		}
		return a
	}
	version := put("a", "x", "1").field(t, "metadata.resourceVersion").(string)
	put("b", "y", "1")

	t.Run("from-now", func(t *testing.T) {
		sees(t, c.watch(t, maps+"?watch=true"), "ADDED a 1", "ADDED b 1")
	})
	t.Run("old-path", func(t *testing.T) {
		sees(t, c.watch(t, "/api/v1/watch/namespaces/default/configmaps"), "ADDED a 1", "ADDED b 1")
	})
	t.Run("old-path-of-a-namespace", func(t *testing.T) {
		sees(t, c.watch(t, "/api/v1/watch/namespaces/kube-system"), "ADDED kube-system")
	})
	t.Run("from-version", func(t *testing.T) {
		sees(t, c.watch(t, maps+"?watch=1&resourceVersion="+version), "ADDED b 1")
	})
	t.Run("initial-events", func(t *testing.T) {
		events := c.watch(t, maps+"?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")
		sees(t, events, "ADDED a 1", "ADDED b 1")
		mark := next(t, events)
		if mark.Type != "BOOKMARK" || mark.Object.Kind != "ConfigMap" || mark.Object.Metadata.Annotations["k8s.io/initial-events-end"] != "true" || mark.Object.Metadata.ResourceVersion < version {
			t.Errorf("%+v", mark)
		}
	})
	t.Run("initial-events-needs-match", func(t *testing.T) {
		if a := c.do(t, "GET", maps+"?watch=true&sendInitialEvents=true", ""); a.code != 422 {
			t.Error(a)
		}
	})
	t.Run("one-name", func(t *testing.T) {
		sees(t, c.watch(t, maps+"?watch=true&fieldSelector=metadata.name%3Db"), "ADDED b 1")
	})
	t.Run("table", func(t *testing.T) {
		e := next(t, c.watch(t, maps+"?watch=true", "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io"))
		if e.Object.Kind != "Table" || len(e.Object.Rows) != 1 || e.Object.Rows[0].Cells[0] != "a" {
			t.Errorf("%+v", e)
		}
	})
	t.Run("timeout", func(t *testing.T) {
		events := c.watch(t, maps+"?watch=true&timeoutSeconds=1&resourceVersion="+version)
		sees(t, events, "ADDED b 1")
		select {
		case _, ok := <-events:
			if ok {
				t.Error("an event that nobody caused")
			}
		case <-time.After(30 * time.Second):
			t.Error("the watch does not end")
		}
	})
	t.Run("selector", func(t *testing.T) {
		events := c.watch(t, maps+"?watch=true&labelSelector=l%3Dx")
		sees(t, events, "ADDED a 1")
		put("b", "x", "2")
		put("a", "x", "2")
		put("a", "y", "3")
		c.do(t, "DELETE", maps+"/b", "")
		// An object that stops matching is shown as it was when it matched last.
		sees(t, events, "ADDED b 2", "MODIFIED a 2", "DELETED a 2", "DELETED b 2")
	})
}

// TestWatchOrder checks that watchers that start at different times see the same events in the same order.
func TestWatchOrder(t *testing.T) {
	c := start(t)
	const writes, watchers = 60, 20
	var mu sync.Mutex
	seen := map[int][]string{}
	var all sync.WaitGroup
	for i := range watchers {
		events := c.watch(t, maps+"?watch=true&labelSelector=order%3D1")
		all.Go(func() {
			for range writes {
				e := next(t, events)
				mu.Lock()
				seen[i] = append(seen[i], e.Object.Metadata.ResourceVersion)
				mu.Unlock()
			}
		})
	}
	for i := range writes {
		if a := c.do(t, "POST", maps, fmt.Sprintf(`{"metadata":{"name":"o%d","labels":{"order":"1"}}}`, i)); a.code != http.StatusCreated {
			t.Fatal(a)
		}
	}
	all.Wait()
	for i := 1; i < watchers; i++ {
		if strings.Join(seen[i], " ") != strings.Join(seen[0], " ") {
			t.Fatalf("watcher %d saw\n%v, watcher 0\n%v", i, seen[i], seen[0])
		}
	}
}

// failing is a store whose ConfigMaps fail once err is set.
type failing struct {
	apiserver.Store
	err *atomic.Pointer[error]
}

func (f failing) Collection(config store.CollectionConfig) store.Collection {
	c := f.Store.Collection(config)
	if config.Prefix != "/registry/configmaps/" {
		return c
	}
	return failingCollection{c, f.err}
}

type failingCollection struct {
	store.Collection
	err *atomic.Pointer[error]
}

func (f failingCollection) List(ctx context.Context, opts store.ListOptions) (*store.List, error) {
	if err := f.err.Load(); err != nil {
		return &store.List{Inconsistent: "go-on-here"}, *err
	}
	return f.Collection.List(ctx, opts)
}

func (f failingCollection) Watch(ctx context.Context, opts store.WatchOptions) (store.Watch, error) {
	if err := f.err.Load(); err != nil {
		return nil, *err
	}
	return f.Collection.Watch(ctx, opts)
}

func (f failingCollection) Create(ctx context.Context, key string, obj store.Object) (*store.Item, error) {
	if err := f.err.Load(); err != nil {
		return nil, *err
	}
	return f.Collection.Create(ctx, key, obj)
}

// TestStoreErrors checks how each error of the store is said.
func TestStoreErrors(t *testing.T) {
	var fault atomic.Pointer[error]
	c := start(t, func(config *apiserver.Config) { config.Store = failing{config.Store, &fault} })
	for _, step := range []struct {
		err    error
		code   int
		reason string
	}{
		{store.ErrCompacted, 410, "Expired"},
		{store.ErrFuture, 504, "Timeout"},
		{store.ErrUnavailable, 503, "ServiceUnavailable"},
		{store.ErrTooLarge, 413, "RequestEntityTooLarge"},
		{store.ErrBadContinue, 400, "BadRequest"},
		{context.DeadlineExceeded, 504, "Timeout"},
		{errors.New("disk on fire"), 500, "InternalError"},
	} {
		err := fmt.Errorf("wrapped: %w", step.err)
		fault.Store(&err)
		list := c.do(t, "GET", maps, "")
		if list.code != step.code || list.field(t, "reason") != step.reason {
			t.Errorf("list, %v: %v", step.err, list)
		}
		if token := list.field(t, "metadata.continue"); (token == "go-on-here") != (step.err == store.ErrCompacted) {
			t.Errorf("list, %v: continue %v", step.err, token)
		}
		if create := c.do(t, "POST", maps, `{"metadata":{"name":"a"}}`); create.code != step.code || create.field(t, "reason") != step.reason {
			t.Errorf("create, %v: %v", step.err, create)
		}
		e := next(t, c.watch(t, maps+"?watch=true&resourceVersion=1"))
		if e.Type != "ERROR" || e.Object.Kind != "Status" || e.Object.Code != step.code {
			t.Errorf("watch, %v: %+v", step.err, e)
		}
	}
}
