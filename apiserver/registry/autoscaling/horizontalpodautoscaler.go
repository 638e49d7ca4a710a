package autoscaling

import (
	"fmt"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

const (
	plural         = "horizontalpodautoscalers"
	defaultPercent = 80 // of the requested CPU, where no metric is given
)

// HorizontalPodAutoscalers are the rows of horizontalpodautoscalers, the preferred version first.
func HorizontalPodAutoscalers() []registry.Resource {
	v2 := row(autoscalingv2.SchemeGroupVersion, func(o *autoscalingv2.HorizontalPodAutoscaler) *autoscalingv2.HorizontalPodAutoscaler { return o })
	v2.Default = registry.Defaulter(defaultV2)
	v2.Strategy.PrepareForCreate = registry.Prepare(func(o *autoscalingv2.HorizontalPodAutoscaler) {
		o.Status = autoscalingv2.HorizontalPodAutoscalerStatus{}
	})
	v2.Strategy.PrepareForUpdate = registry.PrepareUpdate(func(o, old *autoscalingv2.HorizontalPodAutoscaler) { o.Status = old.Status })
	v2.Status.PrepareForUpdate = registry.PrepareUpdate(func(o, old *autoscalingv2.HorizontalPodAutoscaler) { o.Spec = old.Spec })

	v1 := row(autoscalingv1.SchemeGroupVersion, fromV1)
	v1.Stored = v2.GVK
	v1.ToStored = func(o store.Object) (store.Object, error) {
		return fromV1(o.(*autoscalingv1.HorizontalPodAutoscaler)), nil
	}
	v1.FromStored = func(o store.Object) (store.Object, error) {
		return toV1(o.(*autoscalingv2.HorizontalPodAutoscaler))
	}
	v1.Default = registry.Defaulter(defaultV1)
	// Part of a v1 object's spec and status is in annotations: they are kept apart in the shape of v2.
	v1.Strategy.PrepareForCreate = registry.Prepare(func(o *autoscalingv1.HorizontalPodAutoscaler) {
		through(o, func(hub *autoscalingv2.HorizontalPodAutoscaler) {
			hub.Status = autoscalingv2.HorizontalPodAutoscalerStatus{}
		})
	})
	v1.Strategy.PrepareForUpdate = registry.PrepareUpdate(func(o, old *autoscalingv1.HorizontalPodAutoscaler) {
		through(o, func(hub *autoscalingv2.HorizontalPodAutoscaler) { hub.Status = fromV1(old).Status })
	})
	v1.Status.PrepareForUpdate = registry.PrepareUpdate(func(o, old *autoscalingv1.HorizontalPodAutoscaler) {
		through(o, func(hub *autoscalingv2.HorizontalPodAutoscaler) { hub.Spec = fromV1(old).Spec })
	})
	return []registry.Resource{v2, v1}
}

// row is what both versions have in common; hub shows an object as v2.
func row[T store.Object](gv schema.GroupVersion, hub func(T) *autoscalingv2.HorizontalPodAutoscaler) registry.Resource {
	return registry.Resource{
		GVK: gv.WithKind("HorizontalPodAutoscaler"), Name: plural, Singular: "horizontalpodautoscaler",
		ShortNames: []string{"hpa"}, Categories: []string{"all"}, Namespaced: true, Key: plural,
		Strategy: registry.Strategy{
			Validate:            registry.Validate(func(o T) field.ErrorList { return validate(hub(o)) }),
			ValidateUpdate:      registry.ValidateUpdate(func(o, old T) field.ErrorList { return validateUpdate(hub(o), hub(old)) }),
			UnconditionalUpdate: true,
		},
		Status: &registry.Strategy{
			ValidateUpdate: registry.ValidateUpdate(func(o, old T) field.ErrorList { return validateStatusUpdate(hub(o), hub(old)) }),
		},
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Column("Reference", "What is scaled"),
				registry.Column("Targets", "The current and wanted values of the metrics"),
				registry.Column("MinPods", "The fewest pods"),
				registry.Column("MaxPods", "The most pods"),
				registry.Column("Replicas", "How many pods there are"),
				registry.AgeColumn(),
			},
			Cells: registry.Cells(func(o T) []any { return cells(hub(o)) }),
		},
	}
}

// through changes a v1 object in the shape of v2.
func through(o *autoscalingv1.HorizontalPodAutoscaler, change func(*autoscalingv2.HorizontalPodAutoscaler)) {
	hub := fromV1(o)
	change(hub)
	back, err := toV1(hub)
	if err != nil {
		return // quantities and conditions that were just decoded can be encoded
	}
	gvk := o.GroupVersionKind()
	*o = *back
	o.SetGroupVersionKind(gvk)
}

func ptr[T any](v T) *T { return &v }

func defaultV2(o *autoscalingv2.HorizontalPodAutoscaler) {
	if o.Spec.MinReplicas == nil {
		o.Spec.MinReplicas = ptr(int32(1))
	}
	if len(o.Spec.Metrics) == 0 {
		o.Spec.Metrics = []autoscalingv2.MetricSpec{cpuMetric(defaultPercent)}
	}
	b := o.Spec.Behavior
	if b == nil {
		return
	}
	const period = 15
	b.ScaleUp = withRules(b.ScaleUp, autoscalingv2.HPAScalingRules{
		StabilizationWindowSeconds: ptr(int32(0)),
		Policies: []autoscalingv2.HPAScalingPolicy{
			{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: period},
			{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: period},
		},
	})
	b.ScaleDown = withRules(b.ScaleDown, autoscalingv2.HPAScalingRules{
		Policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: period}},
	})
}

