package endpointslice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/mini-k8s/mini/controller/feed"
	"github.com/mini-k8s/mini/controller/podstate"
	"github.com/mini-k8s/mini/controller/work"
)

// Who a slice says it is managed by; upstream's names, so that a cluster can change hands.
const (
	managedByController = "endpointslice-controller.k8s.io"
	managedByMirroring  = "endpointslicemirroring-controller.k8s.io"
)

// Config is what the controller needs; all fields are required.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Feeds     *feed.Set
	Logger    *slog.Logger
}

// Controller keeps the slices.
type Controller struct {
	cfg       Config
	services  corelisters.ServiceLister
	pods      corelisters.PodLister
	nodes     corelisters.NodeLister
	endpoints corelisters.EndpointsLister
	slices    discoverylisters.EndpointSliceLister
	sources   []feed.Source

	queue   *work.Queue[cache.ObjectName] // Services
	mirrors *work.Queue[cache.ObjectName] // Endpoints
	ahead   work.Ahead[*discoveryv1.EndpointSlice]
}

// New subscribes to Services, Pods, Endpoints, EndpointSlices and Nodes.
func New(cfg Config) (*Controller, error) {
	if cfg.Client == nil || cfg.Informers == nil || cfg.Feeds == nil || cfg.Logger == nil {
		return nil, errors.New("endpointslice controller: incomplete config")
	}
	core, disco := cfg.Informers.Core().V1(), cfg.Informers.Discovery().V1()
	c := &Controller{
		cfg: cfg, services: core.Services().Lister(), pods: core.Pods().Lister(), nodes: core.Nodes().Lister(),
		endpoints: core.Endpoints().Lister(), slices: disco.EndpointSlices().Lister(),
	}
	c.queue = work.NewQueue(work.Config[cache.ObjectName]{Name: "endpointslice", Sync: c.sync, Workers: 4, Logger: cfg.Logger})
	c.mirrors = work.NewQueue(work.Config[cache.ObjectName]{Name: "endpointslicemirroring", Sync: c.mirror, Logger: cfg.Logger})
	c.sources = []feed.Source{
		cfg.Feeds.Handle(core.Services().Informer(), feed.Of(func(old, svc *corev1.Service) {
			key := cache.MetaObjectToName(firstOf(svc, old))
			c.queue.Add(key)
			c.mirrors.Add(key)
		})),
		cfg.Feeds.Handle(core.Pods().Informer(), feed.Of(c.podChanged)),
		cfg.Feeds.Handle(core.Endpoints().Informer(), feed.Of(func(old, ep *corev1.Endpoints) {
			c.mirrors.Add(cache.MetaObjectToName(firstOf(ep, old)))
		})),
		cfg.Feeds.Handle(disco.EndpointSlices().Informer(), feed.Of(c.sliceChanged)),
		cfg.Feeds.Read(core.Nodes().Informer()),
	}
	return c, nil
}

func firstOf[T any](a, b *T) *T {
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
	done := make(chan error, 1)
	go func() { done <- c.mirrors.Run(ctx) }()
	return errors.Join(c.queue.Run(ctx), <-done)
}

// podChanged queues the Services that select the pod, or did before.
func (c *Controller) podChanged(old, pod *corev1.Pod) {
	var sets []labels.Set
	switch {
	case old == nil:
		sets = []labels.Set{pod.Labels}
	case pod == nil:
		sets = []labels.Set{old.Labels}
	case !maps.Equal(old.Labels, pod.Labels):
		sets = []labels.Set{old.Labels, pod.Labels}
	case podstate.EndpointChanged(old, pod):
		sets = []labels.Set{pod.Labels}
	default:
		return
	}
	namespace := firstOf(pod, old).Namespace
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

// sliceGroup names the owner of a managed slice in the terms of Ahead.
func sliceGroup(s *discoveryv1.EndpointSlice) string {
	return s.Labels[discoveryv1.LabelManagedBy] + "/" + s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]
}

func (c *Controller) sliceChanged(old, s *discoveryv1.EndpointSlice) {
	if s == nil {
		c.ahead.Gone(sliceGroup(old), old)
	} else {
		c.ahead.Seen(sliceGroup(s), s)
	}
	for _, o := range []*discoveryv1.EndpointSlice{old, s} {
		if o == nil {
			continue
		}
		key := cache.NewObjectName(o.Namespace, o.Labels[discoveryv1.LabelServiceName])
		switch o.Labels[discoveryv1.LabelManagedBy] {
		case managedByController:
			c.queue.Add(key)
		case managedByMirroring:
			c.mirrors.Add(key)
		}
	}
}

