// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/mini-k8s/mini/internal/netns"
)

// Exec implements Runtime. The exit code is valid if err is nil; a command that cannot be started gives an error. When ctx
// ends, the process is killed.
func (r *Containerd) Exec(ctx context.Context, id string, command []string, s Streams) (exitCode int, err error) {
	if ctx, err = r.in(ctx); err != nil {
		return 0, err
	}
	c, err := r.container(id)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("exec in container %s: %w", c.name, err)
		}
	}()
	if !c.is(Running) {
		return 0, ErrNotRunning
	}
	process, err := r.execProcess(ctx, id, command, s.TTY)
	if err != nil {
		return 0, err
	}
	execID := newID()
	dir := r.fifoDir(execID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	set := &cio.FIFOSet{Config: cio.Config{Terminal: s.TTY}}
	if s.Stdin != nil {
		set.Stdin = filepath.Join(dir, "stdin")
	}
	// The pipes for output are there even if nobody listens, so that the process does not fail on its first word.
	set.Stdout = filepath.Join(dir, "stdout")
	if !s.TTY {
		set.Stderr = filepath.Join(dir, "stderr")
	}
	streams, err := cio.NewDirectIO(ctx, set)
	if err != nil {
		return 0, fmt.Errorf("open streams: %w", err)
	}
	defer streams.Close()
	_, err = r.tasks.Exec(ctx, &tasks.ExecProcessRequest{
		ContainerID: id, ExecID: execID, Spec: typeurl.MarshalProto(process), Terminal: s.TTY,
		Stdin: set.Stdin, Stdout: set.Stdout, Stderr: set.Stderr,
	})
	if err != nil {
		return 0, native(err)
	}
	defer func() {
		ctx, cancel := undo(ctx)
		defer cancel()
		_, e := r.tasks.DeleteProcess(ctx, &tasks.DeleteProcessRequest{ContainerID: id, ExecID: execID})
		if e = native(e); e != nil && !errdefs.IsNotFound(e) {
			err = errors.Join(err, e)
		}
	}()
	return r.runExec(ctx, id, execID, s, streams)
}

