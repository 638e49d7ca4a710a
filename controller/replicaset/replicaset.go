package replicaset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/mini-k8s/mini/controller/claim"
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

// Controller keeps the pods.
type Controller struct {
	cfg     Config
	kind    schema.GroupVersionKind // what owner references to a set say
	sets    sets
	pods    cache.Indexer
	sources []feed.Source
	queue   *work.Queue[cache.ObjectName]
	owned   claim.Dependents[corev1.Pod, *corev1.Pod]
}

// New keeps the pods of ReplicaSets: it subscribes to them and to Pods.
func New(cfg Config) (*Controller, error) {
	c, err := newController(cfg, replicaSetKind)
	if err != nil {
		return nil, err
	}
	api := cfg.Informers.Apps().V1().ReplicaSets()
	c.sets = replicaSets{api.Lister(), cfg.Client}
	c.sources = append(c.sources, cfg.Feeds.Handle(api.Informer(), feed.Of(func(_, rs *appsv1.ReplicaSet) {
		if rs != nil {
			c.queue.Add(cache.MetaObjectToName(rs))
		}
	})))
	return c, nil
}

// NewForReplicationControllers keeps the pods of ReplicationControllers, which want the same of it as ReplicaSets.
func NewForReplicationControllers(cfg Config) (*Controller, error) {
	c, err := newController(cfg, replicationControllerKind)
	if err != nil {
		return nil, err
	}
	api := cfg.Informers.Core().V1().ReplicationControllers()
	c.sets = replicationControllers{api.Lister(), cfg.Client}
	c.sources = append(c.sources, cfg.Feeds.Handle(api.Informer(), feed.Of(func(_, rc *corev1.ReplicationController) {
		if rc != nil {
			c.queue.Add(cache.MetaObjectToName(rc))
		}
	})))
	return c, nil
}

func newController(cfg Config, kind schema.GroupVersionKind) (*Controller, error) {
	name := strings.ToLower(kind.Kind)
	if cfg.Client == nil || cfg.Informers == nil || cfg.Feeds == nil || cfg.Logger == nil || cfg.Events == nil {
		return nil, fmt.Errorf("%s controller: incomplete config", name)
	}
	pods := cfg.Informers.Core().V1().Pods().Informer()
	if err := claim.IndexPods(pods); err != nil {
		return nil, err
	}
	c := &Controller{cfg: cfg, kind: kind, pods: pods.GetIndexer()}
	c.queue = work.NewQueue(work.Config[cache.ObjectName]{Name: name, Sync: c.sync, Workers: 4, Logger: cfg.Logger})
	c.owned = claim.Dependents[corev1.Pod, *corev1.Pod]{
		Owner: kind, Queue: c.queue.Add, Adopters: func(namespace string, set labels.Set) []cache.ObjectName {
			all, _ := c.sets.list(namespace) // a lister's cache cannot fail
			return claim.Matching(all, func(rs *appsv1.ReplicaSet) *metav1.LabelSelector { return rs.Spec.Selector }, set)
		},
	}
	c.sources = []feed.Source{cfg.Feeds.Handle(pods, feed.Of(c.owned.Changed))}
	return c, nil
}

// Run blocks until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if !feed.Wait(ctx, c.sources...) {
		return nil
	}
	return c.queue.Run(ctx)
}

func (c *Controller) sync(ctx context.Context, key cache.ObjectName) error {
	rs, err := c.sets.get(key.Namespace, key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return nil // validation does not let this through; nothing to do until it changes
	}
	pods, err := c.claim(ctx, rs, selector)
	if err != nil {
		return err
	}
	now := time.Now()
	p := plan(rs, pods, c.related(rs, pods), now)
	reason, acted := "", error(nil)
	switch {
	case p.create > 0:
		reason, acted = "FailedCreate", c.create(ctx, rs, p.create)
	case len(p.delete) > 0:
		reason, acted = "FailedDelete", c.delete(ctx, rs, p.delete)
	}
	if p.again > 0 {
		c.queue.AddAfter(key, p.again)
	}
	status := c.sets.keep(withFailure(p.status, rs.Status.Conditions, reason, acted, now))
	if equality.Semantic.DeepEqual(status, rs.Status) {
		return acted
	}
	if err := c.sets.writeStatus(ctx, rs, status); err != nil && !apierrors.IsNotFound(err) {
		return errors.Join(acted, fmt.Errorf("write status: %w", err))
	}
	return acted
}