// owned returns the slices of the Service that are managed by manager, our latest writes included.
func (c *Controller) owned(manager string, key cache.ObjectName) ([]*discoveryv1.EndpointSlice, error) {
	set := labels.Set{discoveryv1.LabelManagedBy: manager, discoveryv1.LabelServiceName: key.Name}
	cached, err := c.slices.EndpointSlices(key.Namespace).List(labels.SelectorFromSet(set))
	if err != nil {
		return nil, err
	}
	all := c.ahead.Over(manager+"/"+key.Namespace+"/"+key.Name, cached)
	live := make([]*discoveryv1.EndpointSlice, 0, len(all))
	for _, s := range all {
		if s.DeletionTimestamp == nil {
			live = append(live, s)
		}
	}
	return live, nil
}

func (c *Controller) sync(ctx context.Context, key cache.ObjectName) error {
	svc, err := c.services.Services(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil // the garbage collector takes the slices of a Service that is gone
	}
	if err != nil {
		return err
	}
	if svc.DeletionTimestamp != nil {
		return nil
	}
	existing, err := c.owned(managedByController, key)
	if err != nil {
		return err
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return c.apply(ctx, managedByController, changes{delete: existing}, svc)
	}
	if svc.Spec.Selector == nil {
		return nil // its endpoints are someone else's
	}
	pods, err := c.pods.Pods(key.Namespace).List(labels.SelectorFromSet(svc.Spec.Selector))
	if err != nil {
		return err
	}
	want := map[discoveryv1.AddressType][]group{}
	for _, family := range families(svc) {
		want[family] = desired(svc, pods, family, c.zone)
	}
	return c.apply(ctx, managedByController, plan(serviceTemplate(svc), want, existing), svc)
}

func (c *Controller) zone(node string) string {
	n, err := c.nodes.Get(node)
	if err != nil {
		return ""
	}
	return n.Labels[corev1.LabelTopologyZone]
}

// serviceTemplate: the Service's labels are on its slices too, as upstream does it for consumers that select by them.
func serviceTemplate(svc *corev1.Service) *template {
	set := make(map[string]string, len(svc.Labels)+2)
	for k, v := range svc.Labels {
		switch k {
		case discoveryv1.LabelServiceName, discoveryv1.LabelManagedBy, corev1.IsHeadlessService:
		default:
			set[k] = v
		}
	}
	set[discoveryv1.LabelServiceName] = svc.Name
	set[discoveryv1.LabelManagedBy] = managedByController
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		set[corev1.IsHeadlessService] = ""
	}
	return &template{
		namespace: svc.Namespace, name: svc.Name, labels: set, placeholder: true,
		owner: *metav1.NewControllerRef(svc, corev1.SchemeGroupVersion.WithKind("Service")),
	}
}

// apply writes: new slices first, so that no endpoint is missing in between. On the first error it stops; what was written
// is remembered, and the next sync plans the rest.
func (c *Controller) apply(ctx context.Context, manager string, ch changes, owner metav1.Object) error {
	group := manager + "/" + owner.GetNamespace() + "/" + owner.GetName()
	client := c.cfg.Client.DiscoveryV1().EndpointSlices(owner.GetNamespace())
	for _, s := range ch.create {
		made, err := client.Create(ctx, s, metav1.CreateOptions{})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("create EndpointSlice for %s/%s: %w", s.Namespace, owner.GetName(), err)
		}
		c.ahead.Wrote(group, made)
	}
	for _, s := range ch.update {
		made, err := client.Update(ctx, s, metav1.UpdateOptions{})
		if err != nil {
			c.ahead.Forget(group, s.Name)
			return fmt.Errorf("update EndpointSlice %s/%s: %w", s.Namespace, s.Name, err)
		}
		c.ahead.Wrote(group, made)
	}
	for _, s := range ch.delete {
		err := client.Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(s.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			c.ahead.Forget(group, s.Name)
			return fmt.Errorf("delete EndpointSlice %s/%s: %w", s.Namespace, s.Name, err)
		}
		c.ahead.Deleted(group, s)
	}
	return nil
}
