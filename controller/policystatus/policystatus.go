package policystatus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/admissionregistration/v1"
	"k8s.io/client-go/restmapper"

	"github.com/mini-k8s/mini/controller/feed"
	"github.com/mini-k8s/mini/controller/work"
)

// Config is what the controller needs; all fields are required.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Feeds     *feed.Set
	Logger    *slog.Logger
}

// Controller writes the status of policies.
type Controller struct {
	cfg      Config
	policies listers.ValidatingAdmissionPolicyLister
	source   feed.Source
	queue    *work.Queue[string]
}

// New subscribes to ValidatingAdmissionPolicies.
func New(cfg Config) (*Controller, error) {
	if cfg.Client == nil || cfg.Informers == nil || cfg.Feeds == nil || cfg.Logger == nil {
		return nil, errors.New("policystatus controller: incomplete config")
	}
	policies := cfg.Informers.Admissionregistration().V1().ValidatingAdmissionPolicies()
	c := &Controller{cfg: cfg, policies: policies.Lister()}
	c.queue = work.NewQueue(work.Config[string]{Name: "policystatus", Sync: c.sync, Logger: cfg.Logger})
	c.source = cfg.Feeds.Handle(policies.Informer(), feed.Of(func(_, p *admissionregistrationv1.ValidatingAdmissionPolicy) {
		if p != nil && !checked(p) {
			c.queue.Add(p.Name)
		}
	}))
	return c, nil
}

// Run blocks until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if !feed.Wait(ctx, c.source) {
		return nil
	}
	return c.queue.Run(ctx)
}

func checked(p *admissionregistrationv1.ValidatingAdmissionPolicy) bool {
	return p.Status.ObservedGeneration >= p.Generation
}

func (c *Controller) sync(ctx context.Context, name string) error {
	shared, err := c.policies.Get(name)
	if apierrors.IsNotFound(err) || err == nil && checked(shared) {
		return nil
	}
	if err != nil {
		return err
	}
	discovery := c.cfg.Client.Discovery()
	checker := validating.TypeChecker{
		SchemaResolver: &resolver.ClientDiscoveryResolver{Discovery: discovery},
		RestMapper:     restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(discovery)),
	}
	policy := shared.DeepCopy()
	policy.Status.ObservedGeneration = policy.Generation
	policy.Status.TypeChecking = &admissionregistrationv1.TypeChecking{ExpressionWarnings: checker.Check(policy)}
	_, err = c.cfg.Client.AdmissionregistrationV1().ValidatingAdmissionPolicies().UpdateStatus(ctx, policy, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // of a conflict there will be news
		return fmt.Errorf("write the status of ValidatingAdmissionPolicy %s: %w", name, err)
	}
	return nil
}
