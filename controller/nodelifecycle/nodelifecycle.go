package nodelifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/mini-k8s/mini/controller/feed"
	"github.com/mini-k8s/mini/controller/podstate"
	"github.com/mini-k8s/mini/controller/work"
)

// Config is what the controller needs.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Feeds     *feed.Set
	Events    record.EventRecorder
	Logger    *slog.Logger
	// Grace is how long a node may be silent, Startup how long one that has never said anything; 0 means 40 s and 60 s.
	Grace, Startup time.Duration
}

// Controller watches over nodes.
type Controller struct {
	cfg     Config
	nodes   listers.NodeLister
	pods    cache.Indexer
	sources []feed.Source
	queue   *work.Queue[string]

	mu      sync.Mutex
	seen    map[string]time.Time // last heartbeat, by node
	mark    map[string]bool      // nodes that stopped being ready, whose pods have not been marked yet
	evicted map[string]time.Time // last NoExecute taint added, by zone
	since   map[string]time.Time // when the node's readiness last changed, as seen here
	calm    bool                 // no node is ready, though one was
	ready   bool                 // a node has been ready
}

// hesitate is how long a node must have said NotReady itself before its pods are to go: a kubelet that starts says so too.
const hesitate = 5 * time.Second

// New subscribes to Nodes, Leases and Pods.
func New(cfg Config) (*Controller, error) {
	if cfg.Client == nil || cfg.Informers == nil || cfg.Feeds == nil || cfg.Logger == nil || cfg.Events == nil {
		return nil, errors.New("node lifecycle controller: incomplete config")
	}
	if cfg.Grace == 0 {
		cfg.Grace = 40 * time.Second
	}
	if cfg.Startup == 0 {
		cfg.Startup = 60 * time.Second
	}
	core, leases := cfg.Informers.Core().V1(), cfg.Informers.Coordination().V1().Leases()
	if err := podstate.IndexByNode(core.Pods().Informer()); err != nil {
		return nil, err
	}
	c := &Controller{
		cfg: cfg, nodes: core.Nodes().Lister(), pods: core.Pods().Informer().GetIndexer(),
		seen: map[string]time.Time{}, mark: map[string]bool{}, evicted: map[string]time.Time{},
		since: map[string]time.Time{},
	}
	c.queue = work.NewQueue(work.Config[string]{Name: "nodelifecycle", Sync: c.sync, Logger: cfg.Logger})
	c.sources = []feed.Source{
		cfg.Feeds.Handle(core.Nodes().Informer(), feed.Of(c.nodeChanged)),
		cfg.Feeds.Handle(leases.Informer(), feed.Of(c.leaseChanged)),
		cfg.Feeds.Read(core.Pods().Informer()),
	}
	return c, nil
}

// Run blocks until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if !feed.Wait(ctx, c.sources...) {
		return nil
	}
	return c.queue.Run(ctx)
}

// leaseChanged notes a heartbeat. It queues nothing: the node's timer looks at the time when it fires.
func (c *Controller) leaseChanged(old, lease *coordinationv1.Lease) {
	if lease == nil || lease.Namespace != corev1.NamespaceNodeLease || (old != nil && old.Spec.RenewTime.Equal(lease.Spec.RenewTime)) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.seen[lease.Name]; ok {
		c.seen[lease.Name] = time.Now()
	}
}

func (c *Controller) nodeChanged(old, node *corev1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if node == nil {
		delete(c.seen, old.Name)
		delete(c.mark, old.Name)
		delete(c.since, old.Name)
		c.cfg.Events.Eventf(old, corev1.EventTypeNormal, "RemovingNode", "Node %s event: Removing Node %s from Controller", old.Name, old.Name)
		return
	}
	if _, ok := c.seen[node.Name]; !ok || heartbeat(old) != heartbeat(node) {
		c.seen[node.Name] = time.Now()
	}
	if old == nil {
		c.cfg.Events.Eventf(node, corev1.EventTypeNormal, "RegisteredNode", "Node %s event: Registered Node %s in Controller", node.Name, node.Name)
	} else if readyStatus(old) == corev1.ConditionTrue && readyStatus(node) != corev1.ConditionTrue {
		c.mark[node.Name] = true
		c.cfg.Events.Eventf(node, corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: NodeNotReady", node.Name)
	}
	if readyStatus(node) == corev1.ConditionTrue {
		delete(c.mark, node.Name)
	}
	c.queue.Add(node.Name)
	if old == nil || readyStatus(old) != readyStatus(node) {
		c.since[node.Name] = time.Now()
		c.queueWaitingLocked(node.Name)
	}
}

// queueWaitingLocked looks again at the nodes that are not ready: how one fares decides about the others.
func (c *Controller) queueWaitingLocked(except string) {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return
	}
	for _, n := range nodes {
		if s := readyStatus(n); n.Name != except && s != corev1.ConditionTrue && s != "" {
			c.queue.Add(n.Name)
		}
	}
}

