package rootca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/mini-k8s/mini/controller/feed"
	"github.com/mini-k8s/mini/controller/work"
)

// Name is the ConfigMap's name, Key its one entry.
const (
	Name = "kube-root-ca.crt"
	Key  = "ca.crt"

	descriptionAnnotation = "kubernetes.io/description"
	description           = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
		"No other usage is guaranteed across distributions of Kubernetes clusters."
)

// Config is what the controller needs; all fields are required.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Feeds     *feed.Set
	Logger    *slog.Logger
	// CA is the bundle in PEM that verifies the apiserver's serving certificate.
	CA []byte
}

// Controller publishes the CA.
type Controller struct {
	cfg        Config
	namespaces listers.NamespaceLister
	maps       cache.SharedIndexInformer
	sources    []feed.Source
	queue      *work.Queue[string]
}

// New subscribes to Namespaces and makes an informer of its own for the one ConfigMap name.
func New(cfg Config) (*Controller, error) {
	if cfg.Client == nil || cfg.Informers == nil || cfg.Feeds == nil || cfg.Logger == nil || len(cfg.CA) == 0 {
		return nil, errors.New("rootca controller: incomplete config")
	}
	c := &Controller{cfg: cfg, namespaces: cfg.Informers.Core().V1().Namespaces().Lister()}
	c.maps = coreinformers.NewFilteredConfigMapInformer(cfg.Client, metav1.NamespaceAll, 0,
		cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, Name).String()
		})
	c.queue = work.NewQueue(work.Config[string]{Name: "rootca", Sync: c.sync, Logger: cfg.Logger})
	c.sources = []feed.Source{
		cfg.Feeds.Handle(cfg.Informers.Core().V1().Namespaces().Informer(), feed.Of(func(_, ns *corev1.Namespace) {
			if ns != nil {
				c.queue.Add(ns.Name)
			}
		})),
		cfg.Feeds.Handle(c.maps, feed.Of(func(old, m *corev1.ConfigMap) {
			for _, o := range []*corev1.ConfigMap{old, m} {
				if o != nil && o.Name == Name {
					c.queue.Add(o.Namespace)
					return
				}
			}
		})),
	}
	return c, nil
}

// Run blocks until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.maps.RunWithContext(ctx)
	}()
	defer func() { <-done }()
	if !feed.Wait(ctx, c.sources...) {
		return nil
	}
	return c.queue.Run(ctx)
}

// plan returns the map that the namespace should have, or nil when there is nothing to write. current is nil when there
// is none yet; ns is nil when it is gone.
func plan(ns *corev1.Namespace, current *corev1.ConfigMap, ca string) *corev1.ConfigMap {
	if ns == nil || ns.DeletionTimestamp != nil || ns.Status.Phase == corev1.NamespaceTerminating {
		return nil
	}
	data := map[string]string{Key: ca}
	if current == nil {
		return &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: ns.Name, Name: Name,
				Annotations: map[string]string{descriptionAnnotation: description},
			},
			Data: data,
		}
	}
	if maps.Equal(current.Data, data) && current.BinaryData == nil && current.Annotations[descriptionAnnotation] != "" {
		return nil
	}
	next := current.DeepCopy()
	next.Data, next.BinaryData = data, nil
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, descriptionAnnotation, description)
	return next
}

func (c *Controller) sync(ctx context.Context, namespace string) error {
	ns, err := c.namespaces.Get(namespace)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	current, err := listers.NewConfigMapLister(c.maps.GetIndexer()).ConfigMaps(namespace).Get(Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	next := plan(ns, current, string(c.cfg.CA))
	if next == nil {
		return nil
	}
	client := c.cfg.Client.CoreV1().ConfigMaps(namespace)
	if current == nil {
		_, err = client.Create(ctx, next, metav1.CreateOptions{})
	} else {
		_, err = client.Update(ctx, next, metav1.UpdateOptions{})
	}
	switch {
	case err == nil, apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // what is not settled by this comes back as an event
	}
	return fmt.Errorf("write configmap %s/%s: %w", namespace, Name, err)
}
