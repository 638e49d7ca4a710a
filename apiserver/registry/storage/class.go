package storage

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/registry/core"
)

const (
	maxParameters     = 512
	maxParameterBytes = 256 << 10
)

// StorageClass is the row of storageclasses.
func StorageClass() registry.Resource {
	return registry.Resource{
		GVK: storagev1.SchemeGroupVersion.WithKind("StorageClass"), Name: "storageclasses", Singular: "storageclass", ShortNames: []string{"sc"},
		Default: registry.Defaulter(func(c *storagev1.StorageClass) {
			if c.ReclaimPolicy == nil {
				c.ReclaimPolicy = ptr.To(corev1.PersistentVolumeReclaimDelete)
			}
			if c.VolumeBindingMode == nil {
				c.VolumeBindingMode = ptr.To(storagev1.VolumeBindingImmediate)
			}
		}),
		Strategy: registry.Strategy{
			Validate: registry.Validate(validateClass),
			ValidateUpdate: registry.ValidateUpdate(func(c, old *storagev1.StorageClass) field.ErrorList {
				errs := append(validateClass(c), registry.ValidateMetaUpdate(c, old)...)
				errs = append(errs, registry.Immutable(c.Parameters, old.Parameters, field.NewPath("parameters"))...)
				errs = append(errs, registry.Immutable(c.Provisioner, old.Provisioner, field.NewPath("provisioner"))...)
				errs = append(errs, registry.Immutable(c.ReclaimPolicy, old.ReclaimPolicy, field.NewPath("reclaimPolicy"))...)
				return append(errs, registry.Immutable(c.VolumeBindingMode, old.VolumeBindingMode, field.NewPath("volumeBindingMode"))...)
			}),
			Warnings:            registry.Warn(func(c, _ *storagev1.StorageClass) []string { return classWarnings(c) }),
			UnconditionalUpdate: true,
		},
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Column("Provisioner", "Who makes volumes of this class"),
				registry.Column("ReclaimPolicy", "What becomes of a volume that is released"),
				registry.Column("VolumeBindingMode", "When a claim is bound to a volume"),
				registry.Column("AllowVolumeExpansion", "Whether claims may grow"),
				registry.AgeColumn(),
			},
			Cells: registry.Cells(func(c *storagev1.StorageClass) []any {
				name := c.Name
				for _, a := range []string{defaultClass, betaDefaultClass} {
					if c.Annotations[a] == "true" {
						name = c.Name + " (default)"
					}
				}
				return []any{
					name, c.Provisioner, string(ptr.Deref(c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)),
					string(ptr.Deref(c.VolumeBindingMode, storagev1.VolumeBindingImmediate)), ptr.Deref(c.AllowVolumeExpansion, false), registry.Age(c.CreationTimestamp),
				}
			}),
		},
	}
}

// The annotations of the default class; the older one still counts.
const (
	defaultClass     = "storageclass.kubernetes.io/is-default-class"
	betaDefaultClass = "storageclass.beta.kubernetes.io/is-default-class"
)

func validateClass(c *storagev1.StorageClass) field.ErrorList {
	errs := registry.ValidateMeta(c, false, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, validateProvisioner(c.Provisioner, field.NewPath("provisioner"))...)
	errs = append(errs, validateParameters(c.Parameters, field.NewPath("parameters"))...)
	if p := c.ReclaimPolicy; p != nil && *p != "" && *p != corev1.PersistentVolumeReclaimDelete && *p != corev1.PersistentVolumeReclaimRetain {
		errs = append(errs, field.NotSupported(field.NewPath("reclaimPolicy"), p,
			[]corev1.PersistentVolumeReclaimPolicy{corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain}))
	}
	path := field.NewPath("volumeBindingMode")
	if m := c.VolumeBindingMode; m == nil {
		errs = append(errs, field.Required(path, ""))
	} else if *m != storagev1.VolumeBindingImmediate && *m != storagev1.VolumeBindingWaitForFirstConsumer {
		errs = append(errs, field.NotSupported(path, m, []storagev1.VolumeBindingMode{storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer}))
	}
	return append(errs, validateTopologies(c.AllowedTopologies, field.NewPath("allowedTopologies"))...)
}

func validateProvisioner(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, name)}
	}
	name = strings.ToLower(name)
	return registry.Invalid(path, name, validation.IsQualifiedName(name))
}

