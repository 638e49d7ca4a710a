package roundtrip

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
)

// perKind is how many objects of each kind go each way.
const perKind = 20

// TestMiniToUpstream: kube-apiserver finds what mini has written, under the key and in the version it uses itself; it
// reads the object that mini serves, and would write the same bytes; and mini reads what it writes.
func TestMiniToUpstream(t *testing.T) {
	m, u := newMini(t), must(newUpstream())(t)
	examples := m.examples(t, perKind)
	lost := &ledger{newer, map[string]bool{}}
	back := make([]*object, len(examples))
	seen := coverage{}
	each(t, examples, func(t *testing.T, i int, o *object) {
		s := must(u.storage(o))(t)
		name, namespace := names(t, o.JSON)
		if want := s.key(o, namespace, name); o.Key != want {
			t.Errorf("mini writes to %s, upstream to %s", o.Key, want)
		}
		served, again, err := s.read(o.Stored)
		if err != nil {
			t.Fatalf("upstream cannot read it: %v", err)
		}
		if mini, upstream := must(form(o.Stored))(t), must(form(again))(t); mini != upstream {
			t.Errorf("mini writes %s, upstream %s", mini, upstream)
		}
		seen.add(t, s, o.Kind, served)
		unknown, known := lost.remove(must(differences(o.Kind, o.JSON, served))(t))
		for _, d := range unknown {
			t.Errorf("read by upstream, %s", d.text)
		}
		if !known && !bytes.Equal(again, o.Stored) {
			t.Errorf("mini's bytes are not upstream's: %s", apart(o.Stored, again))
		}
		next := *o
		next.Stored, next.JSON = again, served
		back[i] = &next
	})
	if t.Failed() {
		return
	}
	read := m.decode(t, back)
	t.Run("back", func(t *testing.T) {
		each(t, read, func(t *testing.T, i int, o *object) { same(t, back[i], o, lost) })
	})
	lost.check(t)
	seen.check(t)
	t.Logf("%d objects of %d kinds, %d fields", len(examples), len(examples)/perKind, len(seen))
}

// TestUpstreamToMini: mini reads what kube-apiserver has written, serves the same object, and would write the same bytes.
func TestUpstreamToMini(t *testing.T) {
	m, u := newMini(t), must(newUpstream())(t)
	var written []*object
	for _, kind := range m.examples(t, 1) {
		s := must(u.storage(kind))(t)
		for i := range perKind {
			o := *kind
			stored := must(s.example(kind, i))(t)
			var err error
			if o.JSON, o.Stored, err = s.read(stored); err != nil {
				t.Fatalf("%s: %v", o.id(), err)
			}
			written = append(written, &o)
		}
	}
	read := m.decode(t, written)
	lost := &ledger{older, map[string]bool{}}
	each(t, read, func(t *testing.T, i int, o *object) { same(t, written[i], o, lost) })
	lost.check(t)
	t.Logf("%d objects of %d kinds", len(written), len(written)/perKind)
}

// same wants mini to have understood the object and to write the same bytes for it.
func same(t *testing.T, written, read *object, lost *ledger) {
	if read.Error != "" {
		t.Fatalf("mini cannot read it: %s", read.Error)
	}
	unknown, known := lost.remove(must(differences(written.Kind, written.JSON, read.JSON))(t))
	for _, d := range unknown {
		t.Errorf("read by mini, %s", d.text)
	}
	if !known && !bytes.Equal(written.Stored, read.Stored) {
		t.Errorf("mini would write other bytes than upstream: %s", apart(written.Stored, read.Stored))
	}
}

// apart shows where two encodings part.
func apart(a, b []byte) string {
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	from := max(0, i-100)
	return fmt.Sprintf("at %d\n%q\n%q", i, a[from:min(len(a), i+100)], b[from:min(len(b), i+100)])
}

// each runs f for the objects, with one subtest a kind.
func each(t *testing.T, objects []*object, f func(t *testing.T, i int, o *object)) {
	for from := 0; from < len(objects); {
		to := from
		for to < len(objects) && objects[to].id() == objects[from].id() {
			to++
		}
		t.Run(objects[from].id(), func(t *testing.T) {
			for i := from; i < to && !t.Failed(); i++ {
				f(t, i, objects[i])
			}
		})
		from = to
	}
}

func names(t *testing.T, object []byte) (name, namespace string) {
	var o struct {
		Metadata struct{ Name, Namespace string }
	}
	if err := json.Unmarshal(object, &o); err != nil {
		t.Fatal(err)
	}
	return o.Metadata.Name, o.Metadata.Namespace
}

// must fails the test with the error of a call.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
