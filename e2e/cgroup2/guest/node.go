package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	watchtools "k8s.io/client-go/tools/watch"
)

const (
	dataDir    = "/var/lib/mini"
	kubeconfig = dataDir + "/kubeconfig"
	miniLog    = "/var/log/mini.log"
	nodeName   = "cgroup2"
	service    = "system.slice/mini.service" // the cgroup
	namespace  = "default"
	image      = "docker.io/mini/cgroup2:1"
)

// node is the mini under test.
type node struct {
	client kubernetes.Interface
	mini   *exec.Cmd
	ended  chan struct{} // closed when mini has ended, which no wait expects
	end    error
}

// start starts `mini server` in a cgroup as systemd gives one to a service.
func (n *node) start(context.Context) error {
	service := filepath.Join(unifiedMount, service)
	if err := os.MkdirAll(service, 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(miniLog, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	n.mini = exec.Command("/bin/busybox", "sh", "-c", `echo $$ > "$0/cgroup.procs" && exec mini server`, service)
	n.mini.Stdout, n.mini.Stderr = log, log
	if err := n.mini.Start(); err != nil {
		return err
	}
	mini, ended := n.mini, make(chan struct{})
	n.ended = ended
	go func() {
		defer close(ended)
		n.end = mini.Wait()
	}()
	return nil
}

// stop ends mini with a signal, and waits for that.
func (n *node) stop(ctx context.Context, sig os.Signal) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := n.mini.Process.Signal(sig); err != nil {
		return err
	}
	select {
	case <-n.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("mini does not end after %v: %w", sig, ctx.Err())
	}
}

// importImage puts the image where mini looks for some at its start.
func importImage() error {
	folder := filepath.Join(dataDir, "images")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	from, err := os.Open("/images/cgroup2.tar")
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.Create(filepath.Join(folder, "cgroup2.tar"))
	if err != nil {
		return err
	}
	defer to.Close()
	_, err = io.Copy(to, from)
	return err
}

// bounded is a context that ends when patience does, or mini.
func (n *node) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not within %s", patience))
	ctx, end := context.WithCancelCause(ctx)
	ended := n.ended
	go func() {
		select {
		case <-ended:
			end(fmt.Errorf("mini has ended: %v", n.end))
		case <-ctx.Done():
		}
	}()
	return ctx, func() { end(nil); cancel() }
}

// eventually reads again until check is content; its last complaint is the error. It is for what nobody announces.
func (n *node) eventually(ctx context.Context, check func() error) error {
	ctx, cancel := n.bounded(ctx)
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// connect waits for the cluster-admin's kubeconfig, and for the API server behind it.
func (n *node) connect(ctx context.Context) error {
	return n.eventually(ctx, func() error {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return err
		}
		config.QPS = -1
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		if _, err := client.Discovery().ServerVersion(); err != nil {
			return err
		}
		n.client = client
		return nil
	})
}

// nodeReady waits until the Node is Ready.
func (n *node) nodeReady(ctx context.Context) error {
	nodes := n.client.CoreV1().Nodes()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return nodes.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return nodes.Watch(ctx, o)
		},
	}
	seen := "no Node"
	if err := n.until(ctx, lw, &corev1.Node{}, func(o runtime.Object) bool {
		for _, c := range o.(*corev1.Node).Status.Conditions {
			if c.Type == corev1.NodeReady {
				seen = fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	}); err != nil {
		return fmt.Errorf("%w; last seen: %s", err, seen)
	}
	return nil
}

// untilPod watches a pod until done is content with it, and returns it as it is then.
func (n *node) untilPod(ctx context.Context, name string, done func(*corev1.Pod) bool) (*corev1.Pod, error) {
	pods, one := n.client.CoreV1().Pods(namespace), fields.OneTermEqualSelector("metadata.name", name).String()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = one
			return pods.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = one
			return pods.Watch(ctx, o)
		},
	}
	var seen corev1.Pod
	if err := n.until(ctx, lw, &corev1.Pod{}, func(o runtime.Object) bool {
		seen = *o.(*corev1.Pod)
		return done(&seen)
	}); err != nil {
		return nil, fmt.Errorf("pod %s: %w; last seen %s with %+v", name, err, seen.Status.Phase, seen.Status.ContainerStatuses)
	}
	return &seen, nil
}

func (n *node) until(ctx context.Context, lw *cache.ListWatch, kind runtime.Object, done func(runtime.Object) bool) error {
	ctx, cancel := n.bounded(ctx)
	defer cancel()
	_, err := watchtools.UntilWithSync(ctx, lw, kind, nil, func(e watch.Event) (bool, error) {
		return e.Type != watch.Deleted && done(e.Object), nil
	})
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// isReady is Running and Ready.
func isReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue && pod.Status.Phase == corev1.PodRunning
		}
	}
	return false
}

// kubectl runs mini's kubectl as a person would.
func kubectl(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "mini", append([]string{"kubectl", "--kubeconfig", kubeconfig}, args...)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// shell runs a line of busybox's shell in a pod's container.
func shell(ctx context.Context, pod, line string) (string, error) {
	return kubectl(ctx, "exec", pod, "--", "/bin/busybox", "sh", "-c", line)
}
