package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mini-k8s/mini/internal/leftovers"
	"github.com/mini-k8s/mini/internal/netns"
)

// stopTime is how long a node's mini may take to end after SIGTERM before it is killed. It promises 5 s itself.
const stopTime = 10 * time.Second

// Start starts a node's mini, which must not be running; an agent's waits until the server has written its join token.
// It returns when the process runs, not when the node is ready.
func (c *Cluster) Start(ctx context.Context, node string) error {
	n, err := c.Node(node)
	if err != nil {
		return err
	}
	if n.Running() {
		return fmt.Errorf("node %s of cluster %s runs already (pid %d)", node, c.Name, n.PID)
	}
	args := append(c.nodeFlags(n), c.NodeArgs...)
	var sockets []socket
	if n.Server {
		args = append([]string{"server"}, append(args, c.ServerArgs...)...)
		if sockets, err = c.listen(); err != nil {
			return err
		}
		defer func() {
			for _, s := range sockets {
				s.file.Close()
			}
		}()
	} else {
		token, err := c.waitToken(ctx)
		if err != nil {
			return err
		}
		args = append([]string{"agent", "--join", "https://" + c.Nodes[0].IP.String() + ":6443", "--token", token}, args...)
	}
	return c.startProcess(n, args, sockets)
}

// nodeFlags are the flags that server and agent share.
func (c *Cluster) nodeFlags(n *Node) []string {
	return []string{
		"--data-dir", c.DataDir(n.Name), "--node-name", n.Name, "--node-ip", n.IP.String(), "--cgroup-root", c.CgroupRoot(n.Name),
	}
}

// socket is a listener of the machine's namespace that the server inherits under a name (sd_listen_fds(3)).
type socket struct {
	name string
	file *os.File
}

// listen opens the API's and the published ports on 127.0.0.1 of the machine.
func (c *Cluster) listen() (all []socket, err error) {
	defer func() {
		if err != nil {
			for _, s := range all {
				s.file.Close()
			}
		}
	}()
	open := func(name string, port int) error {
		l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return fmt.Errorf("cluster %s: %w; free the port or choose another", c.Name, err)
		}
		defer l.Close() // File has a descriptor of its own
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			return fmt.Errorf("cluster %s: port %d: %w", c.Name, port, err)
		}
		all = append(all, socket{name, f})
		return nil
	}
	if err := open("api", c.APIPort); err != nil {
		return all, err
	}
	for _, p := range c.Publish {
		if err := open("publish-"+strconv.Itoa(p.NodePort), p.HostPort); err != nil {
			return all, err
		}
	}
	return all, nil
}

// startProcess runs mini with args in the node's namespace and cgroup, in a session of its own, its output in the node's log.
func (c *Cluster) startProcess(n *Node, args []string, sockets []socket) error {
	log, err := os.OpenFile(c.LogFile(n.Name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("start node %s: %w", n.Name, err)
	}
	defer log.Close()
	cmd := exec.Command(c.Binary, args...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = append(os.Environ(), c.Env...)
	if len(sockets) > 0 {
		names := make([]string, len(sockets))
		for i, s := range sockets {
			names[i] = s.name
			cmd.ExtraFiles = append(cmd.ExtraFiles, s.file)
		}
		cmd.Env = append(cmd.Env, "LISTEN_FDS="+strconv.Itoa(len(sockets)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	if err := netns.Do(c.NetNS(n.Name), cmd.Start); err != nil {
		return fmt.Errorf("start node %s: %w", n.Name, err)
	}
	pid := cmd.Process.Pid
	go cmd.Wait() //nolint:errcheck // reaps it while this program lives; afterwards init does
	undo := func(err error) error {
		return errors.Join(fmt.Errorf("start node %s: %w", n.Name, err), unix.Kill(pid, unix.SIGKILL))
	}
	if err := joinCgroup(c.CgroupRoot(n.Name)+"/mini", pid); err != nil {
		return undo(err)
	}
	ticks, err := startTicks(pid)
	if err != nil {
		return undo(errors.New("it ended at once; its log says why: " + c.LogFile(n.Name)))
	}
	n.PID, n.StartTicks = pid, ticks
	return c.save()
}

// Stop ends a node's mini with SIGTERM; its pods go on. A node that does not run is no error.
func (c *Cluster) Stop(ctx context.Context, node string) error {
	return c.end(ctx, node, unix.SIGTERM)
}

// Kill ends a node's mini with SIGKILL, as a crash would.
func (c *Cluster) Kill(ctx context.Context, node string) error {
	return c.end(ctx, node, unix.SIGKILL)
}

// StartAll starts every node that does not run.
func (c *Cluster) StartAll(ctx context.Context) error {
	for _, n := range c.Nodes {
		if n.Running() {
			continue
		}
		if err := c.Start(ctx, n.Name); err != nil {
			return err
		}
	}
	return nil
}

// StopAll ends every process of the cluster, pods included; what it keeps on disk and its networks stay, and StartAll
// brings everything back.
func (c *Cluster) StopAll(ctx context.Context) error {
	if err := c.stopNodes(ctx); err != nil {
		return fmt.Errorf("stop cluster %s: %w", c.Name, err)
	}
	if err := leftovers.ClearCgroup("/mini-" + c.Name); err != nil {
		return fmt.Errorf("stop cluster %s: %w", c.Name, err)
	}
	return nil
}

func (c *Cluster) end(ctx context.Context, node string, sig unix.Signal) error {
	n, err := c.Node(node)
	if err != nil {
		return err
	}
	if !n.Running() {
		return nil
	}
	fd, err := unix.PidfdOpen(n.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil // it ended meanwhile and only its zombie was left
	}
	if err != nil {
		return fmt.Errorf("stop node %s: %w", node, err)
	}
	defer unix.Close(fd)
	if !n.Running() { // the pid was reused between the look and the open
		return nil
	}
	for _, s := range []unix.Signal{sig, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("stop node %s: %w", node, err)
		}
		ended, err := waitPidfd(ctx, fd, stopTime)
		if ended || err != nil {
			return err
		}
		c.log.Warn("node did not end in time, killing it", "node", node, "after", stopTime)
	}
	return fmt.Errorf("stop node %s: pid %d does not end even after SIGKILL", node, n.PID)
}

// waitPidfd waits until the process ends, at most for d.
func waitPidfd(ctx context.Context, fd int, d time.Duration) (ended bool, err error) {
	deadline := time.Now().Add(d)
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		left := time.Until(deadline)
		if left <= 0 {
			return false, nil
		}
		// In slices, so that a cancelled ctx is seen.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(min(left, 200*time.Millisecond).Milliseconds())+1)
		if n > 0 {
			return true, nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, fmt.Errorf("wait for process: %w", err)
		}
	}
}
