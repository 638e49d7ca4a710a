package resourcequota

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/mini-k8s/mini/controller/feed"
	apiresource "github.com/mini-k8s/mini/controller/resource"
	"github.com/mini-k8s/mini/controller/work"
	"github.com/mini-k8s/mini/internal/quota"
)

const (
	// settle is how long a quota must not have been charged before it is lowered.
	settle = 200 * time.Millisecond
	// review is when a quota is counted after it was charged.
	review = time.Second
)

// Config is what the controller needs; all fields are required.
type Config struct {
	Client    kubernetes.Interface
	Metadata  metadata.Interface
	Informers informers.SharedInformerFactory
	Feeds     *feed.Set
	Logger    *slog.Logger
}

// Controller counts.
type Controller struct {
	cfg      Config
	quotas   listers.ResourceQuotaLister
	pods     listers.PodLister
	services listers.ServiceLister
	sources  []feed.Source
	queue    *work.Queue[cache.ObjectName]

	mu        sync.Mutex
	seen      map[cache.ObjectName]map[corev1.ResourceName]sighting
	resources map[schema.GroupResource]schema.GroupVersionResource
}

// sighting is a charge, and since when it is known.
type sighting struct {
	charged resource.Quantity
	since   time.Time
}

// New subscribes to quotas, pods and Services.
func New(cfg Config) (*Controller, error) {
	if cfg.Client == nil || cfg.Metadata == nil || cfg.Informers == nil || cfg.Feeds == nil || cfg.Logger == nil {
		return nil, errors.New("resourcequota controller: incomplete config")
	}
	core := cfg.Informers.Core().V1()
	c := &Controller{
		cfg: cfg, quotas: core.ResourceQuotas().Lister(), pods: core.Pods().Lister(), services: core.Services().Lister(),
		seen: map[cache.ObjectName]map[corev1.ResourceName]sighting{},
	}
	c.queue = work.NewQueue(work.Config[cache.ObjectName]{Name: "resourcequota", Sync: c.sync, Workers: 4, Logger: cfg.Logger})
	c.sources = []feed.Source{
		cfg.Feeds.Handle(core.ResourceQuotas().Informer(), feed.Of(c.quotaChanged)),
		cfg.Feeds.Handle(core.Pods().Informer(), feed.Of(func(old, pod *corev1.Pod) {
			switch {
			case pod == nil || old != nil && old.Status.Phase != pod.Status.Phase:
				c.touch(corev1.Resource("pods"), either(pod, old).Namespace, 0)
			case old == nil || old.DeletionTimestamp == nil && pod.DeletionTimestamp != nil || old.Generation != pod.Generation:
				c.touch(corev1.Resource("pods"), pod.Namespace, review)
			}
		})),
		cfg.Feeds.Handle(core.Services().Informer(), feed.Of(func(old, service *corev1.Service) {
			c.touch(corev1.Resource("services"), either(service, old).Namespace, 0)
		})),
	}
	return c, nil
}

func either[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

// Run blocks until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if !feed.Wait(ctx, c.sources...) {
		return nil
	}
	return c.queue.Run(ctx)
}

// Gone tells that an object of the resource is gone, or, with an empty namespace, that some may be. It may be called from
// any goroutine.
func (c *Controller) Gone(gr schema.GroupResource, namespace string) { c.touch(gr, namespace, 0) }

// touch queues the quotas that are about a resource.
func (c *Controller) touch(gr schema.GroupResource, namespace string, after time.Duration) {
	quotas, err := c.quotas.ResourceQuotas(namespace).List(labels.Everything())
	if err != nil {
		return // listers of memory do not fail
	}
	for _, q := range quotas {
		if len(quota.Relevant(gr, q.Spec.Hard)) == 0 {
			continue
		}
		if after == 0 {
			c.queue.Add(cache.MetaObjectToName(q))
		} else {
			c.queue.AddAfter(cache.MetaObjectToName(q), after)
		}
	}
}

func (c *Controller) quotaChanged(old, q *corev1.ResourceQuota) {
	if q == nil {
		c.queue.Add(cache.MetaObjectToName(old)) // forgets it
		return
	}
	if old == nil || !quota.Equal(q.Spec.Hard, q.Status.Hard) {
		c.queue.Add(cache.MetaObjectToName(q))
	}
	c.queue.AddAfter(cache.MetaObjectToName(q), review)
}

