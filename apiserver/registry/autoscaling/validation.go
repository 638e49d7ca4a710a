package autoscaling

import (
	"fmt"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	maxPeriodSeconds = 1800
	maxWindowSeconds = 3600
)

// metricTypes and the fields of MetricSpec that belong to them, in alphabetical order as messages list them.
var metricTypes = []autoscalingv2.MetricSourceType{
	autoscalingv2.ContainerResourceMetricSourceType, autoscalingv2.ExternalMetricSourceType, autoscalingv2.ObjectMetricSourceType,
	autoscalingv2.PodsMetricSourceType, autoscalingv2.ResourceMetricSourceType,
}

func validate(o *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&o.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	// The only scalable kind of the core group is found without naming it.
	coreGroup := o.Spec.ScaleTargetRef.Kind == "ReplicationController"
	errs = append(errs, validateVersion(o.Spec.ScaleTargetRef.APIVersion, coreGroup, field.NewPath("spec", "scaleTargetRef"))...)
	return append(errs, validateSpec(&o.Spec, 1, field.NewPath("spec"))...)
}

func validateUpdate(o, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&o.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	if apiequality.Semantic.DeepEqual(o.Spec, old.Spec) {
		return errs // what another server accepted must not keep labels and finalizers from changing
	}
	if is, was := o.Spec.ScaleTargetRef, old.Spec.ScaleTargetRef; is.APIVersion != was.APIVersion || is.Kind != was.Kind {
		errs = append(errs, validateVersion(is.APIVersion, is.Kind == "ReplicationController", field.NewPath("spec", "scaleTargetRef"))...)
	}
	least := int32(1)
	if n := old.Spec.MinReplicas; n != nil && *n == 0 {
		least = 0
	}
	return append(errs, validateSpec(&o.Spec, least, field.NewPath("spec"))...)
}

func validateStatusUpdate(o, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&o.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	errs = append(errs, apivalidation.ValidateNonnegativeField(int64(o.Status.CurrentReplicas), field.NewPath("status", "currentReplicas"))...)
	return append(errs, apivalidation.ValidateNonnegativeField(int64(o.Status.DesiredReplicas), field.NewPath("status", "desiredReplicas"))...)
}

