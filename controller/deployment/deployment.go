package deployment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/mini-k8s/mini/controller/claim"
	"github.com/mini-k8s/mini/controller/feed"
	"github.com/mini-k8s/mini/controller/podstate"
	"github.com/mini-k8s/mini/controller/work"
)

// Kind is what owner references to a Deployment say.
var Kind = appsv1.SchemeGroupVersion.WithKind("Deployment")

// Config is what the controller needs; all fields are required.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Feeds     *feed.Set
	Events    record.EventRecorder
	Logger    *slog.Logger
}

// Controller rolls out.
type Controller struct {
	cfg         Config
	deployments listers.DeploymentLister
	sets        listers.ReplicaSetLister
	pods        cache.Indexer
	sources     []feed.Source
	queue       *work.Queue[cache.ObjectName]
	owned       claim.Dependents[appsv1.ReplicaSet, *appsv1.ReplicaSet]
	ahead       work.Ahead[*appsv1.Deployment] // by its name
}

// New subscribes to Deployments, ReplicaSets and Pods.
func New(cfg Config) (*Controller, error) {
	if cfg.Client == nil || cfg.Informers == nil || cfg.Feeds == nil || cfg.Logger == nil || cfg.Events == nil {
		return nil, errors.New("deployment controller: incomplete config")
	}
	apps, pods := cfg.Informers.Apps().V1(), cfg.Informers.Core().V1().Pods().Informer()
	if err := claim.IndexPods(pods); err != nil {
		return nil, err
	}
	c := &Controller{cfg: cfg, deployments: apps.Deployments().Lister(), sets: apps.ReplicaSets().Lister(), pods: pods.GetIndexer()}
	c.queue = work.NewQueue(work.Config[cache.ObjectName]{Name: "deployment", Sync: c.sync, Workers: 4, Logger: cfg.Logger})
	c.owned = claim.Dependents[appsv1.ReplicaSet, *appsv1.ReplicaSet]{
		Owner: Kind, Queue: c.queue.Add, Adopters: func(namespace string, set labels.Set) []cache.ObjectName {
			all, _ := c.deployments.Deployments(namespace).List(labels.Everything()) // a lister's cache cannot fail
			return claim.Matching(all, func(d *appsv1.Deployment) *metav1.LabelSelector { return d.Spec.Selector }, set)
		},
	}
	c.sources = []feed.Source{
		cfg.Feeds.Handle(apps.Deployments().Informer(), feed.Of(c.changed)),
		cfg.Feeds.Handle(apps.ReplicaSets().Informer(), feed.Of(c.owned.Changed)),
		cfg.Feeds.Handle(pods, feed.Of(c.podChanged)),
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

func (c *Controller) changed(old, d *appsv1.Deployment) {
	if d == nil {
		c.ahead.Gone(old.Namespace+"/"+old.Name, old)
		return
	}
	c.ahead.Seen(d.Namespace+"/"+d.Name, d)
	c.queue.Add(cache.MetaObjectToName(d))
}

// podChanged matters to Recreate only, which waits for the last old pod to end.
func (c *Controller) podChanged(old, pod *corev1.Pod) {
	if old == nil || (pod != nil && podstate.Terminal(old) == podstate.Terminal(pod)) {
		return
	}
	ref := metav1.GetControllerOfNoCopy(old)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return
	}
	rs, err := c.sets.ReplicaSets(old.Namespace).Get(ref.Name)
	if err != nil || rs.UID != ref.UID {
		return
	}
	if owner := metav1.GetControllerOfNoCopy(rs); owner != nil {
		if d, err := c.deployments.Deployments(old.Namespace).Get(owner.Name); err == nil && !rolling(d) {
			c.queue.Add(cache.MetaObjectToName(d))
		}
	}
}

func (c *Controller) sync(ctx context.Context, key cache.ObjectName) error {
	d, err := c.deployments.Deployments(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	d = c.ahead.Over(key.String(), []*appsv1.Deployment{d})[0]
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil || selector.Empty() {
		c.cfg.Events.Event(d, corev1.EventTypeWarning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
		return nil
	}
	sets, err := c.claim(ctx, d, selector)
	if err != nil {
		return err
	}
	s := snapshot{deployment: d, sets: sets, now: time.Now()}
	if !rolling(d) {
		s.oldPods = c.oldPods(d, sets)
	}
	p := plan(s)
	err = c.apply(ctx, d, p)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		c.ahead.Forget(key.String(), d.Name) // what we took for the latest is not
	}
	if err == nil && p.again > 0 {
		c.queue.AddAfter(key, p.again)
	}
	return err
}

// claim adopts and releases ReplicaSets and returns the Deployment's own, our latest writes included.
func (c *Controller) claim(ctx context.Context, d *appsv1.Deployment, selector labels.Selector) ([]*appsv1.ReplicaSet, error) {
	candidates, err := c.sets.ReplicaSets(d.Namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	got := claim.Plan(d, selector, c.owned.Ahead.Over(string(d.UID), candidates))
	client := c.cfg.Client.AppsV1().ReplicaSets(d.Namespace)
	var errs []error
	for _, rs := range got.Release {
		patch, err := claim.ReleasePatch(d.UID, rs.UID)
		if err == nil {
			_, err = client.Patch(ctx, rs.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsInvalid(err) && !apierrors.IsConflict(err) {
			errs = append(errs, fmt.Errorf("release ReplicaSet %s: %w", rs.Name, err))
		}
	}
	if len(got.Adopt) > 0 {
		fresh, err := c.cfg.Client.AppsV1().Deployments(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
		if err != nil {
			return nil, errors.Join(append(errs, fmt.Errorf("adopt ReplicaSets: %w", err))...)
		}
		if fresh.UID != d.UID || fresh.DeletionTimestamp != nil {
			got.Adopt = nil
		}
	}
	for _, rs := range got.Adopt {
		patch, err := claim.AdoptPatch(d, Kind, rs.UID)
		if err != nil {
			return nil, err
		}
		adopted, err := client.Patch(ctx, rs.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		switch {
		case err == nil:
			c.owned.Ahead.Wrote(string(d.UID), adopted)
			got.Owned = append(got.Owned, adopted)
		case apierrors.IsNotFound(err), apierrors.IsInvalid(err), apierrors.IsConflict(err):
		default:
			errs = append(errs, fmt.Errorf("adopt ReplicaSet %s: %w", rs.Name, err))
		}
	}
	return got.Owned, errors.Join(errs...)
}

// oldPods says whether a pod of a former template has not ended yet.
func (c *Controller) oldPods(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) bool {
	current := newRollout(snapshot{deployment: d, sets: sets}).current
	for _, rs := range sets {
		if current != nil && rs.UID == current.UID {
			continue
		}
		pods, err := claim.PodsOf(c.pods, rs)
		if err != nil {
			return true
		}
		for _, p := range pods {
			if metav1.IsControlledBy(p, rs) && !podstate.Terminal(p) {
				return true
			}
		}
	}
	return false
}

func (c *Controller) apply(ctx context.Context, d *appsv1.Deployment, p changes) error {
	if p.create != nil {
		if err := c.create(ctx, d, p.create); err != nil {
			return err
		}
	}
	client := c.cfg.Client.AppsV1().ReplicaSets(d.Namespace)
	for _, u := range p.update {
		made, err := client.Update(ctx, u.set, metav1.UpdateOptions{})
		if err != nil {
			c.owned.Ahead.Forget(string(d.UID), u.set.Name)
			return fmt.Errorf("update ReplicaSet %s: %w", u.set.Name, err)
		}
		c.owned.Ahead.Wrote(string(d.UID), made)
		if to := replicas(u.set.Spec.Replicas); to != u.from {
			direction := "up"
			if to < u.from {
				direction = "down"
			}
			c.cfg.Events.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", direction, u.set.Name, u.from, to)
		}
	}
	for _, rs := range p.delete {
		err := client.Delete(ctx, rs.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(rs.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete ReplicaSet %s: %w", rs.Name, err)
		}
		c.owned.Ahead.Deleted(string(d.UID), rs)
	}
	if p.revision != "" {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid": d.UID, "annotations": map[string]string{annotationRevision: p.revision},
		}})
		if err != nil {
			return err
		}
		status := d.Status
		d, err = c.cfg.Client.AppsV1().Deployments(d.Namespace).Patch(ctx, d.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err != nil {
			return fmt.Errorf("set revision: %w", err)
		}
		if !equality.Semantic.DeepEqual(status, d.Status) {
			return errors.New("status changed meanwhile")
		}
	}
	return c.writeStatus(ctx, d, p.status)
}

func (c *Controller) writeStatus(ctx context.Context, d *appsv1.Deployment, status appsv1.DeploymentStatus) error {
	if equality.Semantic.DeepEqual(d.Status, status) {
		return nil
	}
	next := d.DeepCopy()
	next.Status = status
	made, err := c.cfg.Client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	c.ahead.Wrote(d.Namespace+"/"+d.Name, made)
	return nil
}

// create makes the new ReplicaSet. One that is there already under its name is either the very same, made by a sync whose
// answer was lost, or a collision of hashes, which the next sync avoids by counting it.
func (c *Controller) create(ctx context.Context, d *appsv1.Deployment, rs *appsv1.ReplicaSet) error {
	client := c.cfg.Client.AppsV1().ReplicaSets(d.Namespace)
	made, err := client.Create(ctx, rs, metav1.CreateOptions{})
	switch {
	case err == nil:
		c.owned.Ahead.Wrote(string(d.UID), made)
		if n := replicas(rs.Spec.Replicas); n > 0 {
			c.cfg.Events.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from %d to %d", rs.Name, 0, n)
		}
		return nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return err
	case apierrors.IsAlreadyExists(err):
		there, getErr := client.Get(ctx, rs.Name, metav1.GetOptions{})
		if getErr != nil {
			return fmt.Errorf("look at ReplicaSet %s, which exists: %w", rs.Name, getErr)
		}
		if metav1.IsControlledBy(there, d) && sameTemplate(&there.Spec.Template, &d.Spec.Template) {
			c.owned.Ahead.Wrote(string(d.UID), there)
			return fmt.Errorf("ReplicaSet %s was there before: %w", rs.Name, err)
		}
		status := *d.Status.DeepCopy()
		n := int32(1)
		if status.CollisionCount != nil {
			n += *status.CollisionCount
		}
		status.CollisionCount = &n
		return errors.Join(fmt.Errorf("name of ReplicaSet %s is taken: %w", rs.Name, err), c.writeStatus(ctx, d, status))
	}
	c.cfg.Events.Eventf(d, corev1.EventTypeWarning, reasonCreateError, "Failed to create new replica set %q: %v", rs.Name, err)
	return errors.Join(fmt.Errorf("create ReplicaSet %s: %w", rs.Name, err), c.writeStatus(ctx, d, createFailed(d, rs.Name, err, time.Now())))
}
