package storage

import (
	"fmt"
	"slices"
	"strings"

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

// unset is what a cell shows for an optional value that is not there.
const unset = "<unset>"

// CSIDriver is the row of csidrivers.
func CSIDriver() registry.Resource {
	return registry.Resource{
		GVK: storagev1.SchemeGroupVersion.WithKind("CSIDriver"), Name: "csidrivers", Singular: "csidriver",
		Default: registry.Defaulter(defaultDriver),
		Strategy: registry.Strategy{
			PrepareForCreate: registry.Prepare(func(d *storagev1.CSIDriver) { d.Spec.PreventPodSchedulingIfMissing = nil }),
			PrepareForUpdate: registry.PrepareUpdate(func(d, old *storagev1.CSIDriver) {
				if old.Spec.PreventPodSchedulingIfMissing == nil { // a gate that 1.36 has off
					d.Spec.PreventPodSchedulingIfMissing = nil
				}
				if !apiequality.Semantic.DeepEqual(d.Spec, old.Spec) {
					d.Generation = old.Generation + 1
				}
			}),
			Validate: registry.Validate(func(d *storagev1.CSIDriver) field.ErrorList {
				return append(registry.ValidateMeta(d, false, apivalidation.NameIsDNSSubdomain), validateDriver(&d.Spec, field.NewPath("spec"))...)
			}),
			ValidateUpdate: registry.ValidateUpdate(func(d, old *storagev1.CSIDriver) field.ErrorList {
				spec := field.NewPath("spec")
				errs := append(registry.ValidateMetaUpdate(d, old), validateDriver(&d.Spec, spec)...)
				errs = append(errs, registry.Immutable(d.Spec.AttachRequired, old.Spec.AttachRequired, spec.Child("attachedRequired"))...)
				return append(errs, registry.Immutable(d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes, spec.Child("volumeLifecycleModes"))...)
			}),
			Warnings: registry.Warn(driverWarnings),
		},
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Boolean("AttachRequired", "Whether volumes must be attached to nodes"),
				registry.Boolean("PodInfoOnMount", "Whether the driver wants to know the pod at mount"),
				registry.Boolean("StorageCapacity", "Whether the driver publishes its capacity"),
				registry.Column("TokenRequests", "The audiences of the tokens that the driver wants"),
				registry.Boolean("RequiresRepublish", "Whether volumes are published again and again"),
				registry.Column("Modes", "The kinds of volumes it has"),
				registry.AgeColumn(),
			},
			Cells: registry.Cells(driverCells),
		},
	}
}

