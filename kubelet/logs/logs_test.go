// SPDX-License-Identifier: Apache-2.0

package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	at := time.Date(2026, 11, 21, 22, 41, 7, 123456789, time.UTC)
	for _, tt := range []struct {
		line    string
		want    Entry
		content string
		bad     bool
	}{
		{line: "2026-11-21T22:41:07.123456789Z stdout F hello world\n", want: Entry{Time: at, Stdout: true}, content: "hello world\n"},
		{line: "2026-11-21T22:41:07.123456789Z stderr P part\n", want: Entry{Time: at, Partial: true}, content: "part"},
		{line: "2026-11-21T22:41:07.123456789Z stdout F:x,y tagged\n", want: Entry{Time: at, Stdout: true}, content: "tagged\n"},
		{line: "2026-11-21T22:41:07.123456789Z stdout F \n", want: Entry{Time: at, Stdout: true}, content: "\n"},
		{line: "2026-11-21T22:41:07.123456789Z stdout F\n", want: Entry{Time: at, Stdout: true}, content: "\n"},
		{line: "2026-11-21T22:41:07.123456789Z stdin F x\n", bad: true},
		{line: "2026-11-21T22:41:07.123456789Z stdout Q x\n", bad: true},
		{line: "yesterday stdout F x\n", bad: true},
		{line: "\n", bad: true},
		{line: "", bad: true},
	} {
		e, err := Parse([]byte(tt.line))
		if (err != nil) != tt.bad {
			t.Errorf("%q: err %v", tt.line, err)
			continue
		}
		if !tt.bad && (!e.Time.Equal(tt.want.Time) || e.Stdout != tt.want.Stdout || e.Partial != tt.want.Partial || string(e.Content) != tt.content) {
			t.Errorf("%q: %+v %q", tt.line, e, e.Content)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("2026-11-21T22:41:07.123456789Z stdout F hello\n"))
	f.Add([]byte("2026-11-21T22:41:07Z stderr P:a:b x"))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := Parse(line)
		if err == nil && !bytes.Contains(line, bytes.TrimSuffix(e.Content, []byte("\n"))) {
			t.Errorf("content %q is not of %q", e.Content, line)
		}
	})
}

func entry(i int, text string) string {
	return fmt.Sprintf("2026-11-21T22:41:%02d.000000000Z stdout F %s\n", i%60, text)
}

