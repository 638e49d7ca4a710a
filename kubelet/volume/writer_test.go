// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// content reads what a container would see.
func visible(t interface{ Fatal(...any) }, dir string) map[string]string {
	out := map[string]string{}
	var walk func(at, rel string)
	walk = func(at, rel string) {
		entries, err := os.ReadDir(at)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if rel == "" && strings.HasPrefix(e.Name(), "..") {
				continue
			}
			full := filepath.Join(at, e.Name())
			st, err := os.Stat(full)
			if err != nil {
				t.Fatal("dangling:", err)
			}
			if st.IsDir() {
				walk(full, filepath.Join(rel, e.Name()))
				continue
			}
			data, err := os.ReadFile(full)
			if err != nil {
				t.Fatal(err)
			}
			out[filepath.Join(rel, e.Name())] = string(data)
		}
	}
	walk(dir, "")
	return out
}

func files(m map[string]string) map[string]File {
	out := map[string]File{}
	for k, v := range m {
		out[k] = File{Data: []byte(v), Mode: 0o644}
	}
	return out
}

func TestWriter(t *testing.T) {
	dir := t.TempDir()
	w := writer{dir: dir}
	a := map[string]string{"x": "1", "sub/y": "2"}
	if changed, err := w.write(files(a)); err != nil || !changed {
		t.Fatal(changed, err)
	}
	if got := visible(t, dir); !maps.Equal(got, a) {
		t.Fatal(got)
	}
	was, _ := os.Readlink(filepath.Join(dir, dataLink))
	if changed, err := w.write(files(a)); err != nil || changed {
		t.Fatal("the same content was written again", changed, err)
	}
	if now, _ := os.Readlink(filepath.Join(dir, dataLink)); now != was {
		t.Error("data directory changed without a change")
	}
	b := map[string]string{"x": "3", "z": "4"}
	if _, err := w.write(files(b)); err != nil {
		t.Fatal(err)
	}
	if got := visible(t, dir); !maps.Equal(got, b) {
		t.Fatal(got)
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 4 { // ..data, one data directory, x, z
		t.Errorf("left %v", entries)
	}
	if _, err := w.write(nil); err != nil {
		t.Fatal(err)
	}
	if got := visible(t, dir); len(got) != 0 {
		t.Error(got)
	}
}

func TestWriterModes(t *testing.T) {
	dir := t.TempDir()
	uid := int64(1234)
	if _, err := (writer{dir: dir}).write(map[string]File{"k": {Data: []byte("v"), Mode: 0o400, UID: &uid}, "s": {Mode: fileMode(0o4755)}}); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(dir, "k"))
	if err != nil || st.Mode() != 0o400 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if st, err := os.Stat(filepath.Join(dir, "s")); err != nil || st.Mode() != 0o755|fs.ModeSetuid {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

func TestWriterRefusesPaths(t *testing.T) {
	for _, p := range []string{"", "/abs", "../x", "a/../../x", "..data", "a//b", "./a", ".."} {
		if _, err := (writer{dir: t.TempDir()}).write(map[string]File{p: {}}); err == nil {
			t.Errorf("%q was accepted", p)
		}
	}
}

// TestWriterCrash ends a write between any two steps: a reader sees the old content or the new one, and the next write repairs everything.
func TestWriterCrash(t *testing.T) {
	crash := errors.New("crash")
	old, next := map[string]string{"a": "1", "b/c": "2"}, map[string]string{"a": "3", "d": "4"}
	for _, step := range []string{"filled", "linked", "prepared", "published"} {
		t.Run(step, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := (writer{dir: dir}).write(files(old)); err != nil {
				t.Fatal(err)
			}
			w := writer{dir: dir, step: func(s string) error {
				if s == step {
					return crash
				}
				return nil
			}}
			if _, err := w.write(files(next)); !errors.Is(err, crash) {
				t.Fatal(err)
			}
			// What a name shows is of one content: a link made early may dangle, but never mixes.
			a, err := os.ReadFile(filepath.Join(dir, "a"))
			if err != nil {
				t.Fatal(err)
			}
			_, errD := os.ReadFile(filepath.Join(dir, "d"))
			if isNew := string(a) == "3"; isNew != (errD == nil) {
				t.Errorf("mixed content: a=%q, d: %v", a, errD)
			}
			for _, content := range []map[string]string{next, old} {
				if _, err := (writer{dir: dir}).write(files(content)); err != nil {
					t.Fatal(err)
				}
				if got := visible(t, dir); !maps.Equal(got, content) {
					t.Errorf("after repair: %v", got)
				}
				entries, _ := os.ReadDir(dir)
				if want := 2 + len(roots(files(content))); len(entries) != want {
					t.Errorf("left %v", entries)
				}
			}
		})
	}
}

// TestWriterConverges writes contents one after the other, some of them cut short.
func TestWriterConverges(t *testing.T) {
	steps := []string{"", "filled", "linked", "prepared", "published"}
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp("", "writer")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		gen := rapid.MapOfN(rapid.SampledFrom([]string{"a", "b", "c/d", "c/e", "f/g/h"}), rapid.StringMatching(`[a-c]{0,2}`), 0, 5)
		for range rapid.IntRange(1, 5).Draw(rt, "writes") {
			at := rapid.SampledFrom(steps).Draw(rt, "crash")
			w := writer{dir: dir, step: func(s string) error {
				if s == at {
					return errors.New("crash")
				}
				return nil
			}}
			w.write(files(gen.Draw(rt, "content"))) // may be cut short
		}
		last := gen.Draw(rt, "last")
		if _, err := (writer{dir: dir}).write(files(last)); err != nil {
			rt.Fatal(err)
		}
		if got := visible(rt, dir); !maps.Equal(got, last) {
			rt.Fatalf("%v, want %v", got, last)
		}
	})
}

func TestKeysOrder(t *testing.T) {
	r := roots(files(map[string]string{"a/b": "", "a/c": "", "d": ""}))
	if got := slices.Sorted(maps.Keys(r)); !slices.Equal(got, []string{"a", "d"}) {
		t.Error(got)
	}
}
