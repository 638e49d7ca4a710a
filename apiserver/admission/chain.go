package admission

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"github.com/mini-k8s/mini/apiserver/authz"
)

// Config is what the plugins look at.
type Config struct {
	Client     kubernetes.Interface
	Dynamic    dynamic.Interface // reads the parameters of admission policies
	Informers  informers.SharedInformerFactory
	Authorizer authorizer.UnconditionalAuthorizer
	RBAC       *authz.RBAC
}

// Chain runs plugins in order, and stops at the first error. End stops what its plugins have started; nothing may be admitted
// afterwards.
type Chain interface {
	admission.MutationInterface
	admission.ValidationInterface
	End()
}

// New makes the chain of all plugins.
func New(config Config) (Chain, error) {
	if config.Client == nil || config.Dynamic == nil || config.Informers == nil || config.Authorizer == nil || config.RBAC == nil {
		return nil, errors.New("admission: Client, Dynamic, Informers, Authorizer and RBAC must be set")
	}
	accounts, err := newServiceAccount(config.Client, config.Informers)
	if err != nil {
		return nil, err
	}
	core, storage := config.Informers.Core().V1(), config.Informers.Storage().V1()
	namespaces := newNamespaceLifecycle(config.Client, config.Informers)
	security, err := newPodSecurity(namespaces.get, core.Pods().Lister())
	if err != nil {
		return nil, err
	}
	validating, mutating := newPolicies(config)
	plugins := admission.NewChainHandler(
		namespaces,
		&limitRanger{core.LimitRanges().Lister()},
		accounts,
		&nodeRestriction{client: config.Client, pods: core.Pods().Lister()},
		taintNodesByCondition{},
		security,
		&priority{config.Client, config.Informers.Scheduling().V1().PriorityClasses().Lister()},
		defaultTolerationSeconds{},
		&defaultStorageClass{storage.StorageClasses().Lister()},
		&claimResize{storage.StorageClasses().Lister()},
		&runtimeClass{config.Client, config.Informers.Node().V1().RuntimeClasses().Lister()},
		&certificateApproval{config.Authorizer},
		&certificateSigning{config.Authorizer},
		certificateSubjectRestriction{},
		&defaultIngressClass{config.Informers.Networking().V1().IngressClasses().Lister()},
		&rbacEscalation{authz.NewEscalation(config.RBAC, config.Authorizer)},
		mutating,   // mutating webhooks come after it
		validating, // validating webhooks come after it
		newResourceQuota(config.Client, config.Informers),
	)
	return chain{plugins, []*policies{validating.policies, mutating.policies}}, nil
}

// chain is upstream's chain handler, asked once more when what came late has changed what came before it.
type chain struct {
	plugins interface {
		admission.MutationInterface
		admission.ValidationInterface
	}
	policies []*policies
}

func (c chain) Handles(op admission.Operation) bool { return c.plugins.Handles(op) }

func (c chain) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if err := c.plugins.Admit(ctx, a, o); err != nil {
		return err
	}
	again := a.GetReinvocationContext()
	if !again.ShouldReinvoke() {
		return nil
	}
	again.SetIsReinvoke()
	return c.plugins.Admit(ctx, a, o)
}

func (c chain) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	return c.plugins.Validate(ctx, a, o)
}

func (c chain) End() {
	for _, p := range c.policies {
		p.end()
	}
}

var (
	podResource  = corev1.Resource("pods")
	nodeResource = corev1.Resource("nodes")
)

// plain says whether the request is about the resource itself.
func plain(a admission.Attributes, resource schema.GroupResource) bool {
	return a.GetSubresource() == "" && a.GetResource().GroupResource() == resource
}

func creates(op admission.Operation) bool { return op == admission.Create }

func writes(op admission.Operation) bool { return op == admission.Create || op == admission.Update }
