package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestCompaction(t *testing.T) {
	dir := t.TempDir()
	s, stop := openUntil(t, Config{DataDir: dir})
	c := configMaps(s)
	first := set(t, c, "ns/a", "v", "1")
	for i := range 10 {
		set(t, c, fmt.Sprintf("ns/%d", i), "v", "1")
	}
	page, err := c.List(t.Context(), ListOptions{Limit: 3})
	if err != nil {
		t.Fatal(err)
	}
	last := set(t, c, "ns/z", "v", "1")
	stop() // the cache's own history goes with it
	s, stop = openUntil(t, Config{DataDir: dir})
	defer stop()
	c = configMaps(s)
	if err := s.compactTo(t.Context(), last.Revision); err != nil {
		t.Fatal(err)
	}

	if _, err := c.Watch(t.Context(), WatchOptions{ResourceVersion: rv(first.Revision)}); !errors.Is(err, ErrCompacted) {
		t.Errorf("watching from a compacted revision: %v", err)
	}
	if _, err := c.List(t.Context(), ListOptions{ResourceVersion: rv(first.Revision), ResourceVersionMatch: metav1.ResourceVersionMatchExact}); !errors.Is(err, ErrCompacted) {
		t.Errorf("listing a compacted revision: %v", err)
	}
	l, err := c.List(t.Context(), ListOptions{Limit: 3, Continue: page.Continue})
	if !errors.Is(err, ErrCompacted) || l == nil || l.Inconsistent == "" {
		t.Fatalf("continuing at a compacted revision: %+v, %v", l, err)
	}
	l, err = c.List(t.Context(), ListOptions{Continue: l.Inconsistent})
	if err != nil || len(l.Items) != 9 || l.Items[0].Key != "ns/3" || l.Revision < last.Revision {
		t.Errorf("continuing at the newest: %+v, %v", l, err)
	}
}

