package resource

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/registry/core"
)

// ResourceSlice is the row of resourceslices.
func ResourceSlice() registry.Resource {
	type slice = resourcev1.ResourceSlice
	return registry.Resource{
		GVK: resourcev1.SchemeGroupVersion.WithKind("ResourceSlice"), Name: "resourceslices", Singular: "resourceslice",
		Default: registry.Defaulter(func(s *slice) {
			for i := range s.Spec.Devices {
				for j := range s.Spec.Devices[i].Taints {
					if t := &s.Spec.Devices[i].Taints[j]; t.TimeAdded == nil {
						t.TimeAdded = &metav1.Time{Time: time.Now().Truncate(time.Second)}
					}
				}
			}
		}),
		Strategy: registry.Counted(registry.Strategy{
			Validate: registry.Validate(func(s *slice) field.ErrorList {
				return append(registry.ValidateMeta(s, false, apivalidation.NameIsDNSSubdomain), validateSlice(&s.Spec, nil, field.NewPath("spec"))...)
			}),
			ValidateUpdate: registry.ValidateUpdate(func(s, old *slice) field.ErrorList {
				path := field.NewPath("spec")
				errs := append(registry.ValidateMetaUpdate(s, old), validateSlice(&s.Spec, &old.Spec, path)...)
				errs = append(errs, registry.Immutable(s.Spec.Pool.Name, old.Spec.Pool.Name, path.Child("pool", "name"))...)
				errs = append(errs, registry.Immutable(s.Spec.Driver, old.Spec.Driver, path.Child("driver"))...)
				return append(errs, registry.Immutable(s.Spec.NodeName, old.Spec.NodeName, path.Child("nodeName"))...)
			}),
			UnconditionalUpdate: true,
		}, func(s *slice) any { return s.Spec }),
		Fields: registry.Select(func(s *slice) fields.Set {
			return fields.Set{resourcev1.ResourceSliceSelectorNodeName: ptr.Deref(s.Spec.NodeName, ""), resourcev1.ResourceSliceSelectorDriver: s.Spec.Driver}
		}),
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(), registry.Column("Node", "The node that the devices are on"), registry.Column("Driver", "The driver that has them"),
				registry.Column("Pool", "The pool that they are part of"), registry.AgeColumn(),
			},
			Cells: registry.Cells(func(s *slice) []any {
				return []any{s.Name, ptr.Deref(s.Spec.NodeName, ""), s.Spec.Driver, s.Spec.Pool.Name, registry.Age(s.CreationTimestamp)}
			}),
		},
	}
}

// place judges where a slice or a device is and says which of the fields are set.
func place(node *string, nodes *corev1.NodeSelector, all *bool, path *field.Path, emptyNode string) (set []string, errs field.ErrorList) {
	if node != nil {
		if *node == "" {
			errs = append(errs, field.Invalid(path.Child("nodeName"), *node, emptyNode))
		} else {
			set = append(set, "`nodeName`")
			errs = append(errs, registry.Invalid(path.Child("nodeName"), *node, apivalidation.NameIsDNSSubdomain(*node, false))...)
		}
	}
	if nodes != nil {
		set = append(set, "`nodeSelector`")
		errs = append(errs, core.ValidateNodeSelector(nodes, path.Child("nodeSelector"))...)
	}
	return set, append(errs, flag(all, "allNodes", path, &set)...)
}

// flag judges a field that is true or not there.
func flag(value *bool, name string, path *field.Path, set *[]string) field.ErrorList {
	if value == nil {
		return nil
	}
	if !*value {
		return field.ErrorList{field.Invalid(path.Child(name), *value, "must be either unset or set to true")}
	}
	*set = append(*set, "`"+name+"`")
	return nil
}

func exactlyOne(set []string, path *field.Path, required, many string) field.ErrorList {
	switch len(set) {
	case 0:
		return field.ErrorList{field.Required(path, required)}
	case 1:
		return nil
	}
	return field.ErrorList{field.Invalid(path, "{"+strings.Join(set, ", ")+"}", many)}
}

func validateSlice(s, old *resourcev1.ResourceSliceSpec, path *field.Path) field.ErrorList {
	errs := append(driver(s.Driver, path.Child("driver")), pool(s.Pool.Name, path.Child("pool", "name"))...)
	if s.Pool.ResourceSliceCount <= 0 {
		errs = append(errs, field.Invalid(path.Child("pool", "resourceSliceCount"), s.Pool.ResourceSliceCount, "must be greater than zero"))
	}
	if s.Pool.Generation < 0 {
		errs = append(errs, field.Invalid(path.Child("pool", "generation"), s.Pool.Generation, "must be greater than or equal to zero"))
	}
	set, wrong := place(s.NodeName, s.NodeSelector, s.AllNodes, path, "must be either unset or set to a non-empty string")
	errs = append(errs, wrong...)
	if s.NodeSelector != nil && len(s.NodeSelector.NodeSelectorTerms) != 1 {
		errs = append(errs, field.Invalid(path.Child("nodeSelector", "nodeSelectorTerms"), s.NodeSelector.NodeSelectorTerms, "must have exactly one node selector term"))
	}
	errs = append(errs, flag(s.PerDeviceNodeSelection, "perDeviceNodeSelection", path, &set)...)
	const one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	errs = append(errs, exactlyOne(set, path, one, one+", but multiple fields are set")...)
	if s.SharedCounters != nil && s.Devices != nil {
		errs = append(errs, field.Invalid(path, "", "only one of `sharedCounters` or `devices` is allowed"))
	}
	most := resourcev1.ResourceSliceMaxDevices
	if slices.ContainsFunc(s.Devices, func(d resourcev1.Device) bool { return len(d.Taints) > 0 || len(d.ConsumesCounters) > 0 }) {
		most = resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
	}
	errs = append(errs, unique(s.Devices, most, path.Child("devices"), func(d *resourcev1.Device) string { return d.Name }, func(d *resourcev1.Device, at *field.Path) field.ErrorList {
		return validateDevice(d, formerly(old, d.Name), ptr.Deref(s.PerDeviceNodeSelection, false), at)
	})...)
	return append(errs, unique(s.SharedCounters, resourcev1.ResourceSliceMaxCounterSets, path.Child("sharedCounters"), func(c *resourcev1.CounterSet) string { return c.Name },
		func(c *resourcev1.CounterSet, at *field.Path) field.ErrorList {
			return append(counterName(c.Name, at.Child("name")), counters(c.Counters, resourcev1.ResourceSliceMaxCountersPerCounterSet, at.Child("counters"))...)
		})...)
}

