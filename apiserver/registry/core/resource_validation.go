package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// standardForContainers are the resources without a domain that a container may ask for.
var standardForContainers = sets.New(corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage)

// integerResources are counted in whole units; so is every extended resource.
var integerResources = sets.New(
	corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceSecrets,
	corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
)

func isHugePage(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// isExtended says that a resource belongs to somebody else's domain: "example.com/device".
func isExtended(name corev1.ResourceName) bool {
	s := string(name)
	native := !strings.Contains(s, "/") || strings.Contains(s, corev1.ResourceDefaultNamespacePrefix)
	return !native && !strings.HasPrefix(s, corev1.DefaultResourceRequestsPrefix)
}

// validateQuantity checks an amount of a resource: not negative, and whole where the resource is.
func validateQuantity(name corev1.ResourceName, q resource.Quantity, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if q.Sign() < 0 {
		errs = append(errs, field.Invalid(at, q.String(), apivalidation.IsNegativeErrorMsg))
	}
	if (integerResources.Has(name) || isExtended(name)) && q.MilliValue()%1000 != 0 {
		errs = append(errs, field.Invalid(at, q, "must be an integer"))
	}
	return errs
}

func validateResourceName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := invalid(at, name, validation.IsQualifiedName(string(name)))
	if len(errs) > 0 {
		return errs
	}
	if !strings.Contains(string(name), "/") && !standardForContainers.Has(name) && !isHugePage(name) {
		return field.ErrorList{field.Invalid(at, name, "must be a standard resource for containers")}
	}
	return nil
}

// validateResourceList checks amounts of container resources.
func validateResourceList(list corev1.ResourceList, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for name, q := range list {
		errs = append(errs, validateResourceName(name, at.Key(string(name)))...)
		errs = append(errs, validateQuantity(name, q, at.Key(string(name)))...)
	}
	return errs
}

// ValidateResources checks a container's requests and limits, and that no request is above its limit.
func ValidateResources(r *corev1.ResourceRequirements, at *field.Path) field.ErrorList {
	errs := validateResourceList(r.Limits, at.Child("limits"))
	errs = append(errs, validateResourceList(r.Requests, at.Child("requests"))...)
	huge, ordinary := false, false
	see := func(list corev1.ResourceList) {
		for name := range list {
			huge = huge || isHugePage(name)
			ordinary = ordinary || name == corev1.ResourceCPU || name == corev1.ResourceMemory
		}
	}
	see(r.Limits)
	see(r.Requests)
	for name, request := range r.Requests {
		path := at.Child("requests")
		limit, limited := r.Limits[name]
		fixed := isHugePage(name) || isExtended(name)
		switch {
		case limited && fixed && request.Cmp(limit) != 0:
			errs = append(errs, field.Invalid(path, request.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String())))
		case limited && request.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(path, request.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		case !limited && fixed:
			errs = append(errs, field.Required(at.Child("limits"), "Limit must be set for non overcommitable resources"))
		}
	}
	if huge && !ordinary {
		errs = append(errs, field.Forbidden(at, "HugePages require cpu or memory"))
	}
	if len(r.Claims) > 0 {
		errs = append(errs, field.Forbidden(at.Child("claims"), "resource claims are not supported"))
	}
	return errs
}

// validatePodResources checks resources of a pod as a whole (KEP-2837): CPU, memory and huge pages only.
func validatePodResources(r *corev1.ResourceRequirements, at *field.Path) field.ErrorList {
	errs := ValidateResources(r, at)
	for _, list := range []struct {
		name      string
		resources corev1.ResourceList
	}{{"limits", r.Limits}, {"requests", r.Requests}} {
		for name := range list.resources {
			if !podLevelResource(name) {
				errs = append(errs, field.NotSupported(at.Child(list.name).Key(string(name)), name, []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceHugePagesPrefix}))
			}
		}
	}
	return errs
}
