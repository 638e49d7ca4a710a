// SPDX-License-Identifier: Apache-2.0

package helpers

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// logWriter is a logger that runs as a shim would run it.
type logWriter struct {
	t              *testing.T
	cmd            *exec.Cmd
	log, ctl       string
	stdout, stderr *os.File // what the container writes to
}

func startLogger(t *testing.T, args ...string) *logWriter {
	t.Helper()
	path := built(t, Logger)
	dir := t.TempDir()
	w := &logWriter{t: t, log: filepath.Join(dir, "0.log"), ctl: filepath.Join(dir, "ctl")}
	pipe := func() (*os.File, *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		return r, w
	}
	outR, outW := pipe()
	errR, errW := pipe()
	readyR, readyW := pipe()
	w.stdout, w.stderr = outW, errW
	w.cmd = exec.Command(path, append([]string{"log", w.log, "ctl", w.ctl}, args...)...)
	w.cmd.ExtraFiles = []*os.File{outR, errR, readyW}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range w.cmd.ExtraFiles {
		f.Close()
	}
	if n, _ := readyR.Read(make([]byte, 1)); n != 1 {
		t.Fatalf("logger is not ready: %v", w.cmd.Wait())
	}
	readyR.Close()
	t.Cleanup(func() {
		w.stdout.Close()
		w.stderr.Close()
		w.cmd.Process.Kill()
		w.cmd.Wait()
	})
	return w
}

// end closes the container's output and waits for the logger.
func (w *logWriter) end() []string {
	w.t.Helper()
	w.stdout.Close()
	w.stderr.Close()
	return w.ended()
}

func (w *logWriter) ended() []string {
	w.t.Helper()
	if err := w.cmd.Wait(); err != nil {
		w.t.Error(err)
	}
	if _, err := os.Stat(w.ctl); err == nil {
		w.t.Error("the socket is still there")
	}
	return w.lines(w.log)
}

// lines gives a log's lines without their times, whose form and order it checks.
func (w *logWriter) lines(path string) []string {
	w.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	var list []string
	for line := range strings.Lines(string(data)) {
		stamp, rest, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		at, err := time.Parse("2006-01-02T15:04:05.000000000Z", stamp)
		if !ok || err != nil || time.Since(at) < 0 || time.Since(at) > time.Minute {
			w.t.Fatalf("line %q: %v", line, err)
		}
		list = append(list, rest)
	}
	return list
}

func (w *logWriter) ask(c byte) (net.Conn, byte) {
	w.t.Helper()
	conn, err := net.Dial("unix", w.ctl)
	if err != nil {
		w.t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	answer := []byte{0}
	if _, err := conn.Write([]byte{c}); err != nil {
		w.t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, answer); err != nil && c != 'Q' {
		w.t.Fatal(err)
	}
	return conn, answer[0]
}

func TestLoggerFormat(t *testing.T) {
	w := startLogger(t)
	long := strings.Repeat("x", 40000)
	for _, text := range []string{"one\ntwo\n\n", "three", " four\n", long + "\nend\n", "no newline"} {
		io.WriteString(w.stdout, text)
	}
	io.WriteString(w.stderr, "bad\n")
	got := w.end()
	var out []string
	text, errs := "", 0
	for _, l := range got {
		if l == "stderr F bad" {
			errs++
			continue
		}
		if len(l) > len("stdout F ")+16384 {
			t.Errorf("line of %d bytes", len(l))
		}
		text += l[len("stdout F "):]
		if strings.HasPrefix(l, "stdout F ") {
			out, text = append(out, text), ""
		} else if !strings.HasPrefix(l, "stdout P ") {
			t.Fatalf("line %q", l)
		}
	}
	if want := []string{"one", "two", "", "three four", long, "end"}; errs != 1 || fmt.Sprint(out) != fmt.Sprint(want) || text != "no newline" {
		t.Errorf("%d errors, lines %.200q, rest %q", errs, out, text)
	}
}

func TestLoggerKeepsEverything(t *testing.T) {
	w := startLogger(t)
	const lines = 200000
	var all bytes.Buffer
	for i := range lines {
		fmt.Fprintln(&all, "line", i)
	}
	if _, err := w.stdout.Write(all.Bytes()); err != nil {
		t.Fatal(err)
	}
	got := w.end()
	if len(got) != lines {
		t.Fatalf("%d lines of %d", len(got), lines)
	}
	for i, l := range got {
		if l != fmt.Sprint("stdout F line ", i) {
			t.Fatalf("line %d is %q", i, l)
		}
	}
}

func TestLoggerRotatesAndDrains(t *testing.T) {
	w := startLogger(t)
	io.WriteString(w.stdout, "before\n")
	conn, answer := w.ask('D')
	conn.Close()
	if got := w.lines(w.log); answer != 'D' || fmt.Sprint(got) != "[stdout F before]" {
		t.Errorf("drained %q, %c", got, answer)
	}
	io.WriteString(w.stdout, "last words")
	conn, answer = w.ask('D')
	conn.Close()
	if got := w.lines(w.log); answer != 'D' || fmt.Sprint(got) != "[stdout F before stdout P last words]" {
		t.Errorf("a line without an end: drained %q, %c", got, answer)
	}
	if err := os.Rename(w.log, w.log+".1"); err != nil {
		t.Fatal(err)
	}
	conn, answer = w.ask('R')
	conn.Close()
	io.WriteString(w.stdout, "after\n")
	if got := w.end(); answer != 'R' || fmt.Sprint(got) != "[stdout F after]" || len(w.lines(w.log+".1")) != 2 {
		t.Errorf("rotated %q, %c", got, answer)
	}
}

func TestLoggerAttach(t *testing.T) {
	w := startLogger(t)
	io.WriteString(w.stdout, "unheard\n")
	conn, _ := w.ask('D')
	conn.Close()
	var clients []net.Conn
	for range 3 {
		conn, answer := w.ask('A')
		if answer != 'A' {
			t.Fatalf("answer %q", answer)
		}
		clients = append(clients, conn)
	}
	clients[1].Close() // one that leaves disturbs nobody
	io.WriteString(w.stdout, "out")
	io.WriteString(w.stderr, "err\n")
	w.end()
	for _, i := range []int{0, 2} {
		got := map[byte]string{}
		for {
			var head [5]byte
			if _, err := io.ReadFull(clients[i], head[:]); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			text := make([]byte, binary.LittleEndian.Uint32(head[1:]))
			if _, err := io.ReadFull(clients[i], text); err != nil {
				t.Fatal(err)
			}
			got[head[0]] += string(text)
		}
		if got[1] != "out" || got[2] != "err\n" {
			t.Errorf("client %d heard %q", i, got)
		}
	}
}

// TestLoggerEnds holds that TERM and Q end it with all that was written, though somebody still holds the pipe.
func TestLoggerEnds(t *testing.T) {
	for name, how := range map[string]func(w *logWriter){
		"TERM": func(w *logWriter) { w.cmd.Process.Signal(syscall.SIGTERM) },
		"Q":    func(w *logWriter) { conn, _ := w.ask('Q'); conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			w := startLogger(t)
			io.WriteString(w.stdout, "last\nwords")
			how(w)
			if got := w.ended(); fmt.Sprint(got) != "[stdout F last stdout P words]" {
				t.Errorf("%q", got)
			}
		})
	}
}