// heartbeat is the time in the status, which changes with every report of the kubelet.
func heartbeat(node *corev1.Node) int64 {
	if node == nil {
		return 0
	}
	if c := condition(node, corev1.NodeReady); c != nil {
		return c.LastHeartbeatTime.Unix()
	}
	return 0
}

func (c *Controller) sync(ctx context.Context, name string) error {
	node, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	now := time.Now()
	c.mu.Lock()
	seen, ok := c.seen[name]
	c.mu.Unlock()
	if !ok {
		return nil // its event is on the way
	}
	conditions, changed, again := health(node, seen, now, c.cfg.Grace, c.cfg.Startup)
	if changed {
		c.cfg.Logger.Warn("node is silent", "node", name, "for", now.Sub(seen).Round(time.Second))
		next := node.DeepCopy()
		next.Status.Conditions = conditions
		if _, err := c.cfg.Client.CoreV1().Nodes().UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("write node status: %w", err)
		}
		return nil // goes on when the change has come back
	}
	if again > 0 {
		c.queue.AddAfter(name, again)
	}
	state, err := c.state()
	if err != nil {
		return err
	}
	if err := c.taint(ctx, node, state, now); err != nil {
		return err
	}
	return c.markPods(ctx, node, state)
}

// state judges the whole cluster and says so when it changes between calm and not.
func (c *Controller) state() (disruption, error) {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return disruption{}, err
	}
	d := judge(nodes)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ready = c.ready || d.ready
	if calm := d.calm && c.ready; calm != c.calm {
		c.calm = calm
		if calm {
			c.cfg.Logger.Warn("no node is ready: nothing is evicted until one is", "nodes", len(nodes))
		} else {
			c.cfg.Logger.Info("a node is ready again: pods of nodes that are not will be evicted in time")
		}
	}
	return d, nil
}

func (c *Controller) taint(ctx context.Context, node *corev1.Node, state disruption, now time.Time) error {
	zone := zoneOf(node)
	every, ok := state.pace(zone)
	c.mu.Lock()
	wait := c.evicted[zone].Add(every).Sub(now)
	if readyStatus(node) == corev1.ConditionFalse {
		wait = max(wait, c.since[node.Name].Add(hesitate).Sub(now))
	}
	c.mu.Unlock()
	want, changed, waiting := taints(node, now, ok && wait <= 0, state.calm)
	if waiting && ok {
		c.queue.AddAfter(node.Name, wait)
	}
	if !changed {
		return nil
	}
	if len(want) == 0 {
		want = []corev1.Taint{} // a null would leave them
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID, "resourceVersion": node.ResourceVersion},
		"spec":     map[string]any{"taints": want},
	})
	if err != nil {
		return err
	}
	_, err = c.cfg.Client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("write taints: %w", err)
	}
	if countNoExecute(want) > countNoExecute(node.Spec.Taints) {
		c.mu.Lock()
		c.evicted[zone] = now
		c.mu.Unlock()
		c.cfg.Logger.Warn("pods of node will be evicted when they tolerate it no longer", "node", node.Name)
	}
	return nil
}

func countNoExecute(taints []corev1.Taint) (n int) {
	for _, t := range taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			n++
		}
	}
	return n
}

// markPods takes readiness from the pods of a node that lost it. While nothing is heard from the node that holds for every
// pod of it; a kubelet that says NotReady itself still reports its pods, so for it only the change counts.
func (c *Controller) markPods(ctx context.Context, node *corev1.Node, state disruption) error {
	status := readyStatus(node)
	c.mu.Lock()
	marked := c.mark[node.Name]
	c.mu.Unlock()
	if state.calm || (status != corev1.ConditionUnknown && !marked) {
		return nil
	}
	pods, err := podstate.OnNode(c.pods, node.Name)
	if err != nil {
		return err
	}
	var errs []error
	for _, pod := range pods {
		if podstate.Ready(pod) {
			errs = append(errs, c.markPod(ctx, pod))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.mark, node.Name)
	return nil
}

func (c *Controller) markPod(ctx context.Context, pod *corev1.Pod) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status": map[string]any{"conditions": []map[string]any{{
			"type": corev1.PodReady, "status": corev1.ConditionFalse, "reason": "NodeNotReady", "message": "Node is not ready",
			"lastTransitionTime": metav1.Now(),
		}}},
	})
	if err != nil {
		return err
	}
	_, err = c.cfg.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return nil // gone, or another pod of that name
	case err != nil:
		return fmt.Errorf("mark pod %s/%s as not ready: %w", pod.Namespace, pod.Name, err)
	}
	c.cfg.Events.Event(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
	return nil
}