func defaultDriver(d *storagev1.CSIDriver) {
	s := &d.Spec
	for _, flag := range []struct {
		at    **bool
		value bool
	}{{&s.AttachRequired, true}, {&s.PodInfoOnMount, false}, {&s.StorageCapacity, false}, {&s.RequiresRepublish, false}, {&s.SELinuxMount, false}} {
		if *flag.at == nil {
			*flag.at = ptr.To(flag.value)
		}
	}
	if s.FSGroupPolicy == nil {
		s.FSGroupPolicy = ptr.To(storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	}
	if len(s.VolumeLifecycleModes) == 0 {
		s.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
}

func driverCells(d *storagev1.CSIDriver) []any {
	modes := registry.None
	if len(d.Spec.VolumeLifecycleModes) > 0 {
		names := make([]string, len(d.Spec.VolumeLifecycleModes))
		for i, m := range d.Spec.VolumeLifecycleModes {
			names[i] = string(m)
		}
		modes = strings.Join(names, ",")
	}
	tokens := unset
	if d.Spec.TokenRequests != nil {
		audiences := make([]string, len(d.Spec.TokenRequests))
		for i, t := range d.Spec.TokenRequests {
			audiences[i] = t.Audience
		}
		tokens = strings.Join(audiences, ",")
	}
	return []any{
		d.Name, ptr.Deref(d.Spec.AttachRequired, true), ptr.Deref(d.Spec.PodInfoOnMount, false), ptr.Deref(d.Spec.StorageCapacity, false),
		tokens, ptr.Deref(d.Spec.RequiresRepublish, false), modes, registry.Age(d.CreationTimestamp),
	}
}

func driverWarnings(d, old *storagev1.CSIDriver) []string {
	if len(d.Spec.TokenRequests) == 0 || d.Spec.ServiceAccountTokenInSecrets != nil {
		return nil
	}
	if old != nil && apiequality.Semantic.DeepEqual(d.Spec.TokenRequests, old.Spec.TokenRequests) {
		return nil
	}
	return []string{"spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"}
}

func validateDriver(s *storagev1.CSIDriverSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, flag := range []struct {
		name  string
		value *bool
	}{{"attachedRequired", s.AttachRequired}, {"podInfoOnMount", s.PodInfoOnMount}, {"storageCapacity", s.StorageCapacity}, {"seLinuxMount", s.SELinuxMount}} {
		if flag.value == nil {
			errs = append(errs, field.Required(path.Child(flag.name), ""))
		}
	}
	policies := []storagev1.FSGroupPolicy{storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy}
	if p := s.FSGroupPolicy; p != nil && !slices.Contains(policies, *p) {
		errs = append(errs, field.NotSupported(path.Child("fsGroupPolicy"), p, policies))
	}
	errs = append(errs, validateTokenRequests(s.TokenRequests, path.Child("tokenRequests"))...)
	modes := []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral}
	for _, m := range s.VolumeLifecycleModes {
		if !slices.Contains(modes, m) {
			errs = append(errs, field.NotSupported(path.Child("volumeLifecycleModes"), m, modes))
		}
	}
	if p := s.NodeAllocatableUpdatePeriodSeconds; p != nil && *p < 10 {
		errs = append(errs, field.Invalid(path.Child("nodeAllocatableUpdatePeriodSeconds"), *p, "must be greater than or equal to 10 seconds"))
	}
	if b := s.ServiceAccountTokenInSecrets; b != nil && len(s.TokenRequests) == 0 {
		errs = append(errs, field.Invalid(path.Child("serviceAccountTokenInSecrets"), b, "serviceAccountTokenInSecrets is set but no tokenRequests are specified"))
	}
	return errs
}

// validateTokenRequests wants one token an audience, which holds for ten minutes at least.
func validateTokenRequests(requests []storagev1.TokenRequest, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	audiences := sets.New[string]()
	for i, r := range requests {
		at := path.Index(i)
		if audiences.Has(r.Audience) {
			errs = append(errs, field.Duplicate(at.Child("audience"), r.Audience))
			continue
		}
		audiences.Insert(r.Audience)
		switch seconds := r.ExpirationSeconds; {
		case seconds == nil:
		case *seconds < 600:
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *seconds, "may not specify a duration less than 10 minutes"))
		case *seconds > 1<<32:
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *seconds, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	return errs
}

// CSINode is the row of csinodes.
func CSINode() registry.Resource {
	return registry.Resource{
		GVK: storagev1.SchemeGroupVersion.WithKind("CSINode"), Name: "csinodes", Singular: "csinode",
		Strategy: registry.Strategy{
			Validate: registry.Validate(validateCSINode),
			ValidateUpdate: registry.ValidateUpdate(func(n, old *storagev1.CSINode) field.ErrorList {
				errs := validateCSINode(n)
				for _, was := range old.Spec.Drivers {
					for _, is := range n.Spec.Drivers {
						if is.Name == was.Name { // all but what the driver says it can hold stays
							was.Allocatable, is.Allocatable = nil, nil
							errs = append(errs, registry.Immutable(is, was, field.NewPath("spec", "drivers"))...)
						}
					}
				}
				return errs
			}),
		},
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(), registry.Number("Drivers", "How many CSI drivers the node has"), registry.AgeColumn(),
			},
			Cells: registry.Cells(func(n *storagev1.CSINode) []any {
				return []any{n.Name, int64(len(n.Spec.Drivers)), registry.Age(n.CreationTimestamp)}
			}),
		},
	}
}