func TestLoggerTerminal(t *testing.T) {
	w := startLogger(t, "tty", "1")
	io.WriteString(w.stdout, "screen\r\n")
	w.stdout.Close() // stderr stays open, as a shim leaves it
	if got := w.ended(); fmt.Sprint(got) != "[stdout F screen\r]" {
		t.Errorf("%q", got)
	}
}

func TestLoggerRefuses(t *testing.T) {
	path := built(t, Logger)
	for _, args := range [][]string{nil, {"log", "/x"}, {"log", t.TempDir() + "/no/such/dir", "ctl", t.TempDir() + "/c"},
		{"log", t.TempDir() + "/l", "ctl", "/" + strings.Repeat("long", 40)}, {"log", "/x", "ctl", "/y", "out", "/none"}} {
		cmd := exec.Command(path, args...)
		if err := cmd.Run(); err == nil {
			t.Errorf("%v was taken", args)
		}
	}
}

// TestPreShim holds what it answers itself and what it hands on, to a program that takes the shim's place.
func TestPreShim(t *testing.T) {
	data, err := os.ReadFile(built(t, PreShim))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	pre := filepath.Join(dir, "pre")
	stands := "#!/bin/sh\necho shim \"$@\"\n"
	if err := os.WriteFile(pre, data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, Shim), []byte(stands), 0o755); err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(dir, "state/io.containerd.runtime.v2.task/ns/c1")
	known := filepath.Join(dir, "state/runc/ns/c1")
	if err := os.MkdirAll(bundle, 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		cmd := exec.Command(pre, args...)
		cmd.Dir = bundle
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %v %s", args, err, out)
		}
		return string(out)
	}
	del := []string{"-namespace", "ns", "-id", "c1", "delete"}
	if got := run(del...); got != "shim -namespace ns -id c1 delete\n" {
		t.Errorf("outside of a bundle: %q", got)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := run(del...); got != "" {
		t.Errorf("of a container that runc does not know: %q", got)
	}
	if err := os.MkdirAll(known, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := run(del...); got != "shim -namespace ns -id c1 delete\n" {
		t.Errorf("of a container that runc knows: %q", got)
	}
	if got := run("-namespace", "ns", "-id", "c1", "start"); got != "shim -namespace ns -id c1 start\n" {
		t.Errorf("start: %q", got)
	}
	if got := run("-info"); got != "" {
		t.Errorf("info: %q", got)
	}
}