// TestCompactionOfQuietCollection: a token expires although nothing has changed in the collection, and the cache still
// knows the state it was made at.
func TestCompactionOfQuietCollection(t *testing.T) {
	s := open(t, Config{})
	c := configMaps(s)
	for i := range 4 {
		set(t, c, fmt.Sprintf("ns/%d", i), "v", "1")
	}
	page, err := c.List(t.Context(), ListOptions{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	if *page.Remaining != 3 {
		t.Errorf("%d remain, want 3", *page.Remaining)
	}
	other := s.Collection(CollectionConfig{Prefix: "/registry/other/", Codec: c.cfg.Codec})
	item, err := other.Create(t.Context(), "b", configMap("", "b"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.compactTo(t.Context(), item.Revision); err != nil {
		t.Fatal(err)
	}
	l, err := c.List(t.Context(), ListOptions{Limit: 1, Continue: page.Continue})
	if !errors.Is(err, ErrCompacted) {
		t.Fatalf("continuing at a compacted revision: %+v, %v", l, err)
	}
	l, err = c.List(t.Context(), ListOptions{Limit: 1, Continue: l.Inconsistent})
	if err != nil || len(l.Items) != 1 || l.Items[0].Key != "ns/1" || *l.Remaining != 2 || l.Revision < item.Revision {
		t.Errorf("continuing at the newest: %+v, %v", l, err)
	}
	if _, err := c.Watch(t.Context(), WatchOptions{ResourceVersion: rv(page.Revision)}); err != nil {
		t.Errorf("a watch goes on from what the cache knows: %v", err)
	}
}

func TestRevisions(t *testing.T) {
	s := open(t, Config{})
	c := configMaps(s)
	item := set(t, c, "ns/a", "v", "1")
	future := rv(item.Revision + 100)
	start := time.Now()
	if _, err := c.Get(t.Context(), "ns/a", future); !errors.Is(err, ErrFuture) {
		t.Errorf("get in the future: %v", err)
	}
	if d := time.Since(start); d < freshWait || d > 5*freshWait {
		t.Errorf("waited %v", d)
	}
	if _, err := c.Watch(t.Context(), WatchOptions{ResourceVersion: future}); !errors.Is(err, ErrFuture) {
		t.Errorf("watch from the future: %v", err)
	}
	// A revision that comes to be while somebody waits for it.
	go func() {
		time.Sleep(50 * time.Millisecond)
		s.Collection(CollectionConfig{Prefix: "/registry/other/", Codec: c.cfg.Codec}).Create(context.Background(), "b", configMap("", "b"))
	}()
	if l, err := c.List(t.Context(), ListOptions{ResourceVersion: rv(item.Revision + 1)}); err != nil || l.Revision != item.Revision+1 {
		t.Errorf("list at the next revision: %+v, %v", l, err)
	}
	for _, token := range []string{"x", "e30", hex.EncodeToString([]byte("{}"))} {
		if _, err := c.List(t.Context(), ListOptions{Continue: token}); !errors.Is(err, ErrBadContinue) {
			t.Errorf("continue %q: %v", token, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Get(ctx, "ns/a", future); !errors.Is(err, context.Canceled) {
		t.Errorf("get with a dead context: %v", err)
	}
}

func TestMutate(t *testing.T) {
	s := open(t, Config{})
	c := configMaps(s)
	set(t, c, "ns/a", "v", "1")

	mine := errors.New("mine")
	calls := 0
	if _, err := c.Mutate(t.Context(), "ns/a", func(*Item) (Change, error) { calls++; return Change{}, mine }); err != mine || calls != 1 {
		t.Errorf("%v after %d calls, want the error of decide as it is", err, calls)
	}
	// Another writer comes in between: decide is asked again with what is there now.
	var seen []string
	item, err := c.Mutate(t.Context(), "ns/a", func(current *Item) (Change, error) {
		v := current.Object.(*corev1.ConfigMap).Data["v"]
		seen = append(seen, v)
		if len(seen) == 1 {
			set(t, c, "ns/a", "v", "2")
		}
		return Change{Put: configMap("ns", "a", "v", v+"+")}, nil
	})
	if err != nil || item.Object.(*corev1.ConfigMap).Data["v"] != "2+" || strings.Join(seen, " ") != "1 2" {
		t.Errorf("%v, %v, seen %v", item, err, seen)
	}
	// The same for a delete, and a key that vanishes.
	seen = nil
	item, err = c.Mutate(t.Context(), "ns/a", func(current *Item) (Change, error) {
		if current == nil {
			seen = append(seen, "none")
			return Change{Put: configMap("ns", "a", "v", "new")}, nil
		}
		seen = append(seen, current.Object.(*corev1.ConfigMap).Data["v"])
		remove(t, c, "ns/a")
		return Change{Delete: true}, nil
	})
	if err != nil || item.Object.(*corev1.ConfigMap).Data["v"] != "new" || strings.Join(seen, " ") != "2+ none" {
		t.Errorf("%v, %v, seen %v", item, err, seen)
	}
	big := configMap("ns", "a", "v", strings.Repeat("x", maxObjectSize))
	if _, err := c.Mutate(t.Context(), "ns/a", func(*Item) (Change, error) { return Change{Put: big}, nil }); !errors.Is(err, ErrTooLarge) {
		t.Errorf("an object that is too large: %v", err)
	}
	fits := configMap("ns", "b", "v", strings.Repeat("x", maxObjectSize-200))
	if _, err := c.Create(t.Context(), "ns/b", fits); err != nil {
		t.Errorf("an object that just fits: %v", err)
	}
}

// A cached state that is behind etcd is never the last word.
func TestMutateStale(t *testing.T) {
	local, other := openShared(t, Config{})
	c, o := configMaps(local), configMaps(other)
	set(t, c, "ns/a", "v", "1")
	for i := range 50 {
		v := fmt.Sprint(i)
		set(t, c, "ns/a", "v", v)
		_, err := o.Mutate(t.Context(), "ns/a", func(current *Item) (Change, error) {
			if got := current.Object.(*corev1.ConfigMap).Data["v"]; got != v {
				return Change{}, fmt.Errorf("decided on %q after %q was written", got, v)
			}
			return Change{}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestTTL(t *testing.T) {
	t.Parallel()
	s := open(t, Config{})
	c := s.Collection(CollectionConfig{
		Prefix: "/registry/events/",
		Codec:  upstreamCodec(corev1.SchemeGroupVersion.WithKind("Event")),
		TTL:    8 * time.Second, // no lease of this etcd is shorter
	})
	w, err := c.Watch(t.Context(), WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for _, name := range []string{"a", "b"} {
		if _, err := c.Create(t.Context(), "ns/"+name, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}); err != nil {
			t.Fatal(err)
		}
		if got := next(t, w); got != "added ns/"+name {
			t.Error(got)
		}
	}
	gone := map[string]bool{}
	for len(gone) < 2 {
		select {
		case e := <-w.Events():
			gone[describe(e)] = true
			if e.Item.Object.GetResourceVersion() != rv(e.Revision) {
				t.Errorf("deleted at %d as %s", e.Revision, e.Item.Object.GetResourceVersion())
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the objects did not expire")
		}
	}
	if !gone["deleted ns/a"] || !gone["deleted ns/b"] {
		t.Errorf("got %v", gone)
	}
	if d := time.Since(start); d < 8*time.Second {
		t.Errorf("expired after %v", d)
	}
}

func TestSlowWatcher(t *testing.T) {
	s := open(t, Config{})
	c := configMaps(s)
	slow, err := c.Watch(t.Context(), WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	quick, err := c.Watch(t.Context(), WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// One that pauses finds everything, in order, well beyond its channel.
	const n = 5 * watchBuffer
	for i := range n {
		set(t, c, "ns/a", "v", fmt.Sprint(i))
	}
	for i, w := range []Watch{quick, slow} {
		for j := range n {
			want := fmt.Sprintf("modified ns/a=%d", j)
			if j == 0 {
				want = "added ns/a=0"
			}
			if got := next(t, w); got != want {
				t.Fatalf("watcher %d: got %s, want %s", i, got, want)
			}
		}
	}
	// One that has lost its place in the history is closed.
	for i := range n {
		set(t, c, "ns/a", "v", fmt.Sprint(i))
		s.mu.Lock()
		c.history.trim(time.Now().Unix() + 1000)
		s.mu.Unlock()
		if got := next(t, quick); got != fmt.Sprintf("modified ns/a=%d", i) {
			t.Fatal(got)
		}
	}
	last := ""
	for e := range slow.Events() {
		last = describe(e)
	}
	if last == fmt.Sprintf("modified ns/a=%d", n-1) {
		t.Error("the slow watcher has seen everything")
	}
	if n := c.watches.count.Load(); n != 1 {
		t.Errorf("%d watchers are left", n)
	}
}

func TestBookmarks(t *testing.T) {
	s := open(t, Config{})
	c := configMaps(s)
	set(t, c, "ns/a", "v", "1")
	w, err := c.Watch(t.Context(), WatchOptions{FromNow: true, Bookmarks: true, Namespace: "none"})
	if err != nil {
		t.Fatal(err)
	}
	without, err := c.Watch(t.Context(), WatchOptions{FromNow: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second+300*time.Millisecond)
	defer cancel()
	ending, err := c.Watch(ctx, WatchOptions{FromNow: true, Bookmarks: true, Namespace: "none"})
	if err != nil {
		t.Fatal(err)
	}
	item := set(t, c, "ns/b", "v", "1")
	if got := next(t, without); got != "added ns/b=1" { // all is dispatched
		t.Fatal(got)
	}
	c.watches.bookmark()
	for name, w := range map[string]Watch{"w": w, "ending": ending} {
		e := <-w.Events()
		if e.Type != Bookmark || e.Revision != item.Revision || e.InitialEventsEnd {
			t.Errorf("%s: %+v, want a bookmark at %d", name, e, item.Revision)
		}
	}
	c.watches.bookmark() // nothing new
	quiet(t, w)
	quiet(t, without)
	item = set(t, c, "ns/c", "v", "1")
	if e := <-ending.Events(); e.Type != Bookmark || e.Revision != item.Revision {
		t.Errorf("before the end: %+v, want a bookmark at %d", e, item.Revision)
	}
	if got := next(t, ending); got != "closed" {
		t.Error(got)
	}
}

// A full etcd makes room by itself: history goes, writes come back, nothing that is there is lost.
func TestQuota(t *testing.T) {
	s := open(t, Config{Quota: 3 << 20})
	c := configMaps(s)
	noise := func() string {
		b := make([]byte, 50<<10)
		rand.Read(b)
		return hex.EncodeToString(b)
	}
	set(t, c, "ns/kept", "v", "1")
	refused, after := 0, 0 // writes that were refused, and that went through since
	for deadline := time.Now().Add(time.Minute); after < 20; {
		_, err := c.Mutate(t.Context(), "ns/a", func(*Item) (Change, error) { return Change{Put: configMap("ns", "a", "v", noise())}, nil })
		switch {
		case time.Now().After(deadline):
			t.Fatalf("%d writes were refused, %d went through after the last: %v", refused, after, err)
		case err == nil && refused > 0:
			after++
		case err == nil:
		case errors.Is(err, ErrUnavailable):
			refused++
			after = 0
			time.Sleep(20 * time.Millisecond)
		default:
			t.Fatal(err)
		}
	}
	if _, err := c.Get(t.Context(), "ns/kept", ""); err != nil {
		t.Error(err)
	}
	if err := s.Healthy(t.Context()); err != nil {
		t.Errorf("healthy again: %v", err)
	}
}

// Without etcd writes fail at once, reads that may be old go on, and all is well when it is back.
func TestEtcdAway(t *testing.T) {
	sockets, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(sockets)
	cfg := Config{DataDir: t.TempDir(), Socket: filepath.Join(sockets, "etcd")}
	_, stop := openUntil(t, cfg)
	s := open(t, Config{Endpoints: []string{"unix://" + cfg.Socket}})
	c := configMaps(s)
	item := set(t, c, "ns/a", "v", "1")
	w, err := c.Watch(t.Context(), WatchOptions{ResourceVersion: rv(item.Revision)})
	if err != nil {
		t.Fatal(err)
	}
	stop()

	start := time.Now()
	if _, err := c.Create(t.Context(), "ns/b", configMap("ns", "b")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("create: %v", err)
	}
	if _, err := c.Get(t.Context(), "ns/a", ""); !errors.Is(err, ErrUnavailable) {
		t.Errorf("consistent get: %v", err)
	}
	if err := s.Healthy(t.Context()); err == nil {
		t.Error("healthy")
	}
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("failing took %v", d)
	}
	for _, version := range []string{"0", rv(item.Revision)} {
		if got, err := c.Get(t.Context(), "ns/a", version); err != nil || got != item {
			t.Errorf("get at %s: %v, %v", version, got, err)
		}
	}

	local, stop := openUntil(t, cfg)
	defer stop()
	set(t, configMaps(local), "ns/c", "v", "1")
	deadline := time.Now().Add(30 * time.Second)
	for {
		_, err := c.Create(t.Context(), "ns/d", configMap("ns", "d"))
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	for _, want := range []string{"added ns/c=1", "added ns/d"} {
		if got := next(t, w); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// flip is an encryption that one can read in a failure.
type flip struct{ key byte }

func (f *flip) ToStorage(key string, plain []byte) ([]byte, error) {
	out := []byte{f.key}
	for _, b := range plain {
		out = append(out, b^f.key)
	}
	return out, nil
}

func (f *flip) FromStorage(key string, stored []byte) ([]byte, bool, error) {
	if len(stored) == 0 || stored[0] == 'k' {
		return nil, false, errors.New("not encrypted")
	}
	var out []byte
	for _, b := range stored[1:] {
		out = append(out, b^stored[0])
	}
	return out, stored[0] != f.key, nil
}

func TestTransformer(t *testing.T) {
	dir := t.TempDir()
	secrets := func(s *Store, key byte) *collection {
		cfg := configMaps(s).cfg
		cfg.Prefix, cfg.Transformer = "/registry/secrets/", &flip{key}
		return s.Collection(cfg).(*collection)
	}
	s, stop := openUntil(t, Config{DataDir: dir})
	c := secrets(s, 1)
	a := set(t, c, "ns/a", "v", "1")
	if set(t, c, "ns/a", "v", "1") != a {
		t.Error("a put of the same was written")
	}
	r, err := s.etcd.Range(t.Context(), keyRange(c.cfg.Prefix, c.cfg.Prefix, 0, 0))
	if err != nil || len(r.Kvs) != 1 || bytes.Contains(r.Kvs[0].Value, []byte("ConfigMap")) {
		t.Errorf("etcd holds %q, %v", r.Kvs, err)
	}
	stop()
	s, stop = openUntil(t, Config{DataDir: dir})
	defer stop()
	c = secrets(s, 2)
	if item, err := c.Get(t.Context(), "ns/a", ""); err != nil || item.Object.(*corev1.ConfigMap).Data["v"] != "1" {
		t.Fatal(item, err)
	}
	b := set(t, c, "ns/a", "v", "1")
	if b.Revision == a.Revision {
		t.Error("a put of the same under a new key was not written")
	}
	if set(t, c, "ns/a", "v", "1").Revision != b.Revision {
		t.Error("and then it should not be")
	}
}

// An object that cannot be read is named in the error of those who would need it, and in the way of nobody else.
func TestUnreadable(t *testing.T) {
	s := open(t, Config{})
	c := configMaps(s)
	a := set(t, c, "ns/a", "v", "1")
	w, err := c.Watch(t.Context(), WatchOptions{ResourceVersion: rv(a.Revision)})
	if err != nil {
		t.Fatal(err)
	}
	put := func(key, value string) {
		t.Helper()
		if _, err := s.etcd.Txn(t.Context(), putTxn(key, value)); err != nil {
			t.Fatal(err)
		}
	}
	put("/registry/configmaps/ns/a", "nonsense")
	if got := next(t, w); got != "deleted ns/a=1" {
		t.Error(got)
	}
	for name, err := range map[string]error{
		"get":  second(c.Get(t.Context(), "ns/a", "")),
		"list": second(c.List(t.Context(), ListOptions{})),
	} {
		if err == nil || !strings.Contains(err.Error(), "/registry/configmaps/ns/a") {
			t.Errorf("%s: %v", name, err)
		}
	}
	set(t, c, "ns/b", "v", "1")
	if got := next(t, w); got != "added ns/b=1" {
		t.Error(got)
	}
	data, err := c.cfg.Codec.Encode(configMap("ns", "a", "v", "2"))
	if err != nil {
		t.Fatal(err)
	}
	put("/registry/configmaps/ns/a", string(data))
	if got := next(t, w); got != "added ns/a=2" {
		t.Error(got)
	}
	if l, err := c.List(t.Context(), ListOptions{}); err != nil || len(l.Items) != 2 {
		t.Errorf("list: %v, %v", l, err)
	}
}

func putTxn(key, value string) *etcdserverpb.TxnRequest {
	return &etcdserverpb.TxnRequest{Success: []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestPut{
		RequestPut: &etcdserverpb.PutRequest{Key: []byte(key), Value: []byte(value)},
	}}}}
}

func second[T any](_ T, err error) error { return err }
