package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// open runs a store on an embedded etcd for the length of the test.
func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, stop := openUntil(t, cfg)
	t.Cleanup(stop)
	return s
}

func openUntil(t testing.TB, cfg Config) (*Store, func()) {
	t.Helper()
	if cfg.DataDir == "" && len(cfg.Endpoints) == 0 {
		cfg.DataDir = t.TempDir()
	}
	if os.Getenv("STORE_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	return s, func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func configMaps(s *Store) *collection {
	return s.Collection(CollectionConfig{
		Prefix: "/registry/configmaps/",
		Codec:  upstreamCodec(corev1.SchemeGroupVersion.WithKind("ConfigMap")),
	}).(*collection)
}

func configMap(namespace, name string, data ...string) *corev1.ConfigMap {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	for i := 0; i+1 < len(data); i += 2 {
		if cm.Data == nil {
			cm.Data = map[string]string{}
		}
		cm.Data[data[i]] = data[i+1]
	}
	return cm
}

func create(t testing.TB, c Collection, obj Object) *Item {
	t.Helper()
	item, err := c.Create(t.Context(), obj.GetNamespace()+"/"+obj.GetName(), obj)
	if err != nil {
		t.Fatal(err)
	}
	return item
}

// set puts data into a config map, created if need be.
func set(t testing.TB, c Collection, key string, data ...string) *Item {
	t.Helper()
	namespace, name, _ := strings.Cut(key, "/")
	item, err := c.Mutate(t.Context(), key, func(*Item) (Change, error) {
		return Change{Put: configMap(namespace, name, data...)}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return item
}

func remove(t testing.TB, c Collection, key string) *Item {
	t.Helper()
	item, err := c.Mutate(t.Context(), key, func(*Item) (Change, error) { return Change{Delete: true}, nil })
	if err != nil {
		t.Fatal(err)
	}
	return item
}

func rv(revision int64) string { return strconv.FormatInt(revision, 10) }

// next is the watch's next event as text.
func next(t testing.TB, w Watch) string {
	t.Helper()
	select {
	case e, ok := <-w.Events():
		if !ok {
			return "closed"
		}
		return describe(e)
	case <-time.After(30 * time.Second):
		t.Fatal("no event within 5 s")
		return ""
	}
}

func describe(e Event) string {
	switch e.Type {
	case Bookmark:
		if e.InitialEventsEnd {
			return "end"
		}
		return "bookmark"
	case Failed:
		return "failed: " + e.Err.Error()
	}
	kind := map[EventType]string{Added: "added", Modified: "modified", Deleted: "deleted"}[e.Type]
	v := ""
	if cm, ok := e.Item.Object.(*corev1.ConfigMap); ok && cm.Data["v"] != "" {
		v = "=" + cm.Data["v"]
	}
	return kind + " " + e.Item.Key + v
}

func quiet(t testing.TB, w Watch) {
	t.Helper()
	select {
	case e, ok := <-w.Events():
		if !ok {
			t.Fatal("the watch was closed")
		}
		t.Fatalf("unexpected event %s", describe(e))
	case <-time.After(50 * time.Millisecond):
	}
}

func TestCreateGetMutate(t *testing.T) {
	s := open(t, Config{})
	c := configMaps(s)
	ctx := t.Context()

	cm := configMap("ns", "a", "v", "1")
	created := create(t, c, cm)
	if cm.ResourceVersion != "" {
		t.Error("Create changed its argument")
	}
	got := created.Object.(*corev1.ConfigMap)
	if got.ResourceVersion != rv(created.Revision) || got.Kind != "ConfigMap" || got.APIVersion != "v1" || got.Data["v"] != "1" {
		t.Errorf("created: %+v", got)
	}
	if _, err := c.Create(ctx, "ns/a", cm); !errors.Is(err, ErrExists) {
		t.Errorf("creating twice: %v", err)
	}
	for _, version := range []string{"", "0", rv(created.Revision)} {
		item, err := c.Get(ctx, "ns/a", version)
		if err != nil || item != created {
			t.Errorf("get at %q: %v, %v; want the item that Create returned", version, item, err)
		}
	}
	if _, err := c.Get(ctx, "ns/b", ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("get of none: %v", err)
	}
	if _, err := c.Get(ctx, "ns/a", "x"); !errors.Is(err, ErrBadRevision) {
		t.Errorf("get at x: %v", err)
	}

	updated := set(t, c, "ns/a", "v", "2")
	if updated.Revision <= created.Revision {
		t.Errorf("revision %d after %d", updated.Revision, created.Revision)
	}
	if same := set(t, c, "ns/a", "v", "2"); same != updated {
		t.Errorf("a put of the same wrote revision %d after %d", same.Revision, updated.Revision)
	}
	if created.Object.(*corev1.ConfigMap).Data["v"] != "1" {
		t.Error("an update changed the old item")
	}

	if st := s.Stats(); st.Revision != updated.Revision || len(st.Collections) != 1 || st.Collections[0] != (CollectionStats{"/registry/configmaps/", 1, 0}) {
		t.Errorf("stats: %+v", st)
	}
	tomb := remove(t, c, "ns/a")
	if tomb.Revision <= updated.Revision || tomb.Object.GetResourceVersion() != rv(tomb.Revision) || tomb.Object.(*corev1.ConfigMap).Data["v"] != "2" {
		t.Errorf("deleted: %+v", tomb.Object)
	}
	if updated.Object.GetResourceVersion() != rv(updated.Revision) {
		t.Error("the delete changed the item")
	}
	if _, err := c.Get(ctx, "ns/a", ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("get after delete: %v", err)
	}
	// Deleting what is not there decides on nothing.
	if item, err := c.Mutate(ctx, "ns/a", func(current *Item) (Change, error) {
		if current != nil {
			t.Errorf("current is %v", current)
		}
		return Change{Delete: true}, nil
	}); err != nil || item != nil {
		t.Errorf("delete of none: %v, %v", item, err)
	}
}

func TestWatch(t *testing.T) {
	s := open(t, Config{})
	c := configMaps(s)
	ctx := t.Context()
	a := set(t, c, "ns/a", "v", "1")
	set(t, c, "other/x", "v", "1")

	watch := func(opts WatchOptions) Watch {
		t.Helper()
		w, err := c.Watch(ctx, opts)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	isOne := func(i *Item) bool { return i.Object.(*corev1.ConfigMap).Data["v"] == "1" }
	all := watch(WatchOptions{})
	after := watch(WatchOptions{ResourceVersion: rv(a.Revision)})
	ns := watch(WatchOptions{Namespace: "ns", ResourceVersion: "0"})
	one := watch(WatchOptions{Match: isOne, Namespace: "ns"})
	named := watch(WatchOptions{Name: "a"})
	both := watch(WatchOptions{Namespace: "ns", Name: "b"})
	initial := watch(WatchOptions{InitialEvents: true})
	now := watch(WatchOptions{FromNow: true})

	set(t, c, "ns/b", "v", "1")
	set(t, c, "ns/a", "v", "2")
	set(t, c, "ns/a", "v", "1")
	remove(t, c, "ns/b")
	remove(t, c, "other/x")

	for _, tt := range []struct {
		name string
		w    Watch
		want string
	}{
		{"all", all, "added ns/a=1, added other/x=1, added ns/b=1, modified ns/a=2, modified ns/a=1, deleted ns/b=1, deleted other/x=1"},
		{"after", after, "added other/x=1, added ns/b=1, modified ns/a=2, modified ns/a=1, deleted ns/b=1, deleted other/x=1"},
		{"ns", ns, "added ns/a=1, added ns/b=1, modified ns/a=2, modified ns/a=1, deleted ns/b=1"},
		{"one", one, "added ns/a=1, added ns/b=1, deleted ns/a=1, added ns/a=1, deleted ns/b=1"},
		{"named", named, "added ns/a=1, modified ns/a=2, modified ns/a=1"},
		{"both", both, "added ns/b=1, deleted ns/b=1"},
		{"initial", initial, "added ns/a=1, added other/x=1, end, added ns/b=1, modified ns/a=2, modified ns/a=1, deleted ns/b=1, deleted other/x=1"},
		{"now", now, "added ns/b=1, modified ns/a=2, modified ns/a=1, deleted ns/b=1, deleted other/x=1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for range strings.Split(tt.want, ", ") {
				got = append(got, next(t, tt.w))
			}
			if g := strings.Join(got, ", "); g != tt.want {
				t.Errorf("got  %s\nwant %s", g, tt.want)
			}
			quiet(t, tt.w)
		})
	}
}

func TestList(t *testing.T) {
	s := open(t, Config{})
	c := configMaps(s)
	ctx := t.Context()
	for i := range 10 {
		set(t, c, fmt.Sprintf("ns/%d", i), "v", "1")
		set(t, c, fmt.Sprintf("other/%d", i), "v", "1")
	}
	keys := func(opts ListOptions) string {
		t.Helper()
		l, err := c.List(ctx, opts)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, i := range l.Items {
			out = append(out, i.Key)
		}
		return strings.Join(out, " ")
	}
	if got := keys(ListOptions{Namespace: "ns"}); got != "ns/0 ns/1 ns/2 ns/3 ns/4 ns/5 ns/6 ns/7 ns/8 ns/9" {
		t.Error(got)
	}
	if got := keys(ListOptions{Namespace: "ns", Name: "3"}); got != "ns/3" {
		t.Error(got)
	}
	if got := keys(ListOptions{Name: "3"}); got != "ns/3 other/3" {
		t.Error(got)
	}
	// Pages hold together although the world moves on.
	var got []string
	opts := ListOptions{Limit: 3}
	var revision int64
	for {
		l, err := c.List(ctx, opts)
		if err != nil {
			t.Fatal(err)
		}
		if revision != 0 && l.Revision != revision {
			t.Errorf("revision %d, first page %d", l.Revision, revision)
		}
		revision = l.Revision
		for _, i := range l.Items {
			got = append(got, i.Key)
		}
		if rest := 20 - len(got); rest > 0 && (l.Remaining == nil || *l.Remaining != int64(rest)) {
			t.Errorf("%v remain, want %d", l.Remaining, rest)
		}
		remove(t, c, fmt.Sprintf("other/%d", len(got)/3))
		set(t, c, fmt.Sprintf("new/%d", len(got)), "v", "1")
		if l.Continue == "" {
			break
		}
		opts.Continue = l.Continue
	}
	if len(got) != 20 {
		t.Errorf("%d items: %v", len(got), got)
	}
}

func TestRestart(t *testing.T) {
	dir := t.TempDir()
	s, stop := openUntil(t, Config{DataDir: dir})
	if _, err := Open(t.Context(), Config{DataDir: dir}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("opening twice: %v", err)
	}
	written := set(t, configMaps(s), "ns/a", "v", "1")
	stop()
	s, stop = openUntil(t, Config{DataDir: dir})
	defer stop()
	item, err := configMaps(s).Get(t.Context(), "ns/a", "")
	if err != nil || item.Revision != written.Revision {
		t.Errorf("after a restart: %v, %v", item, err)
	}
	if again := set(t, configMaps(s), "ns/a", "v", "2"); again.Revision != written.Revision+1 {
		t.Errorf("revision %d follows %d", again.Revision, written.Revision)
	}
}

// When Run has returned nothing of the store is left running, whatever was going on.
func TestRunEndsEverything(t *testing.T) {
	before := runtime.NumGoroutine()
	s, stop := openUntil(t, Config{})
	c := configMaps(s)
	set(t, c, "ns/a", "v", "1")
	var watches []Watch
	for range 10 {
		w, err := c.Watch(context.Background(), WatchOptions{Bookmarks: true})
		if err != nil {
			t.Fatal(err)
		}
		watches = append(watches, w)
	}
	for i := range 3 * watchBuffer { // nobody reads: the pumps are at work
		set(t, c, "ns/a", "v", fmt.Sprint(i))
	}
	stop()
	for i, w := range watches {
		for range w.Events() { // ends, or the test does
		}
		if i == 0 {
			if _, err := c.Watch(context.Background(), WatchOptions{}); !errors.Is(err, ErrUnavailable) {
				t.Errorf("watching after the end: %v", err)
			}
		}
	}
	if _, err := c.Get(t.Context(), "ns/a", ""); !errors.Is(err, ErrUnavailable) {
		t.Errorf("reading after the end: %v", err)
	}
	if _, err := c.Create(t.Context(), "ns/b", configMap("ns", "b")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("writing after the end: %v", err)
	}
	for deadline := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// TestSize: a collection knows how much it holds, whether it saw it come or read it from etcd.
func TestSize(t *testing.T) {
	local, other := openShared(t, Config{})
	c := configMaps(local)
	size := func(c *collection) [2]int64 {
		t.Helper()
		list, err := c.List(t.Context(), ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want := [2]int64{int64(len(list.Items))}
		for _, item := range list.Items {
			want[1] += int64(item.size)
		}
		objects, bytes := c.Size()
		if got := [2]int64{objects, bytes}; got != want {
			t.Errorf("%d objects of %d bytes, counted as %d", want[0], want[1], got)
		}
		return want
	}
	size(c)
	for i := range 4 {
		set(t, c, fmt.Sprintf("ns/%d", i), "v", strings.Repeat("x", 100*i))
	}
	size(c)
	set(t, c, "ns/3", "v", "short")
	remove(t, c, "ns/1")
	if all := size(c); all[0] != 3 || size(configMaps(other)) != all {
		t.Errorf("%v", all)
	}
	c.s.mu.Lock()
	c.unloadLocked()
	c.s.mu.Unlock()
	if objects, bytes := c.Size(); objects != 0 || bytes != 0 {
		t.Errorf("%d objects of %d bytes after an unload", objects, bytes)
	}
	size(c)
}
