package serviceaccount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"

	"github.com/mini-k8s/mini/controller/feed"
	"github.com/mini-k8s/mini/controller/work"
)

// Name is the account that every namespace has.
const Name = "default"

// Config is what the controller needs; all fields are required.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Feeds     *feed.Set
	Logger    *slog.Logger
}

// Controller keeps the accounts.
type Controller struct {
	cfg        Config
	namespaces listers.NamespaceLister
	accounts   listers.ServiceAccountLister
	sources    []feed.Source
	queue      *work.Queue[string]
}

// New subscribes to Namespaces and ServiceAccounts.
func New(cfg Config) (*Controller, error) {
	if cfg.Client == nil || cfg.Informers == nil || cfg.Feeds == nil || cfg.Logger == nil {
		return nil, errors.New("serviceaccount controller: incomplete config")
	}
	core := cfg.Informers.Core().V1()
	c := &Controller{cfg: cfg, namespaces: core.Namespaces().Lister(), accounts: core.ServiceAccounts().Lister()}
	c.queue = work.NewQueue(work.Config[string]{Name: "serviceaccount", Sync: c.sync, Logger: cfg.Logger})
	c.sources = []feed.Source{
		cfg.Feeds.Handle(core.Namespaces().Informer(), feed.Of(func(_, ns *corev1.Namespace) {
			if ns != nil {
				c.queue.Add(ns.Name)
			}
		})),
		cfg.Feeds.Handle(core.ServiceAccounts().Informer(), feed.Of(func(old, sa *corev1.ServiceAccount) {
			if sa == nil && old.Name == Name {
				c.queue.Add(old.Namespace)
			}
		})),
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

// missing says whether the namespace (nil: it is gone) lacks its account.
func missing(ns *corev1.Namespace, account *corev1.ServiceAccount) bool {
	return ns != nil && account == nil && ns.DeletionTimestamp == nil && ns.Status.Phase != corev1.NamespaceTerminating
}

func (c *Controller) sync(ctx context.Context, namespace string) error {
	ns, err := c.namespaces.Get(namespace)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	account, err := c.accounts.ServiceAccounts(namespace).Get(Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if !missing(ns, account) {
		return nil
	}
	_, err = c.cfg.Client.CoreV1().ServiceAccounts(namespace).Create(ctx,
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: Name}}, metav1.CreateOptions{})
	switch {
	case err == nil, apierrors.IsAlreadyExists(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case apierrors.IsNotFound(err): // the namespace went meanwhile
		return nil
	}
	return fmt.Errorf("create serviceaccount %s/%s: %w", namespace, Name, err)
}
