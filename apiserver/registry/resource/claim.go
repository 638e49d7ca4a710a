package resource

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel/environment"
	dracel "k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/utils/ptr"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/registry/core"
	"github.com/mini-k8s/mini/store"
)

// DeviceClass is the row of deviceclasses.
func DeviceClass() registry.Resource {
	type class = resourcev1.DeviceClass
	validate := func(c *class) field.ErrorList {
		path := field.NewPath("spec")
		errs := registry.ValidateMeta(c, false, apivalidation.NameIsDNSSubdomain)
		errs = append(errs, each(c.Spec.Selectors, resourcev1.DeviceSelectorsMaxSize, path.Child("selectors"), selector)...)
		return append(errs, each(c.Spec.Config, resourcev1.DeviceConfigMaxSize, path.Child("config"), func(c *resourcev1.DeviceClassConfiguration, at *field.Path) field.ErrorList {
			return configuration(&c.DeviceConfiguration, at)
		})...)
	}
	return registry.Resource{
		GVK: resourcev1.SchemeGroupVersion.WithKind("DeviceClass"), Name: "deviceclasses", Singular: "deviceclass",
		Strategy: registry.Counted(registry.Strategy{
			Validate: registry.Validate(validate),
			ValidateUpdate: registry.ValidateUpdate(func(c, old *class) field.ErrorList {
				return append(validate(c), registry.ValidateMetaUpdate(c, old)...)
			}),
			UnconditionalUpdate: true,
		}, func(c *class) any { return c.Spec }),
		Table: named[*class](),
	}
}

// named is the table of kinds of which only the age is shown.
func named[T store.Object]() registry.Table {
	return registry.Table{
		Columns: []metav1.TableColumnDefinition{registry.NameColumn(), registry.AgeColumn()},
		Cells:   registry.Cells(func(o T) []any { return []any{o.GetName(), registry.Age(o.GetCreationTimestamp())} }),
	}
}

// ResourceClaim is the row of resourceclaims.
func ResourceClaim(deps registry.Deps) registry.Resource {
	type claim = resourcev1.ResourceClaim
	status := registry.KeepMeta(registry.StatusView(func(c *claim) *resourcev1.ResourceClaimSpec { return &c.Spec }, validateClaimStatus))
	keep := status.PrepareForUpdate
	status.PrepareForUpdate = func(ctx context.Context, o, old store.Object) {
		keep(ctx, o, old)
		dropDeallocated(o.(*claim), old.(*claim))
	}
	return registry.Resource{
		GVK: resourcev1.SchemeGroupVersion.WithKind("ResourceClaim"), Name: "resourceclaims", Singular: "resourceclaim", Namespaced: true,
		Default: registry.Defaulter(defaultClaim),
		Strategy: registry.OwnStatus(registry.Strategy{
			Validate: func(ctx context.Context, o store.Object) field.ErrorList {
				c := o.(*claim)
				errs := mayAdminister(ctx, deps, c.Spec.Devices.Requests, c.Namespace, field.NewPath("spec", "devices", "requests"))
				errs = append(errs, registry.ValidateMeta(c, true, apivalidation.NameIsDNSSubdomain)...)
				return append(errs, validateDevices(&c.Spec.Devices, field.NewPath("spec", "devices"))...)
			},
			ValidateUpdate: registry.ValidateUpdate(func(c, old *claim) field.ErrorList {
				errs := append(registry.ValidateMeta(c, true, apivalidation.NameIsDNSSubdomain), registry.ValidateMetaUpdate(c, old)...)
				return append(errs, registry.Immutable(c.Spec, old.Spec, field.NewPath("spec"))...)
			}),
			UnconditionalUpdate: true,
		}, func(c *claim) *resourcev1.ResourceClaimStatus { return &c.Status }),
		Status: status,
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(), registry.Column("State", "A summary of the current state (allocated, pending, reserved, etc.)."), registry.AgeColumn(),
			},
			Cells: registry.Cells(func(c *claim) []any { return []any{c.Name, state(c), registry.Age(c.CreationTimestamp)} }),
		},
	}
}

