package bootstraptoken

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/mini-k8s/mini/controller/feed"
	"github.com/mini-k8s/mini/controller/work"
	"github.com/mini-k8s/mini/internal/bootstrap"
)

// Config is what the controller needs.
type Config struct {
	Client kubernetes.Interface
	Feeds  *feed.Set
	Logger *slog.Logger
	// CA (PEM) and ServerURL are what cluster-info says; without a URL it is left alone.
	CA        []byte
	ServerURL string
}

// Controller looks after tokens.
type Controller struct {
	cfg     Config
	secrets cache.SharedIndexInformer
	source  feed.Source
	queue   *work.Queue[string]
}

// New makes an informer for the tokens' Secrets.
func New(cfg Config) (*Controller, error) {
	if cfg.Client == nil || cfg.Feeds == nil || cfg.Logger == nil {
		return nil, errors.New("bootstrap token controller: incomplete config")
	}
	c := &Controller{cfg: cfg}
	c.secrets = coreinformers.NewFilteredSecretInformer(cfg.Client, bootstrap.SecretNamespace, 0,
		cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("type", string(bootstrap.SecretType)).String()
		})
	c.queue = work.NewQueue(work.Config[string]{Name: "bootstraptoken", Sync: c.sync, Logger: cfg.Logger})
	c.source = cfg.Feeds.Handle(c.secrets, feed.Of(func(old, secret *corev1.Secret) {
		if secret != nil {
			c.queue.Add(secret.Name)
		}
		c.queue.Add("")
	}))
	return c, nil
}

// Run blocks until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.secrets.RunWithContext(ctx)
	}()
	defer func() { <-done }()
	if !feed.Wait(ctx, c.source) {
		return nil
	}
	c.queue.Add("")
	return c.queue.Run(ctx)
}

func (c *Controller) sync(ctx context.Context, name string) error {
	if name == "" {
		if c.cfg.ServerURL == "" {
			return nil
		}
		return bootstrap.Publish(ctx, c.cfg.Client, c.cfg.CA, c.cfg.ServerURL)
	}
	secret, err := listers.NewSecretLister(c.secrets.GetIndexer()).Secrets(bootstrap.SecretNamespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	token, err := bootstrap.FromSecret(secret)
	if err != nil || token.Expires.IsZero() {
		return nil // malformed ones authenticate nobody, and are their maker's
	}
	if left := time.Until(token.Expires); left > 0 {
		c.queue.AddAfter(name, left)
		return nil
	}
	err = c.cfg.Client.CoreV1().Secrets(secret.Namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(secret.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete expired token: %w", err)
	}
	c.cfg.Logger.Info("bootstrap token has expired", "token", token.ID)
	return nil
}
