package admission

import (
	"context"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"
)

// policies runs upstream's plugin for ValidatingAdmissionPolicies or MutatingAdmissionPolicies, as long as a policy is bound:
// CEL's environment takes megabytes, and the plugin looks every second whether it has something to compile.
type policies struct {
	bindings cache.SharedIndexInformer
	// start makes the plugin and its goroutines, which end with stop.
	start func(stop <-chan struct{}) (admission.Interface, error)

	mu     sync.Mutex
	plugin admission.Interface
	stop   chan struct{}
	ended  bool
}

// running returns the plugin, started if a policy is bound; nil if none is.
func (p *policies) running() (admission.Interface, error) {
	bound := len(p.bindings.GetIndexer().ListKeys()) > 0
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !bound || p.ended:
		p.endLocked()
		return nil, nil
	case p.plugin != nil:
		return p.plugin, nil
	}
	stop := make(chan struct{})
	plugin, err := p.start(stop)
	if err != nil {
		close(stop)
		return nil, err
	}
	p.plugin, p.stop = plugin, stop
	return plugin, nil
}

func (p *policies) endLocked() {
	if p.plugin != nil {
		close(p.stop)
		p.plugin, p.stop = nil, nil
	}
}

// end stops the plugin for good.
func (p *policies) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.endLocked()
}

// validatingPolicy is the place of ValidatingAdmissionPolicies in the chain.
type validatingPolicy struct{ *policies }

var _ admission.ValidationInterface = validatingPolicy{}

func (validatingPolicy) Handles(admission.Operation) bool { return true }

func (v validatingPolicy) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	plugin, err := v.running()
	if err != nil || plugin == nil {
		return err
	}
	return plugin.(admission.ValidationInterface).Validate(ctx, a, o)
}

// mutatingPolicy is the place of MutatingAdmissionPolicies in the chain.
type mutatingPolicy struct{ *policies }

var _ admission.MutationInterface = mutatingPolicy{}

func (mutatingPolicy) Handles(op admission.Operation) bool {
	return writes(op) || op == admission.Connect
}

func (m mutatingPolicy) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	plugin, err := m.running()
	if err != nil || plugin == nil {
		return err
	}
	return plugin.(admission.MutationInterface).Admit(ctx, a, o)
}

func newPolicies(config Config) (validatingPolicy, mutatingPolicy) {
	api := config.Informers.Admissionregistration().V1()
	validate := &policies{bindings: api.ValidatingAdmissionPolicyBindings().Informer()}
	mutate := &policies{bindings: api.MutatingAdmissionPolicyBindings().Informer()}
	api.ValidatingAdmissionPolicies().Informer() // run with the others, for the plugin when it is started
	api.MutatingAdmissionPolicies().Informer()
	validate.start = func(stop <-chan struct{}) (admission.Interface, error) {
		plugin, err := validating.NewPlugin(nil)
		if err != nil {
			return nil, fmt.Errorf("start ValidatingAdmissionPolicy: %w", err)
		}
		return plugin, initialize(plugin, config, stop)
	}
	mutate.start = func(stop <-chan struct{}) (admission.Interface, error) {
		plugin, err := mutating.NewPlugin(nil)
		if err != nil {
			return nil, fmt.Errorf("start MutatingAdmissionPolicy: %w", err)
		}
		plugin.SetEnabled(true)
		return plugin, initialize(plugin, config, stop)
	}
	return validatingPolicy{validate}, mutatingPolicy{mutate}
}

// policyPlugin is what both plugins want before they work.
type policyPlugin interface {
	admission.InitializationValidator
	initializer.WantsExternalKubeInformerFactory
	initializer.WantsExternalKubeClientSet
	initializer.WantsDynamicClient
	initializer.WantsRESTMapper
	initializer.WantsUnconditionalAuthorizer
	initializer.WantsDrainedNotification
	initializer.WantsExcludedAdmissionResources
}

// initialize starts the plugin.
func initialize(plugin policyPlugin, config Config, stop <-chan struct{}) error {
	plugin.SetExternalKubeInformerFactory(config.Informers)
	plugin.SetExternalKubeClientSet(config.Client)
	plugin.SetDynamicClient(config.Dynamic)
	plugin.SetRESTMapper(freshMapper{restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(config.Client.Discovery()))})
	plugin.SetUnconditionalAuthorizer(config.Authorizer)
	plugin.SetDrainedNotification(stop)
	plugin.SetExcludedAdmissionResources(unpolicied)
	return plugin.ValidateInitialization()
}

// unpolicied are what a policy must not stop: asking who one is and what one may do.
var unpolicied = []schema.GroupResource{
	{Group: "authentication.k8s.io", Resource: "selfsubjectreviews"},
	{Group: "authentication.k8s.io", Resource: "tokenreviews"},
	{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"},
	{Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"},
	{Group: "authorization.k8s.io", Resource: "selfsubjectrulesreviews"},
	{Group: "authorization.k8s.io", Resource: "subjectaccessreviews"},
}

// freshMapper asks discovery again when it does not know a kind: it may have been defined a moment ago.
type freshMapper struct {
	*restmapper.DeferredDiscoveryRESTMapper
}

func (m freshMapper) RESTMapping(gk schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	mapping, err := m.DeferredDiscoveryRESTMapper.RESTMapping(gk, versions...)
	if meta.IsNoMatchError(err) {
		m.Reset()
		mapping, err = m.DeferredDiscoveryRESTMapper.RESTMapping(gk, versions...)
	}
	return mapping, err
}