// withRules completes rules.
func withRules(rules *autoscalingv2.HPAScalingRules, standard autoscalingv2.HPAScalingRules) *autoscalingv2.HPAScalingRules {
	if rules == nil {
		rules = &autoscalingv2.HPAScalingRules{}
	}
	if rules.SelectPolicy == nil {
		rules.SelectPolicy = ptr(autoscalingv2.MaxChangePolicySelect)
	}
	if rules.StabilizationWindowSeconds == nil {
		rules.StabilizationWindowSeconds = standard.StabilizationWindowSeconds
	}
	if rules.Policies == nil {
		rules.Policies = standard.Policies
	}
	return rules
}

func cpuMetric(percent int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{
		Type: autoscalingv2.ResourceMetricSourceType,
		Resource: &autoscalingv2.ResourceMetricSource{
			Name:   corev1.ResourceCPU,
			Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
		},
	}
}

// defaultV1 brings what its annotations say into upstream's form as well: defaults depend on them.
func defaultV1(o *autoscalingv1.HorizontalPodAutoscaler) {
	through(o, defaultV2)
}

func cells(o *autoscalingv2.HorizontalPodAutoscaler) []any {
	least := "<unset>"
	if o.Spec.MinReplicas != nil {
		least = fmt.Sprint(*o.Spec.MinReplicas)
	}
	return []any{
		o.Name, o.Spec.ScaleTargetRef.Kind + "/" + o.Spec.ScaleTargetRef.Name, targets(o), least,
		int64(o.Spec.MaxReplicas), int64(o.Status.CurrentReplicas), registry.Age(o.CreationTimestamp),
	}
}

// targets is the cell "current/wanted" of the first two metrics.
func targets(o *autoscalingv2.HorizontalPodAutoscaler) string {
	const most = 2
	if len(o.Spec.Metrics) == 0 {
		return registry.None
	}
	var shown []string
	for i := range o.Spec.Metrics {
		if i == most {
			return fmt.Sprintf("%s + %d more...", strings.Join(shown, ", "), len(o.Spec.Metrics)-most)
		}
		var current autoscalingv2.MetricStatus
		if i < len(o.Status.CurrentMetrics) {
			current = o.Status.CurrentMetrics[i]
		}
		shown = append(shown, metricCell(&o.Spec.Metrics[i], &current))
	}
	return strings.Join(shown, ", ")
}

func metricCell(spec *autoscalingv2.MetricSpec, status *autoscalingv2.MetricStatus) string {
	quantity := func(q *resource.Quantity) string {
		if q == nil {
			return registry.Unknown
		}
		return q.String()
	}
	percent := func(n *int32, otherwise string) string {
		if n == nil {
			return otherwise
		}
		return fmt.Sprintf("%d%%", *n)
	}
	of := func(target *autoscalingv2.MetricTarget, current *autoscalingv2.MetricValueStatus) string {
		if current == nil {
			current = &autoscalingv2.MetricValueStatus{}
		}
		if target.AverageValue != nil {
			return quantity(current.AverageValue) + "/" + target.AverageValue.String() + " (avg)"
		}
		return quantity(current.Value) + "/" + quantity(target.Value)
	}
	usage := func(name corev1.ResourceName, target *autoscalingv2.MetricTarget, current *autoscalingv2.MetricValueStatus) string {
		if current == nil {
			current = &autoscalingv2.MetricValueStatus{}
		}
		if target.AverageValue != nil {
			return fmt.Sprintf("%s: %s/%s", name, quantity(current.AverageValue), target.AverageValue)
		}
		return fmt.Sprintf("%s: %s/%s", name, percent(current.AverageUtilization, registry.Unknown), percent(target.AverageUtilization, "<auto>"))
	}
	now := valuesOf(status)
	switch {
	case spec.Type == autoscalingv2.ExternalMetricSourceType && spec.External != nil:
		return of(&spec.External.Target, now)
	case spec.Type == autoscalingv2.ObjectMetricSourceType && spec.Object != nil:
		return of(&spec.Object.Target, now)
	case spec.Type == autoscalingv2.PodsMetricSourceType && spec.Pods != nil:
		return strings.TrimSuffix(of(&spec.Pods.Target, now), " (avg)")
	case spec.Type == autoscalingv2.ResourceMetricSourceType && spec.Resource != nil:
		return usage(spec.Resource.Name, &spec.Resource.Target, now)
	case spec.Type == autoscalingv2.ContainerResourceMetricSourceType && spec.ContainerResource != nil:
		return usage(spec.ContainerResource.Name, &spec.ContainerResource.Target, now)
	}
	return "<unknown type>"
}

// valuesOf is the current value of whatever metric a status is of, nil if it has none.
func valuesOf(s *autoscalingv2.MetricStatus) *autoscalingv2.MetricValueStatus {
	switch {
	case s.External != nil:
		return &s.External.Current
	case s.Object != nil:
		return &s.Object.Current
	case s.Pods != nil:
		return &s.Pods.Current
	case s.Resource != nil:
		return &s.Resource.Current
	case s.ContainerResource != nil:
		return &s.ContainerResource.Current
	}
	return nil
}