func state(c *resourcev1.ResourceClaim) string {
	var states []string
	if c.DeletionTimestamp != nil {
		states = append(states, "deleted")
	} else if c.Status.Allocation == nil {
		states = append(states, "pending")
	}
	if c.Status.Allocation != nil {
		states = append(states, "allocated")
		if len(c.Status.ReservedFor) > 0 {
			states = append(states, "reserved")
		}
	}
	return strings.Join(states, ",")
}

// ResourceClaimTemplate is the row of resourceclaimtemplates.
func ResourceClaimTemplate(deps registry.Deps) registry.Resource {
	type template = resourcev1.ResourceClaimTemplate
	validate := func(t *template) field.ErrorList {
		path := field.NewPath("spec")
		errs := registry.ValidateMeta(t, true, apivalidation.NameIsDNSSubdomain)
		errs = append(errs, apivalidation.ValidateAnnotations(t.Spec.Annotations, path.Child("metadata", "annotations"))...)
		errs = append(errs, metav1validation.ValidateLabels(t.Spec.Labels, path.Child("metadata", "labels"))...)
		return append(errs, validateDevices(&t.Spec.Spec.Devices, path.Child("spec", "devices"))...)
	}
	return registry.Resource{
		GVK: resourcev1.SchemeGroupVersion.WithKind("ResourceClaimTemplate"), Name: "resourceclaimtemplates", Singular: "resourceclaimtemplate", Namespaced: true,
		Default: registry.Defaulter(func(t *template) { defaultRequests(t.Spec.Spec.Devices.Requests) }),
		Strategy: registry.Strategy{
			Validate: func(ctx context.Context, o store.Object) field.ErrorList {
				t := o.(*template)
				return append(mayAdminister(ctx, deps, t.Spec.Spec.Devices.Requests, t.Namespace, field.NewPath("spec", "spec", "devices", "requests")), validate(t)...)
			},
			ValidateUpdate: registry.ValidateUpdate(func(t, old *template) field.ErrorList {
				errs := append(validate(t), registry.ValidateMetaUpdate(t, old)...)
				return append(errs, registry.Immutable(t.Spec, old.Spec, field.NewPath("spec"))...)
			}),
			UnconditionalUpdate: true,
		},
		Table: named[*template](),
	}
}

// mayAdminister lets only namespaces with the label for it ask for admin access (KEP-5018).
func mayAdminister(ctx context.Context, deps registry.Deps, requests []resourcev1.DeviceRequest, namespace string, path *field.Path) field.ErrorList {
	i := slices.IndexFunc(requests, func(r resourcev1.DeviceRequest) bool {
		return r.Exactly != nil && ptr.Deref(r.Exactly.AdminAccess, false)
	})
	if i < 0 || deps.Collection == nil {
		return nil
	}
	item, err := deps.Collection("namespaces", corev1.SchemeGroupVersion.WithKind("Namespace")).Get(ctx, namespace, "")
	if err != nil {
		return field.ErrorList{field.InternalError(path, fmt.Errorf("could not retrieve namespace to verify admin access: %w", err))}
	}
	if item.Object.GetLabels()[resourcev1.DRAAdminNamespaceLabelKey] == "true" {
		return nil
	}
	return field.ErrorList{field.Forbidden(path.Index(i).Child("adminAccess"), "admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace")}
}

func defaultMode(mode *resourcev1.DeviceAllocationMode, count *int64) {
	if *mode == "" {
		*mode = resourcev1.DeviceAllocationModeExactCount
	}
	if *mode == resourcev1.DeviceAllocationModeExactCount && *count == 0 {
		*count = 1
	}
}

func defaultRequests(requests []resourcev1.DeviceRequest) {
	for i := range requests {
		if r := requests[i].Exactly; r != nil {
			defaultMode(&r.AllocationMode, &r.Count)
			defaultTolerations(r.Tolerations)
		}
		for j := range requests[i].FirstAvailable {
			r := &requests[i].FirstAvailable[j]
			defaultMode(&r.AllocationMode, &r.Count)
			defaultTolerations(r.Tolerations)
		}
	}
}