func validateParameters(parameters map[string]string, path *field.Path) field.ErrorList {
	if len(parameters) > maxParameters {
		return field.ErrorList{field.TooLong(path, "", maxParameters)}
	}
	var errs field.ErrorList
	size := 0
	for k, v := range parameters {
		if k == "" {
			errs = append(errs, field.Invalid(path, k, "field can not be empty."))
		}
		size += len(k) + len(v)
	}
	if size > maxParameterBytes {
		errs = append(errs, field.TooLong(path, "", maxParameterBytes))
	}
	return errs
}

// validateTopologies wants each term to be another set of labels than the others.
func validateTopologies(terms []corev1.TopologySelectorTerm, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	var seen []map[string]sets.Set[string]
	for i, term := range terms {
		at := path.Index(i).Child("matchLabelExpressions")
		labels := map[string]sets.Set[string]{}
		for j, e := range term.MatchLabelExpressions {
			values, valuesPath := sets.New[string](), at.Index(j).Child("values")
			if len(e.Values) == 0 {
				errs = append(errs, field.Required(valuesPath, ""))
			}
			for k, v := range e.Values {
				if values.Has(v) {
					errs = append(errs, field.Duplicate(valuesPath.Index(k), v))
				}
				values.Insert(v)
			}
			errs = append(errs, metav1validation.ValidateLabelName(e.Key, at.Index(j).Child("key"))...)
			if _, twice := labels[e.Key]; twice {
				errs = append(errs, field.Duplicate(at.Index(j).Child("key"), e.Key))
			}
			labels[e.Key] = values
		}
		for _, other := range seen {
			if apiequality.Semantic.DeepEqual(labels, other) {
				errs = append(errs, field.Duplicate(at, ""))
			}
		}
		seen = append(seen, labels)
	}
	return errs
}

func classWarnings(c *storagev1.StorageClass) []string {
	var out []string
	for i, term := range c.AllowedTopologies {
		for j, e := range term.MatchLabelExpressions {
			if instead := core.DeprecatedNodeLabel(e.Key); instead != "" {
				path := field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(j).Child("key")
				out = append(out, fmt.Sprintf("%s: %s", path, instead))
			}
		}
	}
	return out
}

const attributesClassProtection = "kubernetes.io/vac-protection"

// VolumeAttributesClass is the row of volumeattributesclasses.
func VolumeAttributesClass() registry.Resource {
	return registry.Resource{
		GVK: storagev1.SchemeGroupVersion.WithKind("VolumeAttributesClass"), Name: "volumeattributesclasses", Singular: "volumeattributesclass", ShortNames: []string{"vac"},
		Strategy: registry.Strategy{
			// The finalizer keeps a class while a claim or a volume names it (KEP-3751). Upstream's admission adds it; here it
			// is part of making the object. The vacprotection controller takes it away.
			PrepareForCreate: registry.Prepare(func(c *storagev1.VolumeAttributesClass) {
				if !slices.Contains(c.Finalizers, attributesClassProtection) {
					c.Finalizers = append(slices.Clone(c.Finalizers), attributesClassProtection)
				}
			}),
			Validate: registry.Validate(validateAttributesClass),
			ValidateUpdate: registry.ValidateUpdate(func(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
				errs := registry.ValidateMetaUpdate(c, old)
				if c.DriverName != old.DriverName {
					errs = append(errs, field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
				}
				if !apiequality.Semantic.DeepEqual(c.Parameters, old.Parameters) {
					errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
				}
				return append(errs, validateAttributesClass(c)...)
			}),
			UnconditionalUpdate: true,
		},
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(), registry.Column("DriverName", "The driver whose volumes it is for"), registry.AgeColumn(),
			},
			Cells: registry.Cells(func(c *storagev1.VolumeAttributesClass) []any {
				return []any{c.Name, c.DriverName, registry.Age(c.CreationTimestamp)}
			}),
		},
	}
}

func validateAttributesClass(c *storagev1.VolumeAttributesClass) field.ErrorList {
	errs := registry.ValidateMeta(c, false, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, validateProvisioner(c.DriverName, field.NewPath("driverName"))...)
	errs = append(errs, validateParameters(c.Parameters, field.NewPath("parameters"))...)
	if len(c.Parameters) == 0 {
		errs = append(errs, field.Required(field.NewPath("parameters"), "must contain at least one key/value pair"))
	}
	return errs
}
