package podgc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/mini-k8s/mini/controller/feed"
	"github.com/mini-k8s/mini/controller/podstate"
	"github.com/mini-k8s/mini/controller/work"
)

// quarantine is how long a node must be missing.
const quarantine = 40 * time.Second

// Config is what the controller needs.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Feeds     *feed.Set
	Logger    *slog.Logger
	// Threshold is how many ended pods may stay; 0 means 12500, kube-controller-manager's default.
	Threshold int
}

// Controller deletes pods.
type Controller struct {
	cfg     Config
	nodes   listers.NodeLister
	pods    listers.PodLister
	byNode  cache.Indexer
	sources []feed.Source
	missing *work.Queue[string]           // nodes
	queue   *work.Queue[cache.ObjectName] // pods that are being deleted; an empty name counts the ended ones

	mu    sync.Mutex
	ended map[cache.ObjectName]bool
}

// New subscribes to Nodes and Pods.
func New(cfg Config) (*Controller, error) {
	if cfg.Client == nil || cfg.Informers == nil || cfg.Feeds == nil || cfg.Logger == nil {
		return nil, errors.New("podgc controller: incomplete config")
	}
	if cfg.Threshold == 0 {
		cfg.Threshold = 12500
	}
	core := cfg.Informers.Core().V1()
	if err := podstate.IndexByNode(core.Pods().Informer()); err != nil {
		return nil, err
	}
	c := &Controller{
		cfg: cfg, nodes: core.Nodes().Lister(), pods: core.Pods().Lister(), byNode: core.Pods().Informer().GetIndexer(),
		ended: map[cache.ObjectName]bool{},
	}
	c.missing = work.NewQueue(work.Config[string]{Name: "podgc-nodes", Sync: c.syncNode, Logger: cfg.Logger})
	c.queue = work.NewQueue(work.Config[cache.ObjectName]{Name: "podgc", Sync: c.syncPod, Logger: cfg.Logger})
	c.sources = []feed.Source{
		cfg.Feeds.Handle(core.Nodes().Informer(), feed.Of(c.nodeChanged)),
		cfg.Feeds.Handle(core.Pods().Informer(), feed.Of(c.podChanged)),
	}
	return c, nil
}

// Run blocks until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if !feed.Wait(ctx, c.sources...) {
		return nil
	}
	// Pods whose node went while nobody was looking had no event of it.
	pods, err := c.pods.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, p := range pods {
		if p.Spec.NodeName != "" {
			if _, err := c.nodes.Get(p.Spec.NodeName); apierrors.IsNotFound(err) {
				c.missing.AddAfter(p.Spec.NodeName, quarantine)
			}
		}
	}
	done := make(chan error, 1)
	go func() { done <- c.missing.Run(ctx) }()
	return errors.Join(c.queue.Run(ctx), <-done)
}

func (c *Controller) nodeChanged(old, node *corev1.Node) {
	if node == nil {
		c.missing.AddAfter(old.Name, quarantine)
		return
	}
	if outOfService(node) && (old == nil || !outOfService(old)) {
		c.missing.Add(node.Name)
	}
}

// outOfService: an administrator says that the node is off and will not come back by itself.
func outOfService(node *corev1.Node) bool {
	for i := range node.Status.Conditions {
		if c := &node.Status.Conditions[i]; c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return false
		}
	}
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

func (c *Controller) podChanged(old, pod *corev1.Pod) {
	if pod == nil {
		c.count(cache.MetaObjectToName(old), false)
		return
	}
	key := cache.MetaObjectToName(pod)
	c.count(key, podstate.Terminal(pod))
	if pod.DeletionTimestamp != nil {
		if pod.Spec.NodeName == "" {
			c.queue.Add(key)
		} else if node, err := c.nodes.Get(pod.Spec.NodeName); err == nil && outOfService(node) {
			c.missing.Add(node.Name)
		}
	}
	if pod.Spec.NodeName != "" && (old == nil || old.Spec.NodeName == "") {
		// Bound to a node that has just gone; a node that is not in the cache yet is there in 40 s.
		if _, err := c.nodes.Get(pod.Spec.NodeName); apierrors.IsNotFound(err) {
			c.missing.AddAfter(pod.Spec.NodeName, quarantine)
		}
	}
}

func (c *Controller) count(key cache.ObjectName, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !ended {
		delete(c.ended, key)
		return
	}
	c.ended[key] = true
	if len(c.ended) > c.cfg.Threshold {
		c.queue.Add(cache.ObjectName{})
	}
}

// surplus returns the pods to delete so that no more than threshold ended ones stay: evicted first, then the oldest.
func surplus(pods []*corev1.Pod, threshold int) []*corev1.Pod {
	var ended []*corev1.Pod
	for _, p := range pods {
		if podstate.Terminal(p) && p.DeletionTimestamp == nil {
			ended = append(ended, p)
		}
	}
	if len(ended) <= threshold {
		return nil
	}
	evicted := func(p *corev1.Pod) int {
		if p.Status.Reason == "Evicted" {
			return 0
		}
		return 1
	}
	slices.SortFunc(ended, func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(evicted(a), evicted(b)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return ended[:len(ended)-threshold]
}

func (c *Controller) syncPod(ctx context.Context, key cache.ObjectName) error {
	if key.Name == "" {
		pods, err := c.pods.List(labels.Everything())
		if err != nil {
			return err
		}
		var errs []error
		for _, p := range surplus(pods, c.cfg.Threshold) {
			errs = append(errs, c.delete(ctx, p))
		}
		return errors.Join(errs...)
	}
	pod, err := c.pods.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if pod.DeletionTimestamp == nil || pod.Spec.NodeName != "" {
		return nil
	}
	return c.fail(ctx, pod, nil)
}

// syncNode deletes the pods of a node that is no more, or out of service.
func (c *Controller) syncNode(ctx context.Context, name string) error {
	pods, err := podstate.OnNode(c.byNode, name)
	if err != nil || len(pods) == 0 {
		return err
	}
	node, err := c.cfg.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("get node: %w", err)
	}
	var errs []error
	for _, p := range pods {
		switch {
		case apierrors.IsNotFound(err):
			errs = append(errs, c.fail(ctx, p, &corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByPodGC",
				Message: "PodGC: node no longer exists", LastTransitionTime: metav1.Now(),
			}))
		case node != nil && outOfService(node) && p.DeletionTimestamp != nil:
			errs = append(errs, c.fail(ctx, p, nil))
		}
	}
	return errors.Join(errs...)
}

// fail marks the pod as failed, unless it has ended, and deletes it.
func (c *Controller) fail(ctx context.Context, pod *corev1.Pod, cond *corev1.PodCondition) error {
	if !podstate.Terminal(pod) {
		status := map[string]any{"phase": corev1.PodFailed}
		if cond != nil {
			status["conditions"] = []corev1.PodCondition{*cond}
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
		if err != nil {
			return err
		}
		_, err = c.cfg.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("mark pod %s/%s as failed: %w", pod.Namespace, pod.Name, err)
		}
	}
	return c.delete(ctx, pod)
}

func (c *Controller) delete(ctx context.Context, pod *corev1.Pod) error {
	now := int64(0)
	err := c.cfg.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name,
		metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	c.cfg.Logger.Info("pod collected", "namespace", pod.Namespace, "pod", pod.Name, "node", pod.Spec.NodeName)
	return nil
}
