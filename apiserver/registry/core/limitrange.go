package core

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
)

// LimitRange is the row of limitranges. Admission (LimitRanger) does what they say.
func LimitRange() registry.Resource {
	return registry.Resource{
		GVK: corev1.SchemeGroupVersion.WithKind("LimitRange"), Name: "limitranges", Singular: "limitrange", ShortNames: []string{"limits"}, Namespaced: true,
		Default: registry.Defaulter(defaultLimitRange),
		Strategy: registry.Strategy{
			PrepareForCreate: registry.Prepare(func(l *corev1.LimitRange) {
				if l.Name == "" {
					l.Name = string(uuid.NewUUID())
				}
			}),
			Validate:            registry.Validate(validateLimitRange),
			ValidateUpdate:      registry.ValidateUpdate(func(l, _ *corev1.LimitRange) field.ErrorList { return validateLimitRange(l) }),
			CreateOnUpdate:      true,
			UnconditionalUpdate: true,
		},
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{registry.NameColumn(), registry.Column("Created At", "When the limits were created")},
			Cells: registry.Cells(func(l *corev1.LimitRange) []any {
				return []any{l.Name, l.CreationTimestamp.UTC().Format(time.RFC3339)}
			}),
		},
	}
}

// defaultLimitRange derives what a container gets from what is said about it: the limit from the most, the request from the
// limit, else from the least.
func defaultLimitRange(l *corev1.LimitRange) {
	for i := range l.Spec.Limits {
		item := &l.Spec.Limits[i]
		if item.Type == corev1.LimitTypeContainer {
			item.Default = inherited(item.Default, item.Max)
			item.DefaultRequest = inherited(inherited(item.DefaultRequest, item.Default), item.Min)
		}
		for _, list := range []corev1.ResourceList{item.Max, item.Min, item.Default, item.DefaultRequest, item.MaxLimitRequestRatio} {
			defaultResources(list)
		}
	}
}

// inherited is list, with what only from has.
func inherited(list, from corev1.ResourceList) corev1.ResourceList {
	if list == nil {
		list = corev1.ResourceList{}
	}
	for name, q := range from {
		if _, ok := list[name]; !ok {
			list[name] = q.DeepCopy()
		}
	}
	return list
}

var limitTypes = sets.New(corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim)

func validateLimitRange(l *corev1.LimitRange) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&l.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	seen := sets.New[corev1.LimitType]()
	for i := range l.Spec.Limits {
		item, at := &l.Spec.Limits[i], field.NewPath("spec", "limits").Index(i)
		errs = append(errs, validateLimitType(item.Type, at.Child("type"))...)
		if seen.Has(item.Type) {
			errs = append(errs, field.Duplicate(at.Child("type"), item.Type))
		}
		seen.Insert(item.Type)
		errs = append(errs, validateLimits(item, at)...)
	}
	return errs
}

func validateLimitType(t corev1.LimitType, at *field.Path) field.ErrorList {
	if errs := invalid(at, t, validation.IsQualifiedName(string(t))); len(errs) > 0 {
		return errs
	}
	if !qualified(string(t)) && !limitTypes.Has(t) {
		return field.ErrorList{field.Invalid(at, t, "must be a standard limit type or fully qualified")}
	}
	return nil
}

func validateLimits(item *corev1.LimitRangeItem, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[corev1.ResourceName]()
	see := func(list corev1.ResourceList, child string) {
		for name := range list {
			names.Insert(name)
			key := at.Child(child).Key(string(name))
			if item.Type == corev1.LimitTypePod || item.Type == corev1.LimitTypeContainer {
				errs = append(errs, validateResourceName(name, key)...)
			} else {
				errs = append(errs, validateAnyResourceName(name, key)...)
			}
		}
	}
	see(item.Max, "max")
	see(item.Min, "min")
	if item.Type == corev1.LimitTypePod {
		for child, list := range map[string]corev1.ResourceList{"default": item.Default, "defaultRequest": item.DefaultRequest} {
			if len(list) > 0 {
				errs = append(errs, field.Forbidden(at.Child(child), "may not be specified when `type` is 'Pod'"))
			}
		}
	} else {
		see(item.Default, "default")
		see(item.DefaultRequest, "defaultRequest")
	}
	if item.Type == corev1.LimitTypePersistentVolumeClaim {
		_, least := item.Min[corev1.ResourceStorage]
		_, most := item.Max[corev1.ResourceStorage]
		if !least && !most {
			errs = append(errs, field.Required(at.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
		}
	}
	see(item.MaxLimitRequestRatio, "maxLimitRequestRatio")
	for _, name := range sets.List(names) {
		errs = append(errs, validateLimitsOf(item, name, at)...)
	}
	return errs
}

// validateLimitsOf checks that what is said about one resource fits together.
func validateLimitsOf(item *corev1.LimitRangeItem, name corev1.ResourceName, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	key := string(name)
	least, hasMin := item.Min[name]
	most, hasMax := item.Max[name]
	var limit, request resource.Quantity
	var hasLimit, hasRequest bool
	if item.Type != corev1.LimitTypePod {
		limit, hasLimit = item.Default[name]
		request, hasRequest = item.DefaultRequest[name]
	}
	greater := func(child string, shown, low, high resource.Quantity, lowName, highName string) {
		if low.Cmp(high) > 0 {
			errs = append(errs, field.Invalid(at.Child(child).Key(key), shown.String(), fmt.Sprintf("%s value %s is greater than %s value %s", lowName, low.String(), highName, high.String())))
		}
	}
	if hasMin && hasMax {
		greater("min", least, least, most, "min", "max")
	}
	if hasRequest && hasMin {
		greater("defaultRequest", request, least, request, "min", "default request")
	}
	if hasRequest && hasMax {
		greater("defaultRequest", request, request, most, "default request", "max")
	}
	if hasRequest && hasLimit {
		greater("defaultRequest", request, request, limit, "default request", "default limit")
	}
	if hasLimit && hasMin {
		greater("default", least, least, limit, "min", "default")
	}
	if hasLimit && hasMax {
		greater("default", most, limit, most, "default", "max")
	}
	if ratio, ok := item.MaxLimitRequestRatio[name]; ok {
		path := at.Child("maxLimitRequestRatio").Key(key)
		if ratio.Cmp(*resource.NewQuantity(1, resource.DecimalSI)) < 0 {
			errs = append(errs, field.Invalid(path, ratio.String(), fmt.Sprintf("ratio %s is less than 1", ratio.String())))
		}
		if widest := most.AsApproximateFloat64() / least.AsApproximateFloat64(); hasMin && hasMax && ratio.AsApproximateFloat64() > widest {
			errs = append(errs, field.Invalid(path, ratio.String(), fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), widest)))
		}
	}
	if (isExtended(name) || isHugePage(name)) && hasLimit && hasRequest && limit.Cmp(request) != 0 {
		errs = append(errs, field.Invalid(at.Child("defaultRequest").Key(key), request.String(), fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", limit.String(), request.String(), name)))
	}
	return errs
}