// execProcess is the container's own process with another command.
func (r *Containerd) execProcess(ctx context.Context, id string, command []string, tty bool) (typeurl.Any, error) {
	stored, err := r.client.ContainerService().Get(ctx, id)
	if err != nil {
		return nil, native(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(stored.Spec.GetValue(), &spec); err != nil {
		return nil, err
	}
	process := spec.Process
	process.Args, process.Terminal = command, tty
	if tty {
		process.Env = append(process.Env, "TERM=xterm")
	}
	return typeurl.MarshalAny(process)
}

func (r *Containerd) runExec(ctx context.Context, id, execID string, s Streams, d *cio.DirectIO) (int, error) {
	var output sync.WaitGroup
	copyOut := func(to io.Writer, from io.Reader) {
		if to == nil {
			to = io.Discard
		}
		output.Go(func() { io.Copy(to, from) })
	}
	copyOut(s.Stdout, d.Stdout)
	if !s.TTY {
		copyOut(s.Stderr, d.Stderr)
	}
	// A start that is given up half-way would leave a process that nobody knows of: it is seen through, and what has run out of
	// time is killed below.
	starting, cancel := undo(ctx)
	_, err := r.tasks.Start(starting, &tasks.StartRequest{ContainerID: id, ExecID: execID})
	cancel()
	if err != nil {
		return 0, native(err)
	}
	done := make(chan struct{})
	defer close(done)
	if s.Stdin != nil {
		go func() {
			io.Copy(d.Stdin, s.Stdin)
			if s.TTY {
				return // the end of a terminal's input would hang it up
			}
			d.Stdin.Close()
			// The shim holds the pipe open too; this makes it let go.
			r.tasks.CloseIO(context.WithoutCancel(ctx), &tasks.CloseIORequest{ContainerID: id, ExecID: execID, Stdin: true})
		}()
	}
	go r.resize(ctx, done, s.Resize, id, execID)
	exit, err := r.tasks.Wait(ctx, &tasks.WaitRequest{ContainerID: id, ExecID: execID})
	if err != nil {
		asked := ctx
		ctx, cancel := undo(ctx)
		defer cancel()
		_, killErr := r.tasks.Kill(ctx, &tasks.KillRequest{ContainerID: id, ExecID: execID, Signal: uint32(syscall.SIGKILL)})
		if killErr = native(killErr); killErr == nil {
			_, killErr = r.tasks.Wait(ctx, &tasks.WaitRequest{ContainerID: id, ExecID: execID})
		}
		if killErr = native(killErr); errdefs.IsNotFound(killErr) {
			killErr = nil
		}
		if cause := context.Cause(asked); cause != nil {
			err = cause
		}
		return 0, errors.Join(native(err), killErr)
	}
	// A process left in the background may hold the output open for as long as the client stays.
	stop := context.AfterFunc(ctx, func() { d.Cancel() })
	defer stop()
	output.Wait()
	return int(exit.ExitStatus), nil
}

// resize passes on the sizes of a client's terminal until done.
func (r *Containerd) resize(ctx context.Context, done <-chan struct{}, sizes <-chan TerminalSize, id, execID string) {
	for {
		select {
		case <-done:
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			_, err := r.tasks.ResizePty(ctx, &tasks.ResizePtyRequest{
				ContainerID: id, ExecID: execID, Width: uint32(size.Width), Height: uint32(size.Height)})
			if err != nil && ctx.Err() == nil {
				r.log.Debug("could not resize a terminal", "container", id, "err", native(err))
			}
		}
	}
}

// Attach implements Runtime. It delivers what the container prints from now on, to any number of clients, and returns when
// the output ends or ctx does.
func (r *Containerd) Attach(ctx context.Context, id string, s Streams) error {
	ctx, err := r.in(ctx)
	if err != nil {
		return err
	}
	c, err := r.container(id)
	if err != nil {
		return err
	}
	if !c.is(Running) {
		return fmt.Errorf("attach to container %s: %w", c.name, ErrNotRunning)
	}
	conn, err := r.dialLogger(ctx, id, 'A')
	if err != nil {
		return fmt.Errorf("attach to container %s: %w", c.name, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	done := make(chan struct{})
	defer close(done)
	if s.Stdin != nil && c.rec.Stdin {
		stdin, err := os.OpenFile(filepath.Join(r.fifoDir(id), "stdin"), os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("attach to container %s: stdin: %w", c.name, err)
		}
		defer stdin.Close()
		go func() {
			if _, err := io.Copy(stdin, s.Stdin); err == nil && c.rec.StdinOnce && !c.rec.TTY {
				r.tasks.CloseIO(context.WithoutCancel(ctx), &tasks.CloseIORequest{ContainerID: id, Stdin: true})
			}
			stdin.Close()
		}()
	}
	if c.rec.TTY {
		go r.resize(ctx, done, s.Resize, id, "")
	}
	if err := copyFrames(conn, s.Stdout, s.Stderr); err != nil && ctx.Err() == nil {
		return fmt.Errorf("attach to container %s: %w", c.name, err)
	}
	return nil
}

// PortForward implements Runtime. It connects conn with a port of the pod's loopback and returns when either side is done.
func (r *Containerd) PortForward(ctx context.Context, sandboxID string, port int32, conn io.ReadWriteCloser) error {
	defer conn.Close()
	ctx, err := r.in(ctx)
	if err != nil {
		return err
	}
	s, err := r.sandbox(sandboxID)
	if err != nil {
		return err
	}
	if !s.is(Running) {
		return fmt.Errorf("port-forward to sandbox %s: %w", sandboxID, ErrNotRunning)
	}
	var inner net.Conn
	dial := func() (err error) {
		// One address at a time and on this thread: the dialer must not start goroutines in another namespace.
		for _, host := range []string{"127.0.0.1", "::1"} {
			var d net.Dialer
			d.FallbackDelay = -1
			if inner, err = d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port)))); err == nil {
				return nil
			}
		}
		return err
	}
	if s.rec.HostNetwork {
		err = dial()
	} else {
		err = netns.Do(r.netnsPath(sandboxID), dial)
	}
	if err != nil {
		return fmt.Errorf("port-forward to port %d of pod %s/%s: %w", port, s.pod.Namespace, s.pod.Name, err)
	}
	defer inner.Close()
	stop := context.AfterFunc(ctx, func() { inner.Close(); conn.Close() })
	defer stop()
	toPod := make(chan struct{})
	go func() {
		defer close(toPod)
		io.Copy(inner, conn)
		if c, ok := inner.(*net.TCPConn); ok {
			c.CloseWrite()
		}
	}()
	io.Copy(conn, inner)
	conn.Close()
	inner.Close()
	<-toPod
	return nil
}
