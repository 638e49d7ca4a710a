package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// waitToken returns the server's join token as soon as the server has written it.
func (c *Cluster) waitToken(ctx context.Context) (string, error) {
	b, err := c.waitFile(ctx, filepath.Join(c.DataDir(c.Nodes[0].Name), "token"))
	return strings.TrimSpace(string(b)), err
}

// waitFile returns the content of a file of the server's as soon as it is there and not empty. It ends with the server's
// last words if the server dies first.
func (c *Cluster) waitFile(ctx context.Context, path string) ([]byte, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO); err != nil {
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	buf := make([]byte, 4096)
	for {
		b, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if len(b) > 0 {
			return b, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("wait for the server's %s: %w%s", filepath.Base(path), err, c.lastWords(c.Nodes[0].Name))
		}
		if !c.Nodes[0].Running() {
			return nil, fmt.Errorf("the server of cluster %s ended%s", c.Name, c.lastWords(c.Nodes[0].Name))
		}
		// In slices, so that a dead server and a cancelled ctx are seen.
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 200); err != nil && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("watch %s: %w", dir, err)
		}
		for {
			if n, err := unix.Read(fd, buf); n <= 0 || err != nil {
				break
			}
		}
	}
}

// lastWords are the last lines of a node's log, to show why it failed.
func (c *Cluster) lastWords(node string) string {
	b, err := os.ReadFile(c.LogFile(node))
	if err != nil || len(b) == 0 {
		return "; it logged nothing"
	}
	lines := bytes.Split(bytes.TrimRight(b, "\n"), []byte("\n"))
	if len(lines) > 8 {
		lines = lines[len(lines)-8:]
	}
	return "; the last lines of " + c.LogFile(node) + ":\n" + string(bytes.Join(lines, []byte("\n")))
}

// Client is a cluster-admin clientset that reaches the cluster from the machine. The server must have been up once.
func (c *Cluster) Client() (*kubernetes.Clientset, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("kubeconfig of cluster %s: %w", c.Name, err)
	}
	cfg.QPS, cfg.Burst = -1, 0
	return kubernetes.NewForConfig(cfg)
}

// WaitReady waits until every node is Ready, calling progress (nil for none) with each that becomes so, and writes the
// kubeconfig as soon as the server has one.
func (c *Cluster) WaitReady(ctx context.Context, progress func(node string, after time.Duration)) error {
	begin := time.Now()
	if err := c.writeKubeconfig(ctx); err != nil {
		return err
	}
	client, err := c.Client()
	if err != nil {
		return err
	}
	ready := make(map[string]bool, len(c.Nodes))
	for len(ready) < len(c.Nodes) {
		err := c.watchNodes(ctx, client, func(n *corev1.Node) bool {
			if _, err := c.Node(n.Name); err == nil && isReady(n) && !ready[n.Name] {
				ready[n.Name] = true
				if progress != nil {
					progress(n.Name, time.Since(begin))
				}
			}
			return len(ready) == len(c.Nodes)
		})
		if ctx.Err() != nil {
			return c.notReady(ctx.Err(), ready)
		}
		if dead := c.dead(); dead != "" {
			return fmt.Errorf("node %s ended%s", dead, c.lastWords(dead))
		}
		if err != nil { // the server is not up yet: ask again soon
			select {
			case <-ctx.Done():
				return c.notReady(err, ready)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}

// watchNodes calls see with every node and every change of one until it says enough, or for a second at most, since a node
// that dies is seen between two calls.
func (c *Cluster) watchNodes(ctx context.Context, client kubernetes.Interface, see func(*corev1.Node) (enough bool)) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range list.Items {
		if see(&list.Items[i]) {
			return nil
		}
	}
	w, err := client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return err
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.ResultChan():
			if !ok {
				return nil
			}
			if n, isNode := e.Object.(*corev1.Node); isNode && see(n) {
				return nil
			}
		}
	}
}

func isReady(n *corev1.Node) bool {
	for _, cond := range n.Status.Conditions {
		if cond.Type == corev1.NodeReady {
			return cond.Status == corev1.ConditionTrue
		}
	}
	return false
}

// dead names a node that was started and runs no more.
func (c *Cluster) dead() string {
	for _, n := range c.Nodes {
		if n.PID != 0 && !n.Running() {
			return n.Name
		}
	}
	return ""
}

func (c *Cluster) notReady(err error, ready map[string]bool) error {
	var late []string
	words := ""
	for _, n := range c.Nodes {
		if !ready[n.Name] {
			late = append(late, n.Name)
			words += c.lastWords(n.Name)
		}
	}
	return fmt.Errorf("not ready: %s: %w%s", strings.Join(late, ", "), err, words)
}
