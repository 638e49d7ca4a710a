package builtin

import (
	"fmt"
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/registry/admissionregistration"
	"github.com/mini-k8s/mini/apiserver/registry/apiextensions"
	"github.com/mini-k8s/mini/apiserver/registry/apiregistration"
	"github.com/mini-k8s/mini/apiserver/registry/apps"
	"github.com/mini-k8s/mini/apiserver/registry/authentication"
	"github.com/mini-k8s/mini/apiserver/registry/authorization"
	"github.com/mini-k8s/mini/apiserver/registry/autoscaling"
	"github.com/mini-k8s/mini/apiserver/registry/batch"
	"github.com/mini-k8s/mini/apiserver/registry/certificates"
	"github.com/mini-k8s/mini/apiserver/registry/coordination"
	"github.com/mini-k8s/mini/apiserver/registry/core"
	"github.com/mini-k8s/mini/apiserver/registry/discovery"
	"github.com/mini-k8s/mini/apiserver/registry/events"
	"github.com/mini-k8s/mini/apiserver/registry/flowcontrol"
	"github.com/mini-k8s/mini/apiserver/registry/networking"
	"github.com/mini-k8s/mini/apiserver/registry/node"
	"github.com/mini-k8s/mini/apiserver/registry/policy"
	"github.com/mini-k8s/mini/apiserver/registry/rbac"
	"github.com/mini-k8s/mini/apiserver/registry/resource"
	"github.com/mini-k8s/mini/apiserver/registry/scheduling"
	"github.com/mini-k8s/mini/apiserver/registry/storage"
)

// NewScheme returns a scheme of the types of all rows: client-go's, and those of the API groups that client-go has none for.
func NewScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiextensionsv1.AddToScheme, apiregistrationv1.AddToScheme} {
		if err := add(s); err != nil {
			panic(fmt.Sprintf("types of the rows: %v", err)) // two Go types for one kind: found by the first test
		}
	}
	return s
}

// Resources returns the rows of all built-in kinds, in the order in which discovery shows groups and kinds, and the
// allocators of cluster addresses and node ports, whose Run repairs what a crash left claimed.
func Resources(deps registry.Deps) ([]registry.Resource, *core.Allocators) {
	allocators := core.NewAllocators(deps)
	var rows []registry.Resource
	if deps.ResourceOf == nil {
		deps.ResourceOf = func(kind schema.GroupVersionKind) (string, bool) {
			i := slices.IndexFunc(rows, func(r registry.Resource) bool { return r.GVK == kind })
			if i < 0 {
				return "", false
			}
			return rows[i].Name, true
		}
	}
	rows = []registry.Resource{
		core.Binding(deps),
		core.ComponentStatus(deps),
		core.ConfigMap(),
		core.Endpoints(),
		events.Core(),
		core.LimitRange(),
		core.Namespace(),
		core.Node(),
		core.PersistentVolumeClaim(),
		core.PersistentVolume(),
		core.Pod(deps),
		core.ResourceQuota(),
		core.PodTemplate(),
		core.ReplicationController(),
		core.Secret(),
		core.ServiceAccount(deps),
		core.Service(deps, allocators),

		apiextensions.CustomResourceDefinition(),
		admissionregistration.MutatingAdmissionPolicy(deps),
		admissionregistration.MutatingAdmissionPolicyBinding(deps),
		admissionregistration.MutatingWebhookConfiguration(),
		admissionregistration.ValidatingAdmissionPolicy(deps),
		admissionregistration.ValidatingAdmissionPolicyBinding(deps),
		admissionregistration.ValidatingWebhookConfiguration(),
		apiregistration.APIService(),
		apps.ControllerRevision(),
		apps.DaemonSet(),
		apps.Deployment(),
		apps.ReplicaSet(),
		apps.StatefulSet(),
		batch.CronJob(),
		batch.Job(),
		certificates.CertificateSigningRequest(deps),
		coordination.Lease(),
		discovery.EndpointSlice(),
		events.Events(),
		flowcontrol.FlowSchema(),
		flowcontrol.PriorityLevelConfiguration(),
		networking.IngressClass(),
		networking.Ingress(),
		networking.IPAddress(),
		networking.NetworkPolicy(),
		networking.ServiceCIDR(),
		node.RuntimeClass(),
		policy.PodDisruptionBudget(),
		rbac.ClusterRoleBinding(),
		rbac.ClusterRole(),
		rbac.RoleBinding(),
		rbac.Role(),
		resource.DeviceClass(),
		resource.ResourceClaim(deps),
		resource.ResourceClaimTemplate(deps),
		resource.ResourceSlice(),
		scheduling.PriorityClass(),
		storage.CSIDriver(),
		storage.CSINode(),
		storage.CSIStorageCapacity(),
		storage.StorageClass(),
		storage.VolumeAttachment(),
		storage.VolumeAttributesClass(),
	}
	rows = append(rows, autoscaling.HorizontalPodAutoscalers()...)
	rows = append(rows, authentication.Reviews(deps)...)
	rows = append(rows, authorization.Reviews(deps)...)
	for i := range rows {
		inherit(&rows[i])
	}
	return rows, allocators
}

// inherit gives a row's views what holds for writing the object in any way: the optimistic lock, and giving back what it
// held when a write of the view is the one that removes it.
func inherit(row *registry.Resource) {
	views := []*registry.Strategy{row.Status}
	for i := range row.Subresources {
		views = append(views, row.Subresources[i].Strategy)
	}
	for _, v := range views {
		if v != nil {
			v.UnconditionalUpdate = row.Strategy.UnconditionalUpdate
			v.Allocate = row.Strategy.Allocate
			v.Held = row.Strategy.Held
		}
	}
}