func defaultTolerations(tolerations []resourcev1.DeviceToleration) {
	for i := range tolerations {
		if t := &tolerations[i]; t.Operator == "" {
			t.Operator = resourcev1.DeviceTolerationOpEqual
		}
	}
}

func defaultClaim(c *resourcev1.ResourceClaim) {
	defaultRequests(c.Spec.Devices.Requests)
	if a := c.Status.Allocation; a != nil {
		for i := range a.Devices.Results {
			defaultTolerations(a.Devices.Results[i].Tolerations)
		}
	}
}

// requestNames are those of a claim's requests, and "request/alternative".
func requestNames(d *resourcev1.DeviceClaim) sets.Set[string] {
	names := sets.New[string]()
	for _, r := range d.Requests {
		names.Insert(r.Name)
		for _, s := range r.FirstAvailable {
			names.Insert(r.Name + "/" + s.Name)
		}
	}
	return names
}

func validateDevices(d *resourcev1.DeviceClaim, path *field.Path) field.ErrorList {
	names := requestNames(d)
	refer := func(requests []string, at *field.Path) field.ErrorList {
		return unique(requests, resourcev1.DeviceRequestsMaxSize, at.Child("requests"), itself, func(r *string, at *field.Path) field.ErrorList { return reference(*r, names, at) })
	}
	errs := unique(d.Requests, resourcev1.DeviceRequestsMaxSize, path.Child("requests"), func(r *resourcev1.DeviceRequest) string { return r.Name }, validateRequest)
	errs = append(errs, each(d.Constraints, resourcev1.DeviceConstraintsMaxSize, path.Child("constraints"), func(c *resourcev1.DeviceConstraint, at *field.Path) field.ErrorList {
		errs := refer(c.Requests, at)
		switch {
		case c.MatchAttribute != nil:
			return append(errs, fullyQualified(string(*c.MatchAttribute), at.Child("matchAttribute"))...)
		case c.DistinctAttribute != nil:
			return append(errs, fullyQualified(string(*c.DistinctAttribute), at.Child("distinctAttribute"))...)
		}
		return append(errs, field.Required(at, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`))
	})...)
	return append(errs, each(d.Config, resourcev1.DeviceConfigMaxSize, path.Child("config"), func(c *resourcev1.DeviceClaimConfiguration, at *field.Path) field.ErrorList {
		return append(refer(c.Requests, at), configuration(&c.DeviceConfiguration, at)...)
	})...)
}

func reference(name string, names sets.Set[string], path *field.Path) field.ErrorList {
	const wrong = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
	if strings.Count(name, "/") > 1 {
		return field.ErrorList{field.Invalid(path, name, wrong)}
	}
	var errs field.ErrorList
	for part := range strings.SplitSeq(name, "/") {
		errs = append(errs, label(part, path)...)
	}
	if !names.Has(name) {
		errs = append(errs, field.Invalid(path, name, wrong))
	}
	return errs
}

func validateRequest(r *resourcev1.DeviceRequest, path *field.Path) field.ErrorList {
	errs := label(r.Name, path.Child("name"))
	const one = "exactly one of `exactly` or `firstAvailable` is required"
	switch {
	case r.Exactly == nil && len(r.FirstAvailable) == 0:
		return append(errs, field.Required(path, one))
	case r.Exactly != nil && len(r.FirstAvailable) > 0:
		return append(errs, field.Invalid(path, nil, one+", but multiple fields are set"))
	case r.Exactly != nil:
		e := r.Exactly
		return append(errs, wanted(e.DeviceClassName, e.Selectors, e.AllocationMode, e.Count, e.Tolerations, path.Child("exactly"))...)
	}
	return append(errs, unique(r.FirstAvailable, resourcev1.FirstAvailableDeviceRequestMaxSize, path.Child("firstAvailable"),
		func(s *resourcev1.DeviceSubRequest) string { return s.Name },
		func(s *resourcev1.DeviceSubRequest, at *field.Path) field.ErrorList {
			return append(label(s.Name, at.Child("name")), wanted(s.DeviceClassName, s.Selectors, s.AllocationMode, s.Count, s.Tolerations, at)...)
		})...)
}

func wanted(class string, selectors []resourcev1.DeviceSelector, mode resourcev1.DeviceAllocationMode, count int64, tolerations []resourcev1.DeviceToleration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if class == "" {
		errs = append(errs, field.Required(path.Child("deviceClassName"), ""))
	} else {
		errs = append(errs, registry.Invalid(path.Child("deviceClassName"), class, validation.IsDNS1123Subdomain(class))...)
	}
	errs = append(errs, each(selectors, resourcev1.DeviceSelectorsMaxSize, path.Child("selectors"), selector)...)
	switch {
	case mode == resourcev1.DeviceAllocationModeAll && count != 0:
		errs = append(errs, field.Invalid(path.Child("count"), count, fmt.Sprintf("must not be specified when allocationMode is '%s'", mode)))
	case mode == resourcev1.DeviceAllocationModeAll:
	case mode == resourcev1.DeviceAllocationModeExactCount && count <= 0:
		errs = append(errs, field.Invalid(path.Child("count"), count, "must be greater than zero"))
	case mode != resourcev1.DeviceAllocationModeExactCount:
		errs = append(errs, field.NotSupported(path.Child("allocationMode"), mode,
			[]resourcev1.DeviceAllocationMode{resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount}))
	}
	return append(errs, each(tolerations, resourcev1.DeviceTolerationsMaxLength, path.Child("tolerations"), toleration)...)
}

func selector(s *resourcev1.DeviceSelector, path *field.Path) field.ErrorList {
	if s.CEL == nil {
		return field.ErrorList{field.Required(path.Child("cel"), "")}
	}
	at := path.Child("cel", "expression")
	if len(s.CEL.Expression) > resourcev1.CELSelectorExpressionMaxLength {
		return field.ErrorList{field.TooLong(at, "", resourcev1.CELSelectorExpressionMaxLength)}
	}
	mode := environment.NewExpressions
	result := dracel.GetCompiler(dracel.Features{EnableConsumableCapacity: true}).CompileCELExpression(s.CEL.Expression, dracel.Options{EnvType: &mode})
	switch {
	case result.Error != nil:
		return field.ErrorList{field.Invalid(at, s.CEL.Expression, result.Error.Detail)}
	case result.MaxCost > resourcev1.CELSelectorExpressionMaxCost:
		return field.ErrorList{field.Forbidden(at, "too complex, exceeds cost limit")}
	}
	return nil
}

func configuration(c *resourcev1.DeviceConfiguration, path *field.Path) field.ErrorList {
	if c.Opaque == nil {
		return field.ErrorList{field.Required(path.Child("opaque"), "")}
	}
	path = path.Child("opaque")
	return append(driver(c.Opaque.Driver, path.Child("driver")), object(c.Opaque.Parameters, resourcev1.OpaqueParametersMaxLength, path.Child("parameters"))...)
}

var effects = []resourcev1.DeviceTaintEffect{resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone}

func toleration(t *resourcev1.DeviceToleration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.Key != "" {
		errs = append(errs, metav1validation.ValidateLabelName(t.Key, path.Child("key"))...)
	}
	switch t.Operator {
	case resourcev1.DeviceTolerationOpExists:
		if t.Value != "" {
			errs = append(errs, field.Invalid(path.Child("value"), t.Value, "must be empty for operator `Exists`"))
		}
	case resourcev1.DeviceTolerationOpEqual:
		errs = append(errs, registry.Invalid(path.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))...)
	case "":
		errs = append(errs, field.Required(path.Child("operator"), ""))
	default:
		errs = append(errs, field.NotSupported(path.Child("operator"), t.Operator,
			[]resourcev1.DeviceTolerationOperator{resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists}))
	}
	if t.Effect != "" && !slices.Contains(effects, t.Effect) {
		errs = append(errs, field.NotSupported(path.Child("effect"), t.Effect, effects))
	}
	return errs
}

// device names an allocated device.
type device struct{ driver, pool, name, share string }

func allocated(a *resourcev1.AllocationResult) sets.Set[device] {
	devices := sets.New[device]()
	if a != nil {
		for _, r := range a.Devices.Results {
			devices.Insert(device{r.Driver, r.Pool, r.Device, string(ptr.Deref(r.ShareID, ""))})
		}
	}
	return devices
}

func deviceOf(d *resourcev1.AllocatedDeviceStatus) device {
	return device{d.Driver, d.Pool, d.Device, ptr.Deref(d.ShareID, "")}
}

// dropDeallocated takes away the status of devices that the update gives back.
func dropDeallocated(c, old *resourcev1.ResourceClaim) {
	gone := allocated(old.Status.Allocation).Difference(allocated(c.Status.Allocation))
	c.Status.Devices = slices.DeleteFunc(c.Status.Devices, func(d resourcev1.AllocatedDeviceStatus) bool { return gone.Has(deviceOf(&d)) })
	if len(c.Status.Devices) == 0 {
		c.Status.Devices = nil
	}
}

func validateClaimStatus(c, old *resourcev1.ResourceClaim) field.ErrorList {
	path, status := field.NewPath("status"), &c.Status
	errs := registry.ValidateMetaUpdate(c, old)
	errs = append(errs, unique(status.ReservedFor, resourcev1.ResourceClaimReservedForMaxSize, path.Child("reservedFor"),
		func(r *resourcev1.ResourceClaimConsumerReference) string { return string(r.UID) }, validateConsumer)...)
	devices := allocated(status.Allocation)
	errs = append(errs, unique(status.Devices, len(status.Devices), path.Child("devices"), deviceOf, func(d *resourcev1.AllocatedDeviceStatus, at *field.Path) field.ErrorList {
		return validateDeviceStatus(d, devices, at)
	})...)
	if len(status.ReservedFor) > 0 {
		if status.Allocation == nil {
			errs = append(errs, field.Forbidden(path.Child("reservedFor"), "may not be specified when `allocated` is not set"))
		} else if c.DeletionTimestamp != nil && !sets.New(old.Status.ReservedFor...).HasAll(status.ReservedFor...) {
			errs = append(errs, field.Forbidden(path.Child("reservedFor"), "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"))
		}
	}
	switch {
	case status.Allocation == nil:
	case old.Status.Allocation != nil:
		errs = append(errs, registry.Immutable(status.Allocation, old.Status.Allocation, path.Child("allocation"))...)
	default:
		errs = append(errs, validateAllocation(status.Allocation, requestNames(&c.Spec.Devices), path.Child("allocation"))...)
	}
	return errs
}

func validateConsumer(r *resourcev1.ResourceClaimConsumerReference, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, f := range [][2]string{{"resource", r.Resource}, {"name", r.Name}, {"uid", string(r.UID)}} {
		if f[1] == "" {
			errs = append(errs, field.Required(path.Child(f[0]), ""))
		}
	}
	return errs
}

func validateDeviceStatus(d *resourcev1.AllocatedDeviceStatus, devices sets.Set[device], path *field.Path) field.ErrorList {
	errs := driver(d.Driver, path.Child("driver"))
	errs = append(errs, pool(d.Pool, path.Child("pool"))...)
	errs = append(errs, label(d.Device, path.Child("device"))...)
	if id := deviceOf(d); !devices.Has(id) {
		errs = append(errs, field.Invalid(path, id.driver+"/"+id.pool+"/"+id.name, "must be an allocated device in the claim"))
	}
	if n, most := len(d.Conditions), resourcev1.AllocatedDeviceStatusMaxConditions; n > most {
		errs = append(errs, field.TooMany(path.Child("conditions"), n, most))
	}
	errs = append(errs, metav1validation.ValidateConditions(d.Conditions, path.Child("conditions"))...)
	if d.Data != nil && len(d.Data.Raw) > 0 {
		errs = append(errs, object(*d.Data, resourcev1.AllocatedDeviceStatusDataMaxLength, path.Child("data"))...)
	}
	n := d.NetworkData
	if n == nil {
		return errs
	}
	path = path.Child("networkData")
	if most := resourcev1.NetworkDeviceDataInterfaceNameMaxLength; len(n.InterfaceName) > most {
		errs = append(errs, field.TooLong(path.Child("interfaceName"), "", most))
	}
	if most := resourcev1.NetworkDeviceDataHardwareAddressMaxLength; len(n.HardwareAddress) > most {
		errs = append(errs, field.TooLong(path.Child("hardwareAddress"), "", most))
	}
	return append(errs, unique(n.IPs, resourcev1.NetworkDeviceDataMaxIPs, path.Child("ips"), itself, func(ip *string, at *field.Path) field.ErrorList {
		return validation.IsValidInterfaceAddress(at, *ip)
	})...)
}

func validateAllocation(a *resourcev1.AllocationResult, names sets.Set[string], path *field.Path) field.ErrorList {
	at := path.Child("devices")
	errs := each(a.Devices.Results, resourcev1.AllocationResultsMaxSize, at.Child("results"), func(r *resourcev1.DeviceRequestAllocationResult, at *field.Path) field.ErrorList {
		errs := reference(r.Request, names, at.Child("request"))
		errs = append(errs, driver(r.Driver, at.Child("driver"))...)
		errs = append(errs, pool(r.Pool, at.Child("pool"))...)
		errs = append(errs, label(r.Device, at.Child("device"))...)
		return append(errs, bindingConditions(r.BindingConditions, r.BindingFailureConditions, at)...)
	})
	errs = append(errs, each(a.Devices.Config, 2*resourcev1.DeviceConfigMaxSize, at.Child("config"), func(c *resourcev1.DeviceAllocationConfiguration, at *field.Path) field.ErrorList {
		var errs field.ErrorList
		switch c.Source {
		case "":
			errs = append(errs, field.Required(at.Child("source"), ""))
		case resourcev1.AllocationConfigSourceClaim, resourcev1.AllocationConfigSourceClass:
		default:
			errs = append(errs, field.NotSupported(at.Child("source"), c.Source,
				[]resourcev1.AllocationConfigSource{resourcev1.AllocationConfigSourceClaim, resourcev1.AllocationConfigSourceClass}))
		}
		for i, r := range c.Requests {
			errs = append(errs, reference(r, names, at.Child("requests").Index(i))...)
		}
		return append(errs, configuration(&c.DeviceConfiguration, at)...)
	})...)
	if a.NodeSelector != nil {
		errs = append(errs, core.ValidateNodeSelector(a.NodeSelector, path.Child("nodeSelector"))...)
	}
	return errs
}

func bindingConditions(binding, failure []string, path *field.Path) field.ErrorList {
	name := func(s *string, at *field.Path) field.ErrorList { return metav1validation.ValidateLabelName(*s, at) }
	errs := unique(binding, resourcev1.BindingConditionsMaxSize, path.Child("bindingConditions"), itself, name)
	errs = append(errs, unique(failure, resourcev1.BindingFailureConditionsMaxSize, path.Child("bindingFailureConditions"), itself, name)...)
	for i, c := range failure {
		if slices.Contains(binding, c) {
			errs = append(errs, field.Invalid(path.Child("bindingFailureConditions").Index(i), c, "bindingFailureConditions must not overlap with bindingConditions"))
		}
	}
	if len(binding) == 0 && len(failure) > 0 {
		errs = append(errs, field.Invalid(path.Child("bindingConditions"), binding, "bindingConditions are required to use bindingFailureConditions"))
	}
	if len(failure) == 0 && len(binding) > 0 {
		errs = append(errs, field.Invalid(path.Child("bindingFailureConditions"), failure, "bindingFailureConditions are required to use bindingConditions"))
	}
	return errs
}