// formerly is the device of that name before the update.
func formerly(old *resourcev1.ResourceSliceSpec, name string) *resourcev1.Device {
	if old == nil {
		return nil
	}
	if i := slices.IndexFunc(old.Devices, func(d resourcev1.Device) bool { return d.Name == name }); i >= 0 {
		return &old.Devices[i]
	}
	return nil
}

func counterName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return label(name, path)
}

func counters(c map[string]resourcev1.Counter, most int, path *field.Path) field.ErrorList {
	if len(c) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	if len(c) > most {
		return field.ErrorList{field.TooMany(path, len(c), most)}
	}
	var errs field.ErrorList
	for name := range c {
		errs = append(errs, label(name, path.Key(name))...)
	}
	return errs
}

func validateDevice(d, old *resourcev1.Device, perDevice bool, path *field.Path) field.ErrorList {
	errs := label(d.Name, path.Child("name"))
	if n, most := len(d.Attributes)+len(d.Capacity), resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice; n > most {
		errs = append(errs, field.Invalid(path, n, fmt.Sprintf("the total number of attributes and capacities must not exceed %d", most)))
	}
	for name, a := range d.Attributes {
		at := path.Child("attributes").Key(string(name))
		errs = append(append(errs, qualified(string(name), at)...), attribute(&a, at)...)
	}
	for name, c := range d.Capacity {
		at := path.Child("capacity").Key(string(name))
		errs = append(errs, qualified(string(name), at)...)
		if c.RequestPolicy != nil && !ptr.Deref(d.AllowMultipleAllocations, false) {
			errs = append(errs, field.Forbidden(at.Child("requestPolicy"), "allowMultipleAllocations must be true"))
		}
		if p := c.RequestPolicy; p != nil && len(p.ValidValues) > 0 && p.ValidRange != nil {
			errs = append(errs, field.Forbidden(at.Child("requestPolicy"), `exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`))
		}
	}
	if old == nil || !apiequality.Semantic.DeepEqual(old.Taints, d.Taints) {
		errs = append(errs, each(d.Taints, resourcev1.DeviceTaintsMaxLength, path.Child("taints"), taint)...)
	}
	errs = append(errs, unique(d.ConsumesCounters, resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice, path.Child("consumesCounters"),
		func(c *resourcev1.DeviceCounterConsumption) string { return c.CounterSet },
		func(c *resourcev1.DeviceCounterConsumption, at *field.Path) field.ErrorList {
			return append(counterName(c.CounterSet, at.Child("counterSet")), counters(c.Counters, resourcev1.ResourceSliceMaxCountersPerDeviceCounterConsumption, at.Child("counters"))...)
		})...)
	if perDevice {
		set, wrong := place(d.NodeName, d.NodeSelector, d.AllNodes, path, "must not be empty")
		const one = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
		errs = append(append(errs, wrong...), exactlyOne(set, path, one, one)...)
	} else if d.NodeName != nil || d.NodeSelector != nil || d.AllNodes != nil {
		errs = append(errs, field.Invalid(path, nil, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec"))
	}
	return append(errs, bindingConditions(d.BindingConditions, d.BindingFailureConditions, path)...)
}

// semver is version 2.0.0 of semver.org.
var semver = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$`)

func attribute(a *resourcev1.DeviceAttribute, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	n := 0
	for _, set := range []bool{a.BoolValue != nil, a.IntValue != nil, a.StringValue != nil, a.VersionValue != nil} {
		if set {
			n++
		}
	}
	long := func(value string, at *field.Path) {
		if len(value) > resourcev1.DeviceAttributeMaxValueLength {
			errs = append(errs, field.TooLong(at, "", resourcev1.DeviceAttributeMaxValueLength))
		}
	}
	if a.StringValue != nil {
		long(*a.StringValue, path.Child("string"))
	}
	if v := a.VersionValue; v != nil {
		if !semver.MatchString(*v) {
			errs = append(errs, field.Invalid(path.Child("version"), *v, "must be a string compatible with semver.org spec 2.0.0"))
		}
		long(*v, path.Child("version"))
	}
	if n != 1 {
		errs = append(errs, field.Invalid(path, "", "exactly one value must be specified"))
	}
	return errs
}

func taint(t *resourcev1.DeviceTaint, path *field.Path) field.ErrorList {
	errs := metav1validation.ValidateLabelName(t.Key, path.Child("key"))
	if t.Value != "" {
		errs = append(errs, registry.Invalid(path.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))...)
	}
	if t.Effect == "" {
		return append(errs, field.Required(path.Child("effect"), ""))
	}
	if !slices.Contains(effects, t.Effect) {
		errs = append(errs, field.NotSupported(path.Child("effect"), t.Effect, effects))
	}
	return errs
}
