package endpoints

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/mini-k8s/mini/controller/feed"
	"github.com/mini-k8s/mini/controller/podstate"
	"github.com/mini-k8s/mini/controller/work"
)

// Config is what the controller needs; all fields are required.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Feeds     *feed.Set
	Logger    *slog.Logger
}

// Controller keeps the Endpoints.
type Controller struct {
	cfg       Config
	services  listers.ServiceLister
	pods      listers.PodLister
	endpoints listers.EndpointsLister
	sources   []feed.Source
	queue     *work.Queue[cache.ObjectName]
	ahead     work.Ahead[*corev1.Endpoints]
}

// New subscribes to Services, Pods and Endpoints.
func New(cfg Config) (*Controller, error) {
	if cfg.Client == nil || cfg.Informers == nil || cfg.Feeds == nil || cfg.Logger == nil {
		return nil, errors.New("endpoints controller: incomplete config")
	}
	core := cfg.Informers.Core().V1()
	c := &Controller{cfg: cfg, services: core.Services().Lister(), pods: core.Pods().Lister(), endpoints: core.Endpoints().Lister()}
	c.queue = work.NewQueue(work.Config[cache.ObjectName]{Name: "endpoints", Sync: c.sync, Workers: 2, Logger: cfg.Logger})
	c.sources = []feed.Source{
		cfg.Feeds.Handle(core.Services().Informer(), feed.Of(c.serviceChanged)),
		cfg.Feeds.Handle(core.Pods().Informer(), feed.Of(c.podChanged)),
		cfg.Feeds.Handle(core.Endpoints().Informer(), feed.Of(c.endpointsChanged)),
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

func (c *Controller) serviceChanged(old, svc *corev1.Service) {
	if svc == nil {
		svc = old
	}
	c.queue.Add(cache.MetaObjectToName(svc))
}

func (c *Controller) endpointsChanged(old, ep *corev1.Endpoints) {
	if ep == nil {
		key := cache.MetaObjectToName(old)
		c.ahead.Gone(key.String(), old)
		c.queue.Add(key)
		return
	}
	key := cache.MetaObjectToName(ep)
	c.ahead.Seen(key.String(), ep)
	// What we did not write is put right; what has no Service any more is found here after a restart.
	if ep.Labels[labelManagedBy] == managedBy || (old != nil && old.Labels[labelManagedBy] == managedBy) {
		c.queue.Add(key)
	}
}

// podChanged queues the Services that select the pod, or did before.
func (c *Controller) podChanged(old, pod *corev1.Pod) {
	var sets []labels.Set
	namespace := ""
	switch {
	case old == nil:
		sets, namespace = []labels.Set{pod.Labels}, pod.Namespace
	case pod == nil:
		sets, namespace = []labels.Set{old.Labels}, old.Namespace
	case !maps.Equal(old.Labels, pod.Labels):
		sets, namespace = []labels.Set{old.Labels, pod.Labels}, pod.Namespace
	case podstate.EndpointChanged(old, pod):
		sets, namespace = []labels.Set{pod.Labels}, pod.Namespace
	default:
		return
	}
	services, err := c.services.Services(namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, svc := range services {
		if len(svc.Spec.Selector) == 0 {
			continue
		}
		selector := labels.SelectorFromSet(svc.Spec.Selector)
		for _, set := range sets {
			if selector.Matches(set) {
				c.queue.Add(cache.MetaObjectToName(svc))
				break
			}
		}
	}
}

func (c *Controller) current(key cache.ObjectName) (*corev1.Endpoints, error) {
	ep, err := c.endpoints.Endpoints(key.Namespace).Get(key.Name)
	var cached []*corev1.Endpoints
	switch {
	case err == nil:
		cached = append(cached, ep)
	case !apierrors.IsNotFound(err):
		return nil, err
	}
	if all := c.ahead.Over(key.String(), cached); len(all) > 0 {
		return all[0], nil
	}
	return nil, nil
}

func (c *Controller) sync(ctx context.Context, key cache.ObjectName) error {
	current, err := c.current(key)
	if err != nil {
		return err
	}
	client := c.cfg.Client.CoreV1().Endpoints(key.Namespace)
	svc, err := c.services.Services(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		if current == nil || current.Annotations[leaderAnnotation] != "" {
			return nil
		}
		err := client.Delete(ctx, key.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(current.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete Endpoints %s: %w", key, err)
		}
		c.ahead.Deleted(key.String(), current)
		return nil
	}
	if err != nil {
		return err
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.Selector == nil || svc.DeletionTimestamp != nil {
		return nil
	}
	pods, err := c.pods.Pods(key.Namespace).List(labels.SelectorFromSet(svc.Spec.Selector))
	if err != nil {
		return err
	}
	next := plan(svc, pods, current)
	if next == nil {
		return nil
	}
	var made *corev1.Endpoints
	if current == nil {
		made, err = client.Create(ctx, next, metav1.CreateOptions{})
	} else {
		made, err = client.Update(ctx, next, metav1.UpdateOptions{})
	}
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	if err != nil {
		c.ahead.Forget(key.String(), key.Name)
		return fmt.Errorf("write Endpoints %s: %w", key, err)
	}
	c.ahead.Wrote(key.String(), made)
	return nil
}

// leaderAnnotation marks Endpoints that were used as a lock and belong to no Service.
const leaderAnnotation = "control-plane.alpha.kubernetes.io/leader"