func validateCSINode(n *storagev1.CSINode) field.ErrorList {
	errs := registry.ValidateMeta(n, false, apivalidation.NameIsDNSSubdomain)
	names := sets.New[string]()
	for i, d := range n.Spec.Drivers {
		path := field.NewPath("spec", "drivers").Index(i)
		errs = append(errs, validateDriverName(d.Name, path.Child("name"))...)
		if d.NodeID == "" {
			errs = append(errs, field.Required(path.Child("nodeID"), d.NodeID))
		}
		if limit := 256; len(d.NodeID) > limit {
			errs = append(errs, field.Invalid(path.Child("nodeID"), d.NodeID, fmt.Sprintf("must be %d characters or less", limit)))
		}
		if a := d.Allocatable; a != nil && a.Count != nil {
			errs = append(errs, apivalidation.ValidateNonnegativeField(int64(*a.Count), path.Child("allocatable", "count"))...)
		}
		if names.Has(d.Name) {
			errs = append(errs, field.Duplicate(path.Child("name"), d.Name))
		}
		names.Insert(d.Name)
		keys := sets.New[string]()
		for _, key := range d.TopologyKeys {
			if key == "" {
				errs = append(errs, field.Required(path, key))
			}
			if keys.Has(key) {
				errs = append(errs, field.Duplicate(path, key))
			}
			keys.Insert(key)
			errs = append(errs, registry.Invalid(path, key, validation.IsQualifiedName(key))...)
		}
	}
	return errs
}

// CSIStorageCapacity is the row of csistoragecapacities.
func CSIStorageCapacity() registry.Resource {
	return registry.Resource{
		GVK: storagev1.SchemeGroupVersion.WithKind("CSIStorageCapacity"), Name: "csistoragecapacities", Singular: "csistoragecapacity", Namespaced: true,
		Strategy: registry.Strategy{
			Validate: registry.Validate(func(c *storagev1.CSIStorageCapacity) field.ErrorList {
				return validateCapacity(c, metav1validation.LabelSelectorValidationOptions{})
			}),
			ValidateUpdate: registry.ValidateUpdate(func(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
				had := metav1validation.ValidateLabelSelector(old.NodeTopology, metav1validation.LabelSelectorValidationOptions{}, nil)
				errs := validateCapacity(c, metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: len(had) > 0})
				errs = append(errs, registry.ValidateMetaUpdate(c, old)...)
				if !apiequality.Semantic.DeepEqual(c.NodeTopology, old.NodeTopology) {
					errs = append(errs, field.Invalid(field.NewPath("nodeTopology"), c.NodeTopology, apivalidation.FieldImmutableErrorMsg))
				}
				return append(errs, registry.Immutable(c.StorageClassName, old.StorageClassName, field.NewPath("storageClassName"))...)
			}),
			Warnings: registry.Warn(func(c, _ *storagev1.CSIStorageCapacity) []string {
				return core.NodeSelectorWarnings(c.NodeTopology, field.NewPath("nodeTopology"))
			}),
		},
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(), registry.Column("StorageClassName", "The class it is about"), registry.Column("Capacity", "How much is left"),
			},
			Cells: registry.Cells(func(c *storagev1.CSIStorageCapacity) []any {
				capacity := unset
				if c.Capacity != nil {
					capacity = c.Capacity.String()
				}
				return []any{c.Name, c.StorageClassName, capacity}
			}),
		},
	}
}

func validateCapacity(c *storagev1.CSIStorageCapacity, opts metav1validation.LabelSelectorValidationOptions) field.ErrorList {
	errs := registry.ValidateMeta(c, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, metav1validation.ValidateLabelSelector(c.NodeTopology, opts, field.NewPath("nodeTopology"))...)
	errs = append(errs, registry.Invalid(field.NewPath("storageClassName"), c.StorageClassName, apivalidation.NameIsDNSSubdomain(c.StorageClassName, false))...)
	if c.Capacity != nil && c.Capacity.Sign() < 0 {
		errs = append(errs, field.Invalid(field.NewPath("capacity"), c.Capacity.String(), apivalidation.IsNegativeErrorMsg))
	}
	return errs
}
