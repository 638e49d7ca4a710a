// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
)

// logSocketPrefix begins the names of the log writers' sockets among those of the shims, which are plain hashes.
const logSocketPrefix = "log-"

// How long to wait for a log writer: until pipes are closed that something else than the container may hold too, and for an
// answer, which it gives at once where the machine lets it.
const (
	logDrainTime  = 500 * time.Millisecond
	logAnswerTime = 5 * time.Second
)

func logSocketName(id string) string { return logSocketPrefix + id[:min(len(id), 32)] }

func (r *Containerd) logSocket(id string) string { return filepath.Join(r.sockets, logSocketName(id)) }

func (r *Containerd) fifoDir(id string) string { return filepath.Join(r.dir, "fifo", id) }

// openLog tells the shim where a container's output goes: to a log writer that the shim starts and owns. A container with
// stdin but no terminal is the exception, because the shim knows pipes for stdin only together with pipes for all: the
// writer then reads the pipes and belongs to nobody.
func (r *Containerd) openLog(c *container, task *tasks.CreateTaskRequest) error {
	if c.rec.LogPath == "" {
		return errors.New("no log path given")
	}
	if err := os.MkdirAll(filepath.Dir(c.rec.LogPath), 0o755); err != nil {
		return err
	}
	dir := r.fifoDir(c.id)
	if c.rec.Stdin {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		task.Stdin = filepath.Join(dir, "stdin")
		if err := syscall.Mkfifo(task.Stdin, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make pipe for stdin: %w", err)
		}
	}
	if c.rec.Stdin && !c.rec.TTY {
		task.Stdout, task.Stderr = filepath.Join(dir, "stdout"), filepath.Join(dir, "stderr")
		for _, p := range []string{task.Stdout, task.Stderr} {
			if err := syscall.Mkfifo(p, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("make pipe for output: %w", err)
			}
		}
		return r.startLogger(c, task.Stdout, task.Stderr)
	}
	query := url.Values{"log": {c.rec.LogPath}, "ctl": {r.logSocket(c.id)}}
	if c.rec.TTY {
		query.Set("tty", "1")
	}
	uri := url.URL{Scheme: "binary-v2", Path: r.logger, RawQuery: query.Encode()}
	task.Stdout = uri.String()
	if !c.rec.TTY {
		task.Stderr = task.Stdout
	}
	return nil
}

// startLogger starts a log writer on pipes, in a session of its own so that it outlives this process.
func (r *Containerd) startLogger(c *container, stdout, stderr string) error {
	ready, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := exec.Command(r.logger, "log", c.rec.LogPath, "ctl", r.logSocket(c.id), "out", stdout, "err", stderr)
	cmd.Stdout = w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("start log writer: %w", err)
	}
	go cmd.Wait()
	if n, err := ready.Read(make([]byte, 1)); n != 1 {
		return fmt.Errorf("log writer did not start: %w", err)
	}
	return nil
}

// awaitLog returns when a log writer has written all that an ended container printed. Where the shim copies, it closes
// the pipes at the end and the writer goes away. Else the shim holds the pipe's other end until the task is deleted, and
// the writer is asked to take what is in it.
func (r *Containerd) awaitLog(c *container) {
	conn, err := net.DialTimeout("unix", r.logSocket(c.id), logAnswerTime)
	if err != nil {
		return // it is gone
	}
	defer conn.Close()
	if c.rec.Stdin || c.rec.TTY {
		conn.SetDeadline(time.Now().Add(logDrainTime))
		io.Copy(io.Discard, conn)
		return
	}
	conn.SetDeadline(time.Now().Add(logAnswerTime))
	if _, err := conn.Write([]byte("D")); err == nil {
		io.ReadFull(conn, []byte{0})
	}
}

// closeLog ends a log writer that is still there and removes the pipes.
func (r *Containerd) closeLog(id string) {
	if err := quitLogger(r.logSocket(id)); err != nil {
		r.log.Warn("could not end a log writer", "container", id, "err", err)
	}
	os.RemoveAll(r.fifoDir(id))
}

// quitLogger ends the log writer that listens at path, if there is one, and removes its socket.
func quitLogger(path string) error {
	conn, err := net.DialTimeout("unix", path, logAnswerTime)
	if err == nil {
		conn.SetDeadline(time.Now().Add(logAnswerTime))
		_, err = conn.Write([]byte("Q"))
		if err == nil {
			_, err = io.Copy(io.Discard, conn)
		}
		conn.Close()
	} else {
		err = nil // nobody listens
	}
	if e := os.Remove(path); e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}

// ReopenLog implements Runtime.
func (r *Containerd) ReopenLog(ctx context.Context, id string) error {
	if _, err := r.in(ctx); err != nil {
		return err
	}
	c, err := r.container(id)
	if err != nil {
		return err
	}
	if !c.is(Running) {
		return fmt.Errorf("reopen log of container %s: %w", id, ErrNotRunning)
	}
	conn, err := r.dialLogger(ctx, id, 'R')
	if err != nil {
		return fmt.Errorf("reopen log of container %s: %w", id, err)
	}
	return conn.Close()
}

// dialLogger connects to a container's log writer, asks it for something, and waits until it has agreed.
func (r *Containerd) dialLogger(ctx context.Context, id string, request byte) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", r.logSocket(id))
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(logAnswerTime))
	answer := []byte{0}
	if _, err = conn.Write([]byte{request}); err == nil {
		_, err = io.ReadFull(conn, answer)
	}
	if err == nil && answer[0] != request {
		err = errors.New("the log writer could not do it")
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	return conn, nil
}

// copyFrames passes on what a log writer sends until the output ends. A nil writer takes nothing.
func copyFrames(from io.Reader, stdout, stderr io.Writer) error {
	var head [5]byte
	for {
		if _, err := io.ReadFull(from, head[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		to := stdout
		if head[0] == 2 {
			to = stderr
		}
		if to == nil {
			to = io.Discard
		}
		if _, err := io.CopyN(to, from, int64(binary.LittleEndian.Uint32(head[1:]))); err != nil {
			return err
		}
	}
}
