package quota

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
	resourcehelper "k8s.io/component-helpers/resource"
)

const (
	countPrefix        = "count/"
	storageClassSuffix = ".storageclass.storage.k8s.io/"
)

var (
	pods     = corev1.Resource("pods")
	services = corev1.Resource("services")
	claims   = corev1.Resource("persistentvolumeclaims")
)

// olderNames are core resources that count under their bare name too.
var olderNames = map[string]corev1.ResourceName{
	"configmaps": corev1.ResourceConfigMaps, "secrets": corev1.ResourceSecrets, "services": corev1.ResourceServices,
	"replicationcontrollers": corev1.ResourceReplicationControllers, "resourcequotas": corev1.ResourceQuotas,
	"persistentvolumeclaims": corev1.ResourcePersistentVolumeClaims,
}

// CountName is what the number of objects of a resource counts under.
func CountName(gr schema.GroupResource) corev1.ResourceName {
	return corev1.ResourceName(countPrefix + gr.String())
}

// Counted says whether quotas can be about a resource: not about objects that are asked rather than stored, or that come by the
// thousands.
func Counted(gr schema.GroupResource) bool {
	switch gr.Group {
	case "":
		return gr.Resource != "bindings" && gr.Resource != "events" && gr.Resource != "componentstatuses"
	case "events.k8s.io":
		return gr.Resource != "events"
	case "authentication.k8s.io", "authorization.k8s.io":
		return false
	}
	return true
}

// Measured says that objects of a resource count for more than their number, so that their contents matter.
func Measured(gr schema.GroupResource) bool { return gr == pods || gr == services || gr == claims }

// Resource is the one that a name of a quota is about; false for names nobody counts.
func Resource(name corev1.ResourceName) (schema.GroupResource, bool) {
	if counted, ok := strings.CutPrefix(string(name), countPrefix); ok {
		return schema.ParseGroupResource(counted), true
	}
	for _, gr := range []schema.GroupResource{pods, services, claims} {
		if about(gr, name) {
			return gr, true
		}
	}
	for plural, older := range olderNames {
		if name == older {
			return corev1.Resource(plural), true
		}
	}
	return schema.GroupResource{}, false
}

// Usage is what an object of the resource uses, under every name it counts under. obj is only looked at for pods, services
// and claims, and has their type.
func Usage(gr schema.GroupResource, obj any, now time.Time) corev1.ResourceList {
	used := corev1.ResourceList{CountName(gr): count(1)}
	if older, ok := olderNames[gr.Resource]; ok && gr.Group == "" {
		used[older] = count(1)
	}
	switch o := obj.(type) {
	case *corev1.Pod:
		podUsage(used, o, now)
	case *corev1.Service:
		serviceUsage(used, o)
	case *corev1.PersistentVolumeClaim:
		claimUsage(used, o)
	}
	return used
}

func count(n int) resource.Quantity { return *resource.NewQuantity(int64(n), resource.DecimalSI) }

// podUsage counts what a pod holds until it has ended, or was to be gone by now.
func podUsage(used corev1.ResourceList, pod *corev1.Pod, now time.Time) {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return
	}
	if pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil &&
		now.After(pod.DeletionTimestamp.Add(time.Duration(*pod.DeletionGracePeriodSeconds)*time.Second)) {
		return
	}
	used[corev1.ResourcePods] = count(1)
	options := resourcehelper.PodResourcesOptions{UseStatusResources: true}
	compute(used, resourcehelper.PodRequests(pod, options), resourcehelper.PodLimits(pod, options))
}

// compute writes requests and limits under the names that quotas have for them.
func compute(used, requests, limits corev1.ResourceList) {
	for name, q := range requests {
		switch {
		case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage,
			strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
			used[name] = q
			used[corev1.DefaultResourceRequestsPrefix+name] = q
		case foreign(name):
			used[corev1.DefaultResourceRequestsPrefix+name] = q
		}
	}
	for name, q := range limits {
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
			used["limits."+name] = q
		}
	}
}

// foreign says that a resource belongs to somebody else's domain: "example.com/device".
func foreign(name corev1.ResourceName) bool {
	return strings.Contains(string(name), "/") && !strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// serviceUsage counts the node ports a Service asks for: they are given out only after admission.
func serviceUsage(used corev1.ResourceList, service *corev1.Service) {
	ports, balancers := 0, 0
	switch service.Spec.Type {
	case corev1.ServiceTypeNodePort:
		ports = len(service.Spec.Ports)
	case corev1.ServiceTypeLoadBalancer:
		balancers = 1
		for i := range service.Spec.Ports {
			if allocate := service.Spec.AllocateLoadBalancerNodePorts; allocate == nil || *allocate || service.Spec.Ports[i].NodePort != 0 {
				ports++
			}
		}
	}
	used[corev1.ResourceServicesNodePorts] = count(ports)
	used[corev1.ResourceServicesLoadBalancers] = count(balancers)
}

func claimUsage(used corev1.ResourceList, claim *corev1.PersistentVolumeClaim) {
	class := claim.Annotations[corev1.BetaStorageClassAnnotation]
	if class == "" && claim.Spec.StorageClassName != nil {
		class = *claim.Spec.StorageClassName
	}
	of := func(name corev1.ResourceName, q resource.Quantity) {
		used[name] = q
		if class != "" {
			used[corev1.ResourceName(class+storageClassSuffix)+name] = q
		}
	}
	of(corev1.ResourcePersistentVolumeClaims, count(1))
	storage, ok := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if !ok {
		return
	}
	if allocated, ok := claim.Status.AllocatedResources[corev1.ResourceStorage]; ok && allocated.Cmp(storage) > 0 {
		storage = allocated
	}
	storage = storage.DeepCopy()
	storage.RoundUp(0)
	of(corev1.ResourceRequestsStorage, storage)
}

// about says whether objects of the resource count under a quota's name.
func about(gr schema.GroupResource, name corev1.ResourceName) bool {
	s := string(name)
	if name == CountName(gr) || gr.Group == "" && olderNames[gr.Resource] == name && name != "" {
		return true
	}
	switch gr {
	case pods:
		switch name {
		case corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
			corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
			corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage:
			return true
		}
		return strings.HasPrefix(s, corev1.ResourceHugePagesPrefix) || strings.HasPrefix(s, corev1.ResourceRequestsHugePagesPrefix) ||
			foreign(name) && strings.HasPrefix(s, corev1.DefaultResourceRequestsPrefix)
	case services:
		return name == corev1.ResourceServicesNodePorts || name == corev1.ResourceServicesLoadBalancers
	case claims:
		return name == corev1.ResourceRequestsStorage || strings.HasSuffix(s, storageClassSuffix+string(corev1.ResourceRequestsStorage)) ||
			strings.HasSuffix(s, storageClassSuffix+string(corev1.ResourcePersistentVolumeClaims))
	}
	return false
}
