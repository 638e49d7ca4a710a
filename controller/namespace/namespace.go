package namespace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"

	"github.com/mini-k8s/mini/controller/feed"
	"github.com/mini-k8s/mini/controller/resource"
	"github.com/mini-k8s/mini/controller/work"
)

// Config is what the controller needs; all fields are required.
type Config struct {
	Client    kubernetes.Interface
	Metadata  metadata.Interface
	Informers informers.SharedInformerFactory
	Feeds     *feed.Set
	Logger    *slog.Logger
}

// Controller empties namespaces.
type Controller struct {
	cfg        Config
	namespaces listers.NamespaceLister
	pods       listers.PodLister
	sources    []feed.Source
	queue      *work.Queue[string]
}

// New subscribes to Namespaces and Pods.
func New(cfg Config) (*Controller, error) {
	if cfg.Client == nil || cfg.Metadata == nil || cfg.Informers == nil || cfg.Feeds == nil || cfg.Logger == nil {
		return nil, errors.New("namespace controller: incomplete config")
	}
	core := cfg.Informers.Core().V1()
	c := &Controller{cfg: cfg, namespaces: core.Namespaces().Lister(), pods: core.Pods().Lister()}
	c.queue = work.NewQueue(work.Config[string]{Name: "namespace", Sync: c.sync, Workers: 2, Logger: cfg.Logger})
	c.sources = []feed.Source{
		cfg.Feeds.Handle(core.Namespaces().Informer(), feed.Of(func(_, ns *corev1.Namespace) {
			if ns != nil && ns.DeletionTimestamp != nil {
				c.queue.Add(ns.Name)
			}
		})),
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

func (c *Controller) podChanged(old, pod *corev1.Pod) {
	if pod != nil {
		return
	}
	if ns, err := c.namespaces.Get(old.Namespace); err != nil || ns.DeletionTimestamp == nil {
		return
	}
	if left, err := c.pods.Pods(old.Namespace).List(labels.Everything()); err == nil && len(left) == 0 {
		c.queue.Add(old.Namespace)
	}
}

func (c *Controller) sync(ctx context.Context, name string) error {
	ns, err := c.namespaces.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return nil
	}
	if ns.Status.Phase != corev1.NamespaceTerminating {
		next := ns.DeepCopy()
		next.Status.Phase = corev1.NamespaceTerminating
		if ns, err = c.cfg.Client.CoreV1().Namespaces().UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil {
			return ignoreMissing(fmt.Errorf("write phase: %w", err))
		}
	}
	r := c.clear(ctx, name)
	if ctx.Err() != nil {
		return nil
	}
	next := ns.DeepCopy()
	next.Status.Conditions = r.conditions(ns.Status.Conditions, time.Now())
	if !equality.Semantic.DeepEqual(next.Status, ns.Status) && (!r.empty() || len(ns.Status.Conditions) > 0) {
		if next, err = c.cfg.Client.CoreV1().Namespaces().UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil {
			return ignoreMissing(fmt.Errorf("write conditions: %w", err))
		}
	}
	if !r.empty() {
		c.queue.AddAfter(name, again(ns.DeletionTimestamp.Time, time.Now()))
		return nil
	}
	next = next.DeepCopy()
	next.Spec.Finalizers = slices.DeleteFunc(next.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	if _, err := c.cfg.Client.CoreV1().Namespaces().Finalize(ctx, next, metav1.UpdateOptions{}); err != nil {
		return ignoreMissing(fmt.Errorf("finalize: %w", err))
	}
	return nil
}

func ignoreMissing(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// clear deletes what is in the namespace and reports what is left.
func (c *Controller) clear(ctx context.Context, namespace string) *report {
	r := &report{left: map[string]int{}, finalizers: map[string]int{}}
	all, err := resource.List(c.cfg.Client.Discovery())
	r.discovery = err
	all = slices.DeleteFunc(all, func(res *resource.Resource) bool { return !res.Namespaced || !res.Can("list", "delete") })
	isPods := func(res *resource.Resource) bool { return res.Group == "" && res.Resource == "pods" }
	for _, res := range all {
		if isPods(res) {
			c.clearResource(ctx, res, namespace, r)
		}
	}
	if len(r.left) > 0 || len(r.failures) > 0 {
		return r
	}
	for _, res := range all {
		if !isPods(res) && ctx.Err() == nil {
			c.clearResource(ctx, res, namespace, r)
		}
	}
	return r
}

func (c *Controller) clearResource(ctx context.Context, res *resource.Resource, namespace string, r *report) {
	client := c.cfg.Metadata.Resource(res.GroupVersionResource).Namespace(namespace)
	fail := func(err error) { r.failures = append(r.failures, fmt.Errorf("%s: %w", res.GroupResource(), err)) }
	there, err := client.List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
		return // the resource went meanwhile, or has no instances of its own
	}
	if err != nil {
		fail(err)
		return
	}
	if len(there.Items) == 0 {
		return
	}
	background := metav1.DeletePropagationBackground
	opts := metav1.DeleteOptions{PropagationPolicy: &background}
	if res.Can("deletecollection") {
		err = client.DeleteCollection(ctx, opts, metav1.ListOptions{})
	}
	if !res.Can("deletecollection") || apierrors.IsMethodNotSupported(err) {
		err = nil
		for i := range there.Items {
			if e := client.Delete(ctx, there.Items[i].Name, opts); e != nil && !apierrors.IsNotFound(e) {
				err = errors.Join(err, e)
			}
		}
	}
	if err != nil && !apierrors.IsNotFound(err) {
		fail(err)
	}
	left, err := client.List(ctx, metav1.ListOptions{})
	if err != nil {
		fail(err)
		return
	}
	r.remains(res, left.Items)
}
