package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
)

// ResourceQuota is the row of resourcequotas. Admission charges the quotas, the controller counts what is there.
func ResourceQuota() registry.Resource {
	status := registry.Strategy{
		PrepareForUpdate: registry.PrepareUpdate(func(q, old *corev1.ResourceQuota) { q.Spec = old.Spec }),
		ValidateUpdate: registry.ValidateUpdate(func(q, old *corev1.ResourceQuota) field.ErrorList {
			errs := apivalidation.ValidateObjectMetaUpdate(&q.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
			errs = append(errs, validateQuotaResources(q.Status.Hard, field.NewPath("status", "hard"))...)
			return append(errs, validateQuotaResources(q.Status.Used, field.NewPath("status", "used"))...)
		}),
	}
	return registry.Resource{
		GVK: corev1.SchemeGroupVersion.WithKind("ResourceQuota"), Name: "resourcequotas", Singular: "resourcequota", ShortNames: []string{"quota"}, Namespaced: true,
		Default: registry.Defaulter(func(q *corev1.ResourceQuota) {
			defaultResources(q.Spec.Hard)
			defaultResources(q.Status.Hard)
			defaultResources(q.Status.Used)
		}),
		Strategy: registry.Strategy{
			PrepareForCreate: registry.Prepare(func(q *corev1.ResourceQuota) { q.Status = corev1.ResourceQuotaStatus{} }),
			PrepareForUpdate: registry.PrepareUpdate(func(q, old *corev1.ResourceQuota) { q.Status = old.Status }),
			Validate: registry.Validate(func(q *corev1.ResourceQuota) field.ErrorList {
				errs := apivalidation.ValidateObjectMeta(&q.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
				return append(errs, validateQuotaSpec(&q.Spec)...)
			}),
			ValidateUpdate:      registry.ValidateUpdate(validateQuotaUpdate),
			Warnings:            registry.Warn(quotaWarnings),
			ReturnDeleted:       true,
			UnconditionalUpdate: true,
		},
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Column("Request", "What is used and allowed of objects and of requests"),
				registry.Column("Limit", "What is used and allowed of limits"),
				registry.AgeColumn(),
			},
			Cells: registry.Cells(func(q *corev1.ResourceQuota) []any {
				requests, limits := quotaCells(q)
				return []any{q.Name, requests, limits, registry.Age(q.CreationTimestamp)}
			}),
		},
		Status: &status,
	}
}

func quotaCells(q *corev1.ResourceQuota) (requests, limits string) {
	var of [2][]string
	for _, name := range sortedNames(q.Status.Hard) {
		used, hard := q.Status.Used[name], q.Status.Hard[name]
		column := 0
		if strings.HasPrefix(string(name), "limits.") {
			column = 1
		}
		of[column] = append(of[column], fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String()))
	}
	return strings.Join(of[0], ", "), strings.Join(of[1], ", ")
}

func sortedNames(list corev1.ResourceList) []corev1.ResourceName {
	names := make([]corev1.ResourceName, 0, len(list))
	for name := range list {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// quotaWarnings tells of limits that no pod could use up, as the requests are used up before.
func quotaWarnings(q, old *corev1.ResourceQuota) []string {
	if old != nil {
		return nil
	}
	var texts []string
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceStorage, corev1.ResourceEphemeralStorage} {
		requestName := corev1.DefaultResourceRequestsPrefix + name
		request, ok := q.Spec.Hard[requestName]
		if !ok && (name == corev1.ResourceCPU || name == corev1.ResourceMemory) {
			requestName = name
			request, ok = q.Spec.Hard[name]
		}
		limit, limited := q.Spec.Hard["limits."+name]
		if ok && limited && request.Cmp(limit) > 0 {
			texts = append(texts, fmt.Sprintf("ResourceQuota %s (%s) should be less than limits.%s (%s)", requestName, request.String(), name, limit.String()))
		}
	}
	return texts
}

var (
	// quotaResources are the names without a domain that a quota may limit, huge pages aside.
	quotaResources = sets.New(
		corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsStorage, corev1.ResourceRequestsEphemeralStorage,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
		corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceSecrets,
		corev1.ResourcePersistentVolumeClaims, corev1.ResourceConfigMaps, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
	)
	podQuotaResources = sets.New(
		corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
	)
	// scopedResources are the scopes, and the standard resources each of them can be about.
	scopedResources = map[corev1.ResourceQuotaScope]sets.Set[corev1.ResourceName]{
		corev1.ResourceQuotaScopeTerminating:               podQuotaResources,
		corev1.ResourceQuotaScopeNotTerminating:            podQuotaResources,
		corev1.ResourceQuotaScopeNotBestEffort:             podQuotaResources,
		corev1.ResourceQuotaScopePriorityClass:             podQuotaResources,
		corev1.ResourceQuotaScopeCrossNamespacePodAffinity: podQuotaResources,
		corev1.ResourceQuotaScopeBestEffort:                sets.New(corev1.ResourcePods),
		corev1.ResourceQuotaScopeVolumeAttributesClass:     sets.New(corev1.ResourcePersistentVolumeClaims, corev1.ResourceRequestsStorage),
	}
	// opposedScopes would together match nothing.
	opposedScopes = [][2]corev1.ResourceQuotaScope{
		{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort},
		{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating},
	}
)

func isQuotaHugePage(name corev1.ResourceName) bool {
	return isHugePage(name) || strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix)
}

