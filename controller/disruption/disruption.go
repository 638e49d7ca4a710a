package disruption

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/mini-k8s/mini/controller/feed"
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

// Controller keeps the status.
type Controller struct {
	cfg          Config
	budgets      policylisters.PodDisruptionBudgetLister
	pods         corelisters.PodLister
	deployments  appslisters.DeploymentLister
	replicaSets  appslisters.ReplicaSetLister
	statefulSets appslisters.StatefulSetLister
	controllers  corelisters.ReplicationControllerLister
	sources      []feed.Source
	queue        *work.Queue[cache.ObjectName]
}

// New subscribes to budgets, pods and the kinds that say how many pods there should be.
func New(cfg Config) (*Controller, error) {
	if cfg.Client == nil || cfg.Informers == nil || cfg.Feeds == nil || cfg.Logger == nil || cfg.Events == nil {
		return nil, errors.New("disruption controller: incomplete config")
	}
	core, apps, policy := cfg.Informers.Core().V1(), cfg.Informers.Apps().V1(), cfg.Informers.Policy().V1()
	c := &Controller{
		cfg: cfg, budgets: policy.PodDisruptionBudgets().Lister(), pods: core.Pods().Lister(), deployments: apps.Deployments().Lister(),
		replicaSets: apps.ReplicaSets().Lister(), statefulSets: apps.StatefulSets().Lister(), controllers: core.ReplicationControllers().Lister(),
	}
	c.queue = work.NewQueue(work.Config[cache.ObjectName]{Name: "disruption", Sync: c.sync, Logger: cfg.Logger})
	c.sources = []feed.Source{
		cfg.Feeds.Handle(policy.PodDisruptionBudgets().Informer(), feed.Of(func(_, b *policyv1.PodDisruptionBudget) {
			if b != nil {
				c.queue.Add(cache.MetaObjectToName(b))
			}
		})),
		cfg.Feeds.Handle(core.Pods().Informer(), feed.Of(func(old, pod *corev1.Pod) {
			for _, p := range []*corev1.Pod{old, pod} {
				if p != nil {
					c.concerns(p.Namespace, p.Labels)
				}
			}
		})),
		// A new size changes what is expected before any pod does.
		cfg.Feeds.Handle(apps.Deployments().Informer(), feed.Of(func(old, d *appsv1.Deployment) {
			if old != nil && d != nil && !equality.Semantic.DeepEqual(old.Spec.Replicas, d.Spec.Replicas) {
				c.concerns(d.Namespace, d.Spec.Template.Labels)
			}
		})),
		cfg.Feeds.Handle(apps.ReplicaSets().Informer(), feed.Of(func(old, rs *appsv1.ReplicaSet) {
			if old != nil && rs != nil && !equality.Semantic.DeepEqual(old.Spec.Replicas, rs.Spec.Replicas) {
				c.concerns(rs.Namespace, rs.Spec.Template.Labels)
			}
		})),
		cfg.Feeds.Handle(apps.StatefulSets().Informer(), feed.Of(func(old, s *appsv1.StatefulSet) {
			if old != nil && s != nil && !equality.Semantic.DeepEqual(old.Spec.Replicas, s.Spec.Replicas) {
				c.concerns(s.Namespace, s.Spec.Template.Labels)
			}
		})),
		cfg.Feeds.Read(core.ReplicationControllers().Informer()),
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

// concerns queues the budgets that select pods with these labels.
func (c *Controller) concerns(namespace string, set labels.Set) {
	budgets, _ := c.budgets.PodDisruptionBudgets(namespace).List(labels.Everything()) // a lister's cache cannot fail
	for _, b := range budgets {
		if s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && s.Matches(set) {
			c.queue.Add(cache.MetaObjectToName(b))
		}
	}
}

func (c *Controller) sync(ctx context.Context, key cache.ObjectName) error {
	b, err := c.budgets.PodDisruptionBudgets(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		return nil // validation does not let this through; nothing to do until it changes
	}
	pods, err := c.pods.Pods(key.Namespace).List(selector)
	if err != nil {
		return err
	}
	p := plan(b, pods, c.scaleOf, time.Now())
	if p.again > 0 {
		c.queue.AddAfter(key, p.again)
	}
	if p.unmanaged && b.Status.ObservedGeneration != b.Generation { // once for each change of the budget
		c.cfg.Events.Eventf(b, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found "+
			"to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
			"To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", b.Spec.Selector)
	}
	if !equality.Semantic.DeepEqual(p.status, b.Status) {
		if p.failed != nil {
			c.cfg.Events.Eventf(b, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", p.failed)
		}
		next := b.DeepCopy()
		next.Status = p.status
		if _, err := c.cfg.Client.PolicyV1().PodDisruptionBudgets(key.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("write status: %w", err)
		}
	}
	return p.failed // asked again later: the controller may only not be in the cache yet
}

// scaleOf finds what the pod's controller, or the Deployment behind it, asks for.
func (c *Controller) scaleOf(pod *corev1.Pod, ref *metav1.OwnerReference) (scale, error) {
	size := func(o metav1.Object, n *int32) (scale, error) {
		if o.GetUID() != ref.UID {
			return scale{}, fmt.Errorf("its %s %s is not the one of that name", ref.Kind, ref.Name)
		}
		if n == nil {
			return scale{ref.UID, 1}, nil
		}
		return scale{ref.UID, *n}, nil
	}
	switch ref.APIVersion + "/" + ref.Kind {
	case "apps/v1/ReplicaSet":
		rs, err := c.replicaSets.ReplicaSets(pod.Namespace).Get(ref.Name)
		if err != nil {
			return scale{}, err
		}
		if up := metav1.GetControllerOfNoCopy(rs); up != nil && up.Kind == "Deployment" && rs.UID == ref.UID {
			d, err := c.deployments.Deployments(pod.Namespace).Get(up.Name)
			if err != nil {
				return scale{}, err
			}
			ref = up
			return size(d, d.Spec.Replicas)
		}
		return size(rs, rs.Spec.Replicas)
	case "v1/ReplicationController":
		rc, err := c.controllers.ReplicationControllers(pod.Namespace).Get(ref.Name)
		if err != nil {
			return scale{}, err
		}
		return size(rc, rc.Spec.Replicas)
	case "apps/v1/StatefulSet":
		s, err := c.statefulSets.StatefulSets(pod.Namespace).Get(ref.Name)
		if err != nil {
			return scale{}, err
		}
		return size(s, s.Spec.Replicas)
	}
	return scale{}, fmt.Errorf("the size of a %s of %s is not known", ref.Kind, ref.APIVersion)
}