// claim adopts and releases, and returns the pods that are the ReplicaSet's, our latest writes included.
func (c *Controller) claim(ctx context.Context, rs *appsv1.ReplicaSet, selector labels.Selector) ([]*corev1.Pod, error) {
	candidates, err := claim.PodsOf(c.pods, rs)
	if err != nil {
		return nil, err
	}
	got := claim.Plan(rs, selector, c.owned.Ahead.Over(string(rs.UID), candidates))
	client := c.cfg.Client.CoreV1().Pods(rs.Namespace)
	var errs []error
	for _, pod := range got.Release {
		patch, err := claim.ReleasePatch(rs.UID, pod.UID)
		if err == nil {
			_, err = client.Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsInvalid(err) && !apierrors.IsConflict(err) {
			errs = append(errs, fmt.Errorf("release pod %s: %w", pod.Name, err))
		}
	}
	got.Adopt = slices.DeleteFunc(got.Adopt, podstate.Terminal)
	if len(got.Adopt) > 0 {
		if err := c.mayAdopt(ctx, rs); err != nil {
			return nil, errors.Join(append(errs, err)...)
		}
	}
	for _, pod := range got.Adopt {
		patch, err := claim.AdoptPatch(rs, c.kind, pod.UID)
		if err != nil {
			return nil, err
		}
		adopted, err := client.Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		switch {
		case err == nil:
			c.owned.Ahead.Wrote(string(rs.UID), adopted)
			got.Owned = append(got.Owned, adopted)
		case apierrors.IsNotFound(err), apierrors.IsInvalid(err), apierrors.IsConflict(err): // gone, or someone else's by now
		default:
			errs = append(errs, fmt.Errorf("adopt pod %s: %w", pod.Name, err))
		}
	}
	return got.Owned, errors.Join(errs...)
}

// mayAdopt asks the API, not the cache, whether the ReplicaSet still is: adopting for one that was deleted would hand the
// pods to the garbage collector.
func (c *Controller) mayAdopt(ctx context.Context, rs *appsv1.ReplicaSet) error {
	fresh, err := c.sets.fresh(ctx, rs.Namespace, rs.Name)
	switch {
	case err != nil:
		return fmt.Errorf("adopt pods: %w", err)
	case fresh.UID != rs.UID || fresh.DeletionTimestamp != nil:
		return fmt.Errorf("adopt pods: %s %s is being deleted", c.kind.Kind, rs.Name)
	}
	return nil
}

// related returns the pods of all ReplicaSets with the same controller: those of the Deployment during a rollout.
func (c *Controller) related(rs *appsv1.ReplicaSet, own []*corev1.Pod) []*corev1.Pod {
	ref := metav1.GetControllerOfNoCopy(rs)
	if ref == nil {
		return own
	}
	sets, err := c.sets.list(rs.Namespace)
	if err != nil {
		return own
	}
	out := own[:len(own):len(own)]
	for _, other := range sets {
		if r := metav1.GetControllerOfNoCopy(other); r == nil || r.UID != ref.UID || other.UID == rs.UID {
			continue
		}
		pods, err := claim.PodsOf(c.pods, other)
		if err != nil {
			continue
		}
		for _, p := range pods {
			if metav1.IsControlledBy(p, other) {
				out = append(out, p)
			}
		}
	}
	return out
}

// create makes n pods in batches that double in size, and stops after the first batch with an error.
func (c *Controller) create(ctx context.Context, rs *appsv1.ReplicaSet, n int) error {
	for size := 1; n > 0; size *= 2 {
		batch := min(size, n)
		err := each(batch, func(int) error {
			pod, err := c.cfg.Client.CoreV1().Pods(rs.Namespace).Create(ctx, podOf(rs, c.kind), metav1.CreateOptions{})
			switch {
			case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
				return err
			case err != nil:
				c.cfg.Events.Eventf(c.reference(rs), corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
				return err
			}
			c.owned.Ahead.Wrote(string(rs.UID), pod)
			c.cfg.Events.Eventf(c.reference(rs), corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", pod.Name)
			return nil
		})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil // no pod can be made here any more
		}
		if err != nil {
			return err
		}
		n -= batch
	}
	return nil
}

func (c *Controller) delete(ctx context.Context, rs *appsv1.ReplicaSet, pods []*corev1.Pod) error {
	return each(len(pods), func(i int) error {
		pod := pods[i]
		err := c.cfg.Client.CoreV1().Pods(rs.Namespace).Delete(ctx, pod.Name,
			metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			c.cfg.Events.Eventf(c.reference(rs), corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
			return err
		default:
			c.cfg.Events.Eventf(c.reference(rs), corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", pod.Name)
		}
		c.owned.Ahead.Deleted(string(rs.UID), pod)
		return nil
	})
}

// each calls f(0) … f(n-1), up to 16 at a time, and returns the first error.
func each(n int, f func(int) error) error {
	if n == 1 {
		return f(0)
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
		slots = make(chan struct{}, 16)
	)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := f(i); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if first == nil {
					first = err
				}
			}
		})
	}
	wg.Wait()
	return first
}
