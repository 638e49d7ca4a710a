// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// File is one file of a volume made from objects.
type File struct {
	Data []byte
	Mode fs.FileMode
	UID  *int64 // owner, if it is not root
}

const (
	dataLink    = "..data"
	dataLinkTmp = "..data_tmp"
)

// A writer replaces the content of a directory as one step.
type writer struct {
	dir string
	// own gives a new data directory its group and modes before anybody sees it; it may be nil.
	own func(dir string) error
	// step, in tests, is called before each step that a crash could separate from the next.
	step func(name string) error
}

func (w writer) at(step string) error {
	if w.step != nil {
		return w.step(step)
	}
	return nil
}

// write makes files the content of the directory. It returns false when they already were. Keys are slash-separated relative paths.
func (w writer) write(files map[string]File) (changed bool, err error) {
	if err := checkPaths(files); err != nil {
		return false, err
	}
	current, err := os.Readlink(filepath.Join(w.dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if current != "" && w.same(filepath.Join(w.dir, current), files) {
		return false, w.tidy(current, files)
	}
	name := time.Now().UTC().Format("..2006_01_02_15_04_05.000000000")
	next, err := os.MkdirTemp(w.dir, name)
	if err != nil {
		return false, err
	}
	if err := w.fill(next, files); err != nil {
		return false, errors.Join(err, os.RemoveAll(next))
	}
	if err := w.at("filled"); err != nil {
		return false, err
	}
	if err := w.link(files); err != nil {
		return false, err
	}
	if err := w.at("linked"); err != nil {
		return false, err
	}
	tmp := filepath.Join(w.dir, dataLinkTmp)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := os.Symlink(filepath.Base(next), tmp); err != nil {
		return false, err
	}
	if err := w.at("prepared"); err != nil {
		return false, err
	}
	if err := os.Rename(tmp, filepath.Join(w.dir, dataLink)); err != nil {
		return false, err
	}
	if err := w.at("published"); err != nil {
		return true, err
	}
	return true, w.tidy(filepath.Base(next), files)
}

// checkPaths refuses keys that would leave the directory or collide with the writer's own names.
func checkPaths(files map[string]File) error {
	for p := range files {
		if p == "" || !filepath.IsLocal(p) || filepath.Clean(p) != p || strings.HasPrefix(p, "..") {
			return fmt.Errorf("invalid path %q: must be a relative path without '..'", p)
		}
	}
	return nil
}

func (w writer) fill(dir string, files map[string]File) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for p, f := range files {
		full := filepath.Join(dir, p)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(full, f.Data, f.Mode); err != nil {
			return err
		}
		if err := os.Chmod(full, f.Mode); err != nil { // the umask took its part
			return err
		}
		if f.UID != nil {
			if err := os.Chown(full, int(*f.UID), -1); err != nil {
				return err
			}
		}
	}
	if w.own != nil {
		return w.own(dir)
	}
	return nil
}

// roots are the names that a user sees at the top of the volume.
func roots(files map[string]File) map[string]bool {
	m := map[string]bool{}
	for p := range files {
		top, _, _ := strings.Cut(p, "/")
		m[top] = true
	}
	return m
}

func (w writer) link(files map[string]File) error {
	for top := range roots(files) {
		at, to := filepath.Join(w.dir, top), filepath.Join(dataLink, top)
		if was, err := os.Readlink(at); err == nil && was == to {
			continue
		}
		if err := os.RemoveAll(at); err != nil {
			return err
		}
		if err := os.Symlink(to, at); err != nil {
			return err
		}
	}
	return nil
}

// tidy removes what a crash or an earlier content left: old data directories, links without a target, the temporary link.
func (w writer) tidy(current string, files map[string]File) error {
	if err := w.link(files); err != nil {
		return err
	}
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		return err
	}
	keep := roots(files)
	var errs []error
	for _, e := range entries {
		n := e.Name()
		if n == dataLink || n == current || keep[n] {
			continue
		}
		if strings.HasPrefix(n, "..") || e.Type()&fs.ModeSymlink != 0 {
			errs = append(errs, os.RemoveAll(filepath.Join(w.dir, n)))
		}
	}
	return errors.Join(errs...)
}

// same compares a data directory with files, content and modes.
func (w writer) same(dir string, files map[string]File) bool {
	var found []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		f, ok := files[rel]
		if !ok {
			return errors.New("superfluous")
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if !bytes.Equal(data, f.Data) {
			return errors.New("differs")
		}
		found = append(found, rel)
		return nil
	})
	slices.Sort(found)
	return err == nil && slices.Equal(found, slices.Sorted(maps.Keys(files)))
}