func validateSpec(spec *autoscalingv2.HorizontalPodAutoscalerSpec, least int32, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n := spec.MinReplicas; n != nil && *n < least {
		errs = append(errs, field.Invalid(at.Child("minReplicas"), *n, fmt.Sprintf("must be greater than or equal to %d", least)))
	}
	switch n := spec.MaxReplicas; {
	case n == 0:
		errs = append(errs, field.Required(at.Child("maxReplicas"), "must be set and greater than 0"))
	case n < 0:
		errs = append(errs, field.Invalid(at.Child("maxReplicas"), n, "must be greater than or equal to 1"))
	}
	if n := spec.MinReplicas; n != nil && spec.MaxReplicas < *n {
		errs = append(errs, field.Invalid(at.Child("maxReplicas"), spec.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	errs = append(errs, validateReference(spec.ScaleTargetRef, at.Child("scaleTargetRef"))...)
	outside := false
	for i := range spec.Metrics {
		m := &spec.Metrics[i]
		errs = append(errs, validateMetric(m, at.Child("metrics").Index(i))...)
		outside = outside || m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType
	}
	if n := spec.MinReplicas; n != nil && *n == 0 && !outside {
		errs = append(errs, field.Forbidden(at.Child("metrics"), "must specify at least one Object or External metric to support scaling to zero replicas"))
	}
	if b := spec.Behavior; b != nil {
		errs = append(errs, validateRules(b.ScaleUp, at.Child("behavior", "scaleUp"))...)
		errs = append(errs, validateRules(b.ScaleDown, at.Child("behavior", "scaleDown"))...)
	}
	return errs
}

func validateReference(ref autoscalingv2.CrossVersionObjectReference, at *field.Path) field.ErrorList {
	return append(validateSegment(ref.Kind, at.Child("kind"), ""), validateSegment(ref.Name, at.Child("name"), "")...)
}

// validateSegment requires something that can be part of a URL's path.
func validateSegment(s string, at *field.Path, ifNone string) field.ErrorList {
	if s == "" {
		return field.ErrorList{field.Required(at, ifNone)}
	}
	var errs field.ErrorList
	for _, msg := range path.IsValidPathSegmentName(s) {
		errs = append(errs, field.Invalid(at, s, msg))
	}
	return errs
}

func validateVersion(version string, coreGroup bool, at *field.Path) field.ErrorList {
	gv, err := schema.ParseGroupVersion(version)
	if err != nil {
		return field.ErrorList{field.Invalid(at.Child("apiVersion"), version, err.Error())}
	}
	if gv.Group == "" && !coreGroup {
		return field.ErrorList{field.Invalid(at.Child("apiVersion"), version, "apiVersion must specify API group")}
	}
	return nil
}

func validateRules(r *autoscalingv2.HPAScalingRules, at *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	var errs field.ErrorList
	if s := r.StabilizationWindowSeconds; s != nil {
		if *s < 0 {
			errs = append(errs, field.Invalid(at.Child("stabilizationWindowSeconds"), *s, "must be greater than or equal to zero"))
		}
		if *s > maxWindowSeconds {
			errs = append(errs, field.Invalid(at.Child("stabilizationWindowSeconds"), *s, fmt.Sprintf("must be less than or equal to %v", maxWindowSeconds)))
		}
	}
	selects := []autoscalingv2.ScalingPolicySelect{autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect}
	if p := r.SelectPolicy; p != nil && !slices.Contains(selects, *p) {
		errs = append(errs, field.NotSupported(at.Child("selectPolicy"), *p, selects))
	}
	if len(r.Policies) == 0 {
		errs = append(errs, field.Required(at.Child("policies"), "must specify at least one Policy"))
	}
	for i, p := range r.Policies {
		policy := at.Child("policies").Index(i)
		if p.Type != autoscalingv2.PodsScalingPolicy && p.Type != autoscalingv2.PercentScalingPolicy {
			errs = append(errs, field.NotSupported(policy.Child("type"), p.Type,
				[]autoscalingv2.HPAScalingPolicyType{autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy}))
		}
		if p.Value <= 0 {
			errs = append(errs, field.Invalid(policy.Child("value"), p.Value, "must be greater than zero"))
		}
		if p.PeriodSeconds <= 0 {
			errs = append(errs, field.Invalid(policy.Child("periodSeconds"), p.PeriodSeconds, "must be greater than zero"))
		}
		if p.PeriodSeconds > maxPeriodSeconds {
			errs = append(errs, field.Invalid(policy.Child("periodSeconds"), p.PeriodSeconds, fmt.Sprintf("must be less than or equal to %v", maxPeriodSeconds)))
		}
	}
	if q := r.Tolerance; q != nil && q.Sign() < 0 {
		errs = append(errs, field.Invalid(at.Child("tolerance"), q.String(), apivalidation.IsNegativeErrorMsg))
	}
	return errs
}

// source is the part of a metric that its type names.
type source struct {
	kind   autoscalingv2.MetricSourceType
	name   string
	set    bool
	metric *autoscalingv2.MetricIdentifier // nil for resources
	target *autoscalingv2.MetricTarget
}

func sources(m *autoscalingv2.MetricSpec) []source {
	out := []source{
		{kind: autoscalingv2.ObjectMetricSourceType, name: "object", set: m.Object != nil},
		{kind: autoscalingv2.ExternalMetricSourceType, name: "external", set: m.External != nil},
		{kind: autoscalingv2.PodsMetricSourceType, name: "pods", set: m.Pods != nil},
		{kind: autoscalingv2.ResourceMetricSourceType, name: "resource", set: m.Resource != nil},
		{kind: autoscalingv2.ContainerResourceMetricSourceType, name: "containerResource", set: m.ContainerResource != nil},
	}
	if s := m.Object; s != nil {
		out[0].metric, out[0].target = &s.Metric, &s.Target
	}
	if s := m.External; s != nil {
		out[1].metric, out[1].target = &s.Metric, &s.Target
	}
	if s := m.Pods; s != nil {
		out[2].metric, out[2].target = &s.Metric, &s.Target
	}
	if s := m.Resource; s != nil {
		out[3].target = &s.Target
	}
	if s := m.ContainerResource; s != nil {
		out[4].target = &s.Target
	}
	return out
}

func validateMetric(m *autoscalingv2.MetricSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if m.Type == "" {
		errs = append(errs, field.Required(at.Child("type"), "must specify a metric source type"))
	}
	if !slices.Contains(metricTypes, m.Type) {
		errs = append(errs, field.NotSupported(at.Child("type"), m.Type, metricTypes))
	}
	first := true
	for _, s := range sources(m) {
		expected := s.kind == m.Type
		switch {
		case expected && !s.set:
			errs = append(errs, field.Required(at.Child(s.name), "must populate information for the given metric source"))
		case s.set && !expected:
			errs = append(errs, field.Forbidden(at.Child(s.name), "must populate the given metric source only"))
		}
		if s.set && first {
			first = false
			errs = append(errs, validateSource(m, s, at.Child(s.name))...)
		}
	}
	return errs
}

func validateSource(m *autoscalingv2.MetricSpec, s source, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.metric != nil {
		errs = append(errs, validateSegment(s.metric.Name, at.Child("metric", "name"), "must specify a metric name")...)
	}
	target := at.Child("target")
	errs = append(errs, validateTarget(s.target, target)...)
	valued, averaged, utilized := s.target.Value != nil, s.target.AverageValue != nil, s.target.AverageUtilization != nil
	name := ""
	switch s.kind {
	case autoscalingv2.ObjectMetricSourceType:
		errs = append(errs, validateReference(m.Object.DescribedObject, at.Child("describedObject"))...)
		errs = append(errs, validateVersion(m.Object.DescribedObject.APIVersion, true, at.Child("describedObject"))...)
		if !valued && !averaged {
			errs = append(errs, field.Required(target.Child("averageValue"), "must set either a target value or averageValue"))
		}
		return errs
	case autoscalingv2.ExternalMetricSourceType:
		if !valued && !averaged {
			errs = append(errs, field.Required(target.Child("averageValue"), "must set either a target value for metric or a per-pod target"))
		}
		if valued && averaged {
			errs = append(errs, field.Forbidden(target.Child("value"), "may not set both a target value for metric and a per-pod target"))
		}
		return errs
	case autoscalingv2.PodsMetricSourceType:
		if !averaged {
			errs = append(errs, field.Required(target.Child("averageValue"), "must specify a positive target averageValue"))
		}
		return errs
	case autoscalingv2.ResourceMetricSourceType:
		name = string(m.Resource.Name)
	case autoscalingv2.ContainerResourceMetricSourceType:
		name = string(m.ContainerResource.Name)
		if c := m.ContainerResource.Container; c == "" {
			errs = append(errs, field.Required(at.Child("container"), "must specify a container"))
		} else {
			for _, msg := range validation.IsDNS1123Label(c) {
				errs = append(errs, field.Invalid(at.Child("container"), c, msg))
			}
		}
	}
	if name == "" {
		errs = append(errs, field.Required(at.Child("name"), "must specify a resource name"))
	}
	if !utilized && !averaged {
		errs = append(errs, field.Required(target.Child("averageUtilization"), "must set either a target raw value or a target utilization"))
	}
	if utilized && averaged {
		errs = append(errs, field.Forbidden(target.Child("averageValue"), "may not set both a target raw value and a target utilization"))
	}
	return errs
}

func validateTarget(t *autoscalingv2.MetricTarget, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.Type == "" {
		errs = append(errs, field.Required(at.Child("type"), "must specify a metric target type"))
	}
	if t.Type != autoscalingv2.UtilizationMetricType && t.Type != autoscalingv2.ValueMetricType && t.Type != autoscalingv2.AverageValueMetricType {
		errs = append(errs, field.Invalid(at.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue"))
	}
	if q := t.Value; q != nil && q.Sign() != 1 {
		errs = append(errs, field.Invalid(at.Child("value"), q.String(), "must be positive"))
	}
	if q := t.AverageValue; q != nil && q.Sign() != 1 {
		errs = append(errs, field.Invalid(at.Child("averageValue"), q.String(), "must be positive"))
	}
	if n := t.AverageUtilization; n != nil && *n < 1 {
		errs = append(errs, field.Invalid(at.Child("averageUtilization"), *n, "must be greater than 0"))
	}
	return errs
}