func (c *Controller) sync(ctx context.Context, key cache.ObjectName) error {
	q, err := c.quotas.ResourceQuotas(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && q.DeletionTimestamp != nil {
		c.forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	settled := c.settled(key, q.Status.Used)
	counted, err := c.count(ctx, q)
	if err != nil {
		return fmt.Errorf("count what quota %s is about: %w", key, err)
	}
	next, again := plan(q, counted, settled)
	if again {
		c.queue.AddAfter(key, settle)
	}
	if next == nil {
		return nil
	}
	changed := q.DeepCopy()
	changed.Status = *next
	_, err = c.cfg.Client.CoreV1().ResourceQuotas(q.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case apierrors.IsConflict(err): // charged meanwhile, or about to be stored
		c.queue.AddAfter(key, settle/2)
		return nil
	}
	return err
}

// settled says of each name whether its charge has been the same for long enough, as far as it is known here.
func (c *Controller) settled(key cache.ObjectName, used corev1.ResourceList) func(corev1.ResourceName) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	before := c.seen[key]
	seen := make(map[corev1.ResourceName]sighting, len(used))
	for name, charged := range used {
		s, known := before[name]
		if !known || s.charged.Cmp(charged) != 0 {
			s = sighting{charged, now}
		}
		seen[name] = s
	}
	c.seen[key] = seen
	return func(name corev1.ResourceName) bool {
		s, known := seen[name]
		return known && now.Sub(s.since) >= settle
	}
}

func (c *Controller) forget(key cache.ObjectName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.seen, key)
}

// count adds up what there is of everything the quota is about.
func (c *Controller) count(ctx context.Context, q *corev1.ResourceQuota) (corev1.ResourceList, error) {
	sum := quota.NewSum(&q.Spec)
	now := time.Now()
	done := map[schema.GroupResource]bool{}
	for name := range q.Spec.Hard {
		gr, ok := quota.Resource(name)
		if !ok || done[gr] {
			continue
		}
		done[gr] = true
		var err error
		switch gr {
		case corev1.Resource("pods"):
			err = c.countPods(cache.MetaObjectToName(q), sum, now)
		case corev1.Resource("services"):
			var services []*corev1.Service
			services, err = c.services.Services(q.Namespace).List(labels.Everything())
			for _, s := range services {
				sum.Add(gr, s, now)
			}
		case corev1.Resource("persistentvolumeclaims"):
			err = c.countClaims(ctx, q.Namespace, sum, now)
		default:
			err = c.countOthers(ctx, q.Namespace, gr, sum)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", gr, err)
		}
	}
	return sum.Used(), nil
}

// countPods also asks for another look when the time of a pod that is being deleted is over.
func (c *Controller) countPods(key cache.ObjectName, sum *quota.Sum, now time.Time) error {
	pods, err := c.pods.Pods(key.Namespace).List(labels.Everything())
	for _, pod := range pods {
		sum.Add(corev1.Resource("pods"), pod, now)
		if pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil {
			end := pod.DeletionTimestamp.Add(time.Duration(*pod.DeletionGracePeriodSeconds)*time.Second + time.Millisecond)
			if end.After(now) {
				c.queue.AddAfter(key, end.Sub(now))
			}
		}
	}
	return err
}

func (c *Controller) countClaims(ctx context.Context, namespace string, sum *quota.Sum, now time.Time) error {
	list, err := c.cfg.Client.CoreV1().PersistentVolumeClaims(namespace).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for i := range list.Items {
		sum.Add(corev1.Resource("persistentvolumeclaims"), &list.Items[i], now)
	}
	return nil
}

// countOthers asks for one object and how many more there are. Of a resource that is not served there are none.
func (c *Controller) countOthers(ctx context.Context, namespace string, gr schema.GroupResource, sum *quota.Sum) error {
	gvr, ok, err := c.find(gr)
	if err != nil || !ok {
		return err
	}
	list, err := c.cfg.Metadata.Resource(gvr).Namespace(namespace).List(ctx, metav1.ListOptions{Limit: 1})
	if apierrors.IsNotFound(err) { // another version now, or gone
		c.mu.Lock()
		c.resources = nil
		c.mu.Unlock()
		return nil
	}
	if err != nil {
		return err
	}
	n := int64(len(list.Items))
	if more := list.GetRemainingItemCount(); more != nil {
		n += *more
	}
	sum.AddCount(gr, n)
	return nil
}

// find looks up in which version a resource is served. A resource that is not known makes it ask anew: it may just have
// been defined.
func (c *Controller) find(gr schema.GroupResource) (schema.GroupVersionResource, bool, error) {
	c.mu.Lock()
	gvr, ok := c.resources[gr]
	c.mu.Unlock()
	if ok {
		return gvr, true, nil
	}
	all, err := apiresource.List(c.cfg.Client.Discovery())
	found := make(map[schema.GroupResource]schema.GroupVersionResource, len(all))
	for _, r := range all {
		if r.Namespaced && r.Can("list") {
			found[r.GroupResource()] = r.GroupVersionResource
		}
	}
	c.mu.Lock()
	c.resources = found
	c.mu.Unlock()
	if gvr, ok = found[gr]; ok {
		return gvr, true, nil
	}
	return gvr, false, err
}