func writeLog(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRead(t *testing.T) {
	path := writeLog(t, entry(1, "one"), entry(2, "two"), "torn line\n",
		"2026-11-21T22:41:03.000000000Z stderr F err\n",
		"2026-11-21T22:41:04.000000000Z stdout P half ", "\n", // a P entry whose newline follows
		"2026-11-21T22:41:05.000000000Z stdout F whole\n")
	all := Options{Tail: -1, Bytes: -1}
	for _, tt := range []struct {
		why  string
		opts func(o Options) Options
		want string
	}{
		{"everything", func(o Options) Options { return o }, "one\ntwo\nerr\nhalf whole\n"},
		{"one stream", func(o Options) Options { o.Stderr = true; return o }, "err\n"},
		{"the end", func(o Options) Options { o.Tail = 1; return o }, "whole\n"},
		{"nothing of the end", func(o Options) Options { o.Tail = 0; return o }, ""},
		{"more than there is", func(o Options) Options { o.Tail = 1000; return o }, "one\ntwo\nerr\nhalf whole\n"},
		{"so many bytes", func(o Options) Options { o.Bytes = 5; return o }, "one\nt"},
		{"from a time on", func(o Options) Options { o.Since = time.Date(2026, 11, 21, 22, 41, 3, 0, time.UTC); return o }, "err\nhalf whole\n"},
		{"times once a line", func(o Options) Options { o.Timestamps = true; o.Tail = 2; return o }, "2026-11-21T22:41:04Z half whole\n"},
	} {
		var b bytes.Buffer
		if err := Read(t.Context(), path, tt.opts(all), &b); err != nil || b.String() != tt.want {
			t.Errorf("%s: %q, %v; want %q", tt.why, b.String(), err, tt.want)
		}
	}
	if err := Read(t.Context(), path+"x", all, &bytes.Buffer{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
}

// TestTailOfLargeFile looks across many blocks.
func TestTailOfLargeFile(t *testing.T) {
	var lines []string
	for i := range 5000 {
		lines = append(lines, entry(i, fmt.Sprintf("line %d %s", i, strings.Repeat("x", i%97))))
	}
	path := writeLog(t, lines...)
	for _, n := range []int64{1, 2, 10, 999, 4999, 5000, 5001} {
		var b bytes.Buffer
		if err := Read(t.Context(), path, Options{Tail: n, Bytes: -1}, &b); err != nil {
			t.Fatal(err)
		}
		if got, want := int64(strings.Count(b.String(), "\n")), min(n, 5000); got != want {
			t.Errorf("tail %d: %d lines", n, got)
		}
	}
}

// syncBuffer lets a test wait for content.
type syncBuffer struct {
	mu  sync.Mutex
	b   bytes.Buffer
	new chan struct{}
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.new <- struct{}{}:
	default:
	}
	return s.b.Write(p)
}

func (s *syncBuffer) wait(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		s.mu.Lock()
		got := s.b.String()
		s.mu.Unlock()
		if got == want {
			return
		}
		select {
		case <-s.new:
		case <-deadline:
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func appendLog(t *testing.T, path, s string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(s); err != nil {
		t.Fatal(err)
	}
}

func TestFollowAcrossRotation(t *testing.T) {
	path := writeLog(t, entry(1, "one"))
	out := &syncBuffer{new: make(chan struct{}, 1)}
	ended := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- Read(context.Background(), path, Options{Tail: -1, Bytes: -1, Follow: true, Ended: ended}, out)
	}()
	out.wait(t, "one\n")
	appendLog(t, path, entry(2, "two"))
	out.wait(t, "one\ntwo\n")
	// A line that arrives in two writes is one line.
	half := entry(3, "three")
	appendLog(t, path, half[:20])
	appendLog(t, path, half[20:])
	out.wait(t, "one\ntwo\nthree\n")
	r := Rotator{MaxSize: 10, MaxFiles: 3}
	if ok, err := r.Rotate(path, time.Now(), func() error { appendLog(t, path, entry(4, "four")); return nil }); !ok || err != nil {
		t.Fatal(ok, err)
	}
	out.wait(t, "one\ntwo\nthree\nfour\n")
	appendLog(t, path, entry(5, "five"))
	close(ended)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	out.wait(t, "one\ntwo\nthree\nfour\nfive\n")
}

func TestFollowEndsWithItsReader(t *testing.T) {
	path := writeLog(t, entry(1, "one"))
	ctx, cancel := context.WithCancel(t.Context())
	out := &syncBuffer{new: make(chan struct{}, 1)}
	done := make(chan error, 1)
	go func() { done <- Read(ctx, path, Options{Tail: -1, Bytes: -1, Follow: true}, out) }()
	out.wait(t, "one\n")
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestRotate(t *testing.T) {
	path := writeLog(t, entry(1, "zero"))
	r := Rotator{MaxSize: 20, MaxFiles: 3}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 6 {
		at = at.Add(time.Minute)
		ok, err := r.Rotate(path, at, func() error { appendLog(t, path, entry(i, fmt.Sprint("new ", i))); return nil })
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
	}
	parts, err := rotatedParts(path)
	if err != nil || len(parts) != 2 {
		t.Fatalf("parts %v, %v", parts, err)
	}
	if !strings.HasSuffix(parts[0], ".gz") || strings.HasSuffix(parts[1], ".gz") {
		t.Errorf("parts %v", parts)
	}
	if ok, err := (Rotator{MaxSize: 1 << 20, MaxFiles: 3}).Rotate(path, at, nil); ok || err != nil {
		t.Errorf("a small log was rotated: %v, %v", ok, err)
	}
	// A runtime that cannot reopen keeps its file.
	at = at.Add(time.Minute)
	if ok, err := r.Rotate(path, at, func() error { return errors.New("no") }); ok || err == nil {
		t.Errorf("%v, %v", ok, err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the log was not put back: %v", err)
	}
	if err := Remove(path); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// TestRotateAfterCrash: renamed but never reopened.
func TestRotateAfterCrash(t *testing.T) {
	path := writeLog(t, entry(1, "x"))
	if err := os.Rename(path, path+".20260101-000000"); err != nil {
		t.Fatal(err)
	}
	reopened := false
	if _, err := (Rotator{MaxSize: 1, MaxFiles: 2}).Rotate(path, time.Now(), func() error { reopened = true; return nil }); err != nil || !reopened {
		t.Errorf("reopened %v, %v", reopened, err)
	}
}

func TestTail(t *testing.T) {
	var lines []string
	for i := range 200 {
		lines = append(lines, entry(i, fmt.Sprint(i)))
	}
	path := writeLog(t, lines...)
	if got := Tail(path, 4096, 3); got != "197\n198\n199\n" {
		t.Errorf("%q", got)
	}
	if got := Tail(path, 5, 80); got != "\n199\n" {
		t.Errorf("%q", got)
	}
	if got := Tail(path+"x", 5, 80); got != "" {
		t.Errorf("%q", got)
	}
}
