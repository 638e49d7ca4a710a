package tainteviction

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// Config is what the controller needs; all fields are required.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Feeds     *feed.Set
	Events    record.EventRecorder
	Logger    *slog.Logger
}

// Controller evicts.
type Controller struct {
	cfg     Config
	pods    listers.PodLister
	byNode  cache.Indexer
	sources []feed.Source
	queue   *work.Queue[cache.ObjectName]

	mu   sync.Mutex
	seen map[string][]corev1.Taint // by node: its NoExecute taints, with the time they were added or first seen
}

// New subscribes to Nodes and Pods.
func New(cfg Config) (*Controller, error) {
	if cfg.Client == nil || cfg.Informers == nil || cfg.Feeds == nil || cfg.Logger == nil || cfg.Events == nil {
		return nil, errors.New("taint eviction controller: incomplete config")
	}
	core := cfg.Informers.Core().V1()
	if err := podstate.IndexByNode(core.Pods().Informer()); err != nil {
		return nil, err
	}
	c := &Controller{cfg: cfg, pods: core.Pods().Lister(), byNode: core.Pods().Informer().GetIndexer(), seen: map[string][]corev1.Taint{}}
	c.queue = work.NewQueue(work.Config[cache.ObjectName]{Name: "tainteviction", Sync: c.sync, Workers: 4, Logger: cfg.Logger})
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
	return c.queue.Run(ctx)
}

func noExecute(node *corev1.Node) (out []corev1.Taint) {
	if node == nil {
		return nil
	}
	for _, t := range node.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			out = append(out, t)
		}
	}
	return out
}

func (c *Controller) nodeChanged(old, node *corev1.Node) {
	if node == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.seen, old.Name)
		return
	}
	if equality.Semantic.DeepEqual(noExecute(old), noExecute(node)) {
		return
	}
	c.remember(node)
	pods, err := podstate.OnNode(c.byNode, node.Name)
	if err != nil {
		return
	}
	for _, p := range pods {
		c.queue.Add(cache.MetaObjectToName(p))
	}
}

// remember keeps the node's taints; one that kubectl added has no time, so what counts is when it was seen first.
func (c *Controller) remember(node *corev1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	taints := noExecute(node)
	for i := range taints {
		if taints[i].TimeAdded != nil {
			continue
		}
		taints[i].TimeAdded = &metav1.Time{Time: time.Now()}
		for _, before := range c.seen[node.Name] {
			if before.MatchTaint(&taints[i]) && before.Value == taints[i].Value {
				taints[i].TimeAdded = before.TimeAdded
			}
		}
	}
	if len(taints) == 0 {
		delete(c.seen, node.Name)
		return
	}
	c.seen[node.Name] = taints
}

func (c *Controller) taintsOf(node string) []corev1.Taint {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[node]
}

func (c *Controller) podChanged(old, pod *corev1.Pod) {
	if pod == nil || pod.Spec.NodeName == "" || pod.DeletionTimestamp != nil {
		return
	}
	if old != nil && old.Spec.NodeName == pod.Spec.NodeName && equality.Semantic.DeepEqual(old.Spec.Tolerations, pod.Spec.Tolerations) {
		return
	}
	if len(c.taintsOf(pod.Spec.NodeName)) > 0 {
		c.queue.Add(cache.MetaObjectToName(pod))
	}
}

// plan says when the pod must go because of the taints, all of which have their TimeAdded; ok is false when it may stay for
// good.
func plan(pod *corev1.Pod, taints []corev1.Taint, now time.Time) (at time.Time, ok bool) {
	for i := range taints {
		taint := &taints[i]
		tolerated, seconds := false, int64(math.MaxInt64)
		for j := range pod.Spec.Tolerations {
			t := &pod.Spec.Tolerations[j]
			if !tolerates(t, taint) {
				continue
			}
			tolerated = true
			if t.TolerationSeconds == nil {
				continue
			}
			seconds = min(seconds, max(*t.TolerationSeconds, 0))
		}
		if tolerated && seconds == math.MaxInt64 {
			continue
		}
		due := now
		if tolerated {
			start := pod.CreationTimestamp.Time
			if taint.TimeAdded != nil && taint.TimeAdded.After(start) {
				start = taint.TimeAdded.Time
			}
			due = start.Add(time.Duration(min(seconds, math.MaxInt32)) * time.Second)
		}
		if !ok || due.Before(at) {
			at, ok = due, true
		}
	}
	return at, ok
}

// tolerates is the rule of the API (Toleration): an empty key with Exists matches every taint, an empty effect all effects.
func tolerates(t *corev1.Toleration, taint *corev1.Taint) bool {
	if t.Effect != "" && t.Effect != taint.Effect {
		return false
	}
	if t.Key != "" && t.Key != taint.Key {
		return false
	}
	switch t.Operator {
	case corev1.TolerationOpExists:
		return true
	case "", corev1.TolerationOpEqual:
		return t.Key != "" && t.Value == taint.Value
	}
	return false
}

func (c *Controller) sync(ctx context.Context, key cache.ObjectName) error {
	pod, err := c.pods.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if pod.DeletionTimestamp != nil || pod.Spec.NodeName == "" {
		return nil
	}
	now := time.Now()
	at, ok := plan(pod, c.taintsOf(pod.Spec.NodeName), now)
	if !ok {
		return nil
	}
	if wait := at.Sub(now); wait > 0 {
		c.queue.AddAfter(key, wait)
		return nil
	}
	return c.evict(ctx, pod)
}

func (c *Controller) evict(ctx context.Context, pod *corev1.Pod) error {
	c.cfg.Events.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s/%s", pod.Namespace, pod.Name)
	client := c.cfg.Client.CoreV1().Pods(pod.Namespace)
	if cond := podstate.Condition(pod, corev1.DisruptionTarget); cond == nil || cond.Status != corev1.ConditionTrue {
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"uid": pod.UID},
			"status": map[string]any{"conditions": []corev1.PodCondition{{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByTaintManager",
				Message: "Taint manager: deleting due to NoExecute taint", LastTransitionTime: metav1.Now(),
			}}},
		})
		if err != nil {
			return err
		}
		_, err = client.Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("mark pod as disrupted: %w", err)
		}
	}
	err := client.Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("evict pod: %w", err)
	}
	return nil
}
