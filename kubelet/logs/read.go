// SPDX-License-Identifier: Apache-2.0

package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Options say what of a log is wanted. They are the API's PodLogOptions.
type Options struct {
	Tail       int64 // the last lines; negative: all
	Since      time.Time
	Bytes      int64 // at most so many; negative: all
	Timestamps bool
	Stdout     bool
	Stderr     bool
	Follow     bool
	// Ended is closed when the container writes no more; a follower then ends at the end of the file. Nil: only ctx ends it.
	Ended <-chan struct{}
}

// maxLine is the longest line of a log file that is read as one; the runtime splits lines far below that.
const maxLine = 1 << 20

// Read writes the log at path to w as opts ask. An absent file is fs.ErrNotExist.
func Read(ctx context.Context, path string, opts Options, w io.Writer) error {
	if !opts.Stdout && !opts.Stderr {
		opts.Stdout, opts.Stderr = true, true
	}
	out := &writer{w: w, opts: opts, left: opts.Bytes, stamp: true}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { f.Close() }()
	var watch *watcher
	if opts.Follow {
		// Before the first byte is read, so that nothing written later is missed.
		if watch, err = newWatcher(filepath.Dir(path)); err != nil {
			return err
		}
		defer watch.close()
	}
	if err := seekTail(f, opts.Tail); err != nil {
		return err
	}
	r := bufio.NewReaderSize(f, 64<<10)
	var pending []byte
	ended := opts.Ended
	last := false // what Ended promised was read once more
	for {
		line, err := r.ReadBytes('\n')
		pending = append(pending, line...)
		if err == nil || len(pending) > maxLine {
			if done, err := out.line(pending); done || err != nil {
				return err
			}
			pending = pending[:0]
			continue
		}
		if !errors.Is(err, io.EOF) {
			return err
		}
		if !opts.Follow || last {
			if len(pending) > 0 {
				_, err := out.line(pending)
				return err
			}
			return nil
		}
		if next, ok, err := rotated(path, f); err != nil {
			return err
		} else if ok {
			// One more look at the old file: it may have grown between the last read and the rotation.
			if rest, err := io.ReadAll(r); err == nil {
				pending = append(pending, rest...)
			}
			for l := range bytes.Lines(pending) {
				if done, err := out.line(l); done || err != nil {
					next.Close()
					return err
				}
			}
			pending = pending[:0]
			f.Close()
			f = next
			r.Reset(f)
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ended:
			last, ended = true, nil
		case _, ok := <-watch.changed:
			if !ok {
				return errors.New("the watch of the log directory ended")
			}
		}
	}
}

// rotated opens the file that has taken the place of f at path, if there is one.
func rotated(path string, f *os.File) (*os.File, bool, error) {
	next, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil // between the rename and the reopening
	}
	if err != nil {
		return nil, false, err
	}
	a, err1 := f.Stat()
	b, err2 := next.Stat()
	if err := errors.Join(err1, err2); err != nil || os.SameFile(a, b) {
		next.Close()
		return nil, false, err
	}
	return next, true, nil
}

// writer turns entries into output.
type writer struct {
	w     io.Writer
	opts  Options
	left  int64
	stamp bool // at the beginning of a line
}

// line writes one line of the file; done says that enough was written. What is no entry is skipped: a crash may have torn it.
func (o *writer) line(l []byte) (done bool, err error) {
	e, err := Parse(l)
	if err != nil || e.Stdout && !o.opts.Stdout || !e.Stdout && !o.opts.Stderr {
		return false, nil
	}
	if !o.opts.Since.IsZero() && e.Time.Before(o.opts.Since) {
		return false, nil
	}
	if o.opts.Timestamps && o.stamp {
		if done, err := o.put([]byte(e.Time.Format(time.RFC3339Nano) + " ")); done || err != nil {
			return done, err
		}
	}
	o.stamp = !e.Partial
	return o.put(e.Content)
}

func (o *writer) put(p []byte) (bool, error) {
	if o.opts.Bytes >= 0 && int64(len(p)) >= o.left {
		p = p[:o.left]
		_, err := o.w.Write(p)
		return true, err
	}
	o.left -= int64(len(p))
	_, err := o.w.Write(p)
	return false, err
}

// seekTail places the file where its last n lines begin, reading backwards.
func seekTail(f *os.File, n int64) error {
	if n < 0 {
		return nil
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return err
	}
	const block = 16 << 10
	buf := make([]byte, block)
	var lines int64
	for at := end; at > 0; {
		from := max(at-block, 0)
		b := buf[:at-from]
		if _, err := f.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		for i := len(b) - 1; i >= 0; i-- {
			// The newline at the very end closes the last line, it begins none.
			if b[i] != '\n' || from+int64(i) == end-1 {
				continue
			}
			if lines++; lines == n {
				_, err := f.Seek(from+int64(i)+1, io.SeekStart)
				return err
			}
		}
		at = from
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}

// Tail returns the end of a log as plain text: at most so many bytes and lines, as a termination message wants it. An unreadable log is "".
func Tail(path string, maxBytes, maxLines int) string {
	var b bytes.Buffer
	err := Read(context.Background(), path, Options{Tail: int64(maxLines), Bytes: -1}, &b)
	if err != nil {
		return ""
	}
	data := b.Bytes()
	if len(data) > maxBytes {
		data = data[len(data)-maxBytes:]
	}
	return string(data)
}

// Remove deletes a log with its rotated parts.
func Remove(path string) error {
	parts, err := rotatedParts(path)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range append(parts, path) {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// rotatedParts lists the older parts of a log, oldest first.
func rotatedParts(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), filepath.Base(path)+".") {
			out = append(out, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	slices.Sort(out) // the timestamp sorts
	return out, nil
}