// qualified says that a name has a domain.
func qualified(name string) bool { return strings.Contains(name, "/") }

// validateAnyResourceName checks the name of a resource of whatever is counted.
func validateAnyResourceName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	if errs := invalid(at, name, validation.IsQualifiedName(string(name))); len(errs) > 0 {
		return errs
	}
	if !qualified(string(name)) && !quotaResources.Has(name) && name != corev1.ResourceStorage && !isQuotaHugePage(name) {
		return field.ErrorList{field.Invalid(at, name, "must be a standard resource type or fully qualified")}
	}
	return nil
}

func validateQuotaResources(list corev1.ResourceList, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range sortedNames(list) {
		path := at.Key(string(name))
		errs = append(errs, validateAnyResourceName(name, path)...)
		if !qualified(string(name)) && !quotaResources.Has(name) && !isQuotaHugePage(name) {
			errs = append(errs, field.Invalid(path, name, "must be a standard resource for quota"))
		}
		errs = append(errs, validateQuantity(name, list[name], path)...)
	}
	return errs
}

func validateQuotaSpec(spec *corev1.ResourceQuotaSpec) field.ErrorList {
	at := field.NewPath("spec")
	errs := validateQuotaResources(spec.Hard, at.Child("hard"))
	scopes := at.Child("scopes")
	for _, scope := range spec.Scopes {
		if scopedResources[scope] == nil {
			errs = append(errs, field.Invalid(scopes, spec.Scopes, "unsupported scope"))
		}
		errs = append(errs, validateScopeFor(scope, spec.Hard, scopes, spec.Scopes)...)
	}
	errs = append(errs, validateOpposed(spec.Scopes, scopes, spec.Scopes)...)
	if spec.ScopeSelector != nil {
		errs = append(errs, validateScopeSelector(spec, at.Child("scopeSelector", "matchExpressions"))...)
	}
	return errs
}

func validateScopeFor(scope corev1.ResourceQuotaScope, hard corev1.ResourceList, at *field.Path, value any) field.ErrorList {
	var errs field.ErrorList
	about, known := scopedResources[scope]
	for _, name := range sortedNames(hard) {
		standard := quotaResources.Has(name) || isQuotaHugePage(name)
		if known && standard && !about.Has(name) {
			errs = append(errs, field.Invalid(at, value, "unsupported scope applied to resource"))
		}
	}
	return errs
}

func validateOpposed(scopes []corev1.ResourceQuotaScope, at *field.Path, value any) field.ErrorList {
	var errs field.ErrorList
	for _, pair := range opposedScopes {
		if slices.Contains(scopes, pair[0]) && slices.Contains(scopes, pair[1]) {
			errs = append(errs, field.Invalid(at, value, "conflicting scopes"))
		}
	}
	return errs
}

func validateScopeSelector(spec *corev1.ResourceQuotaSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	var scopes []corev1.ResourceQuotaScope
	for _, r := range spec.ScopeSelector.MatchExpressions {
		scopes = append(scopes, r.ScopeName)
		if scopedResources[r.ScopeName] == nil {
			errs = append(errs, field.Invalid(at.Child("scopeName"), r.ScopeName, "unsupported scope"))
		}
		errs = append(errs, validateScopeFor(r.ScopeName, spec.Hard, at, spec.ScopeSelector)...)
		switch r.ScopeName {
		case corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeVolumeAttributesClass:
		default:
			if scopedResources[r.ScopeName] != nil && r.Operator != corev1.ScopeSelectorOpExists {
				errs = append(errs, field.Invalid(at.Child("operator"), r.Operator,
					"must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"))
			}
		}
		switch r.Operator {
		case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
			if len(r.Values) == 0 {
				errs = append(errs, field.Required(at.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
			}
		case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
			if len(r.Values) > 0 {
				errs = append(errs, field.Invalid(at.Child("values"), r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
			}
		default:
			errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
		}
	}
	return append(errs, validateOpposed(scopes, at, spec.Scopes)...)
}

func validateQuotaUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&q.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	errs = append(errs, validateQuotaSpec(&q.Spec)...)
	if !sets.New(q.Spec.Scopes...).Equal(sets.New(old.Spec.Scopes...)) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "scopes"), q.Spec.Scopes, apivalidation.FieldImmutableErrorMsg))
	}
	return errs
}
