package autoscaling

import (
	"strings"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/yaml"
)

const rich = `
metadata: {name: web, namespace: default, annotations: {keep: me}}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  minReplicas: 2
  maxReplicas: 9
  metrics:
  - {type: Pods, pods: {metric: {name: rps}, target: {type: AverageValue, averageValue: 1k}}}
  - {type: Object, object: {describedObject: {kind: Service, name: s, apiVersion: v1}, metric: {name: hits}, target: {type: Value, value: "5"}}}
  - {type: External, external: {metric: {name: q, selector: {matchLabels: {a: b}}}, target: {type: AverageValue, averageValue: "30"}}}
  - {type: ContainerResource, containerResource: {name: memory, container: main, target: {type: Utilization, averageUtilization: 60}}}
  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}
  behavior: {scaleDown: {stabilizationWindowSeconds: 60}}
status:
  currentReplicas: 3
  desiredReplicas: 4
  conditions: [{type: AbleToScale, status: "True", reason: Ready}]
  currentMetrics:
  - {type: Pods, pods: {metric: {name: rps}, current: {averageValue: "7"}}}
`

func parse(t *testing.T, o any, manifest string) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(manifest), o); err != nil {
		t.Fatal(err)
	}
}

// TestVersions: an object of v2 goes through v1 without a loss.
func TestVersions(t *testing.T) {
	o := &autoscalingv2.HorizontalPodAutoscaler{}
	parse(t, o, rich)
	defaultV2(o)
	older, err := toV1(o)
	if err != nil {
		t.Fatal(err)
	}
	if *older.Spec.TargetCPUUtilizationPercentage != 50 || older.Annotations["keep"] != "me" ||
		!strings.Contains(older.Annotations[metricsAnnotation], `"targetAverageValue":"1k"`) ||
		!strings.Contains(older.Annotations[behaviorAnnotation], `"StabilizationWindowSeconds":60`) ||
		!strings.Contains(older.Annotations[conditionsAnnotation], `"AbleToScale"`) {
		t.Errorf("v1: %+v", older)
	}
	back := fromV1(older)
	if !apiequality.Semantic.DeepEqual(o.Spec, back.Spec) || !apiequality.Semantic.DeepEqual(o.Status, back.Status) || len(back.Annotations) != 1 {
		t.Errorf("there and back:\n%+v\n%+v", o, back)
	}
}

func TestV1(t *testing.T) {
	row := HorizontalPodAutoscalers()[1]
	o := &autoscalingv1.HorizontalPodAutoscaler{}
	parse(t, o, `{metadata: {name: a, namespace: n}, spec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: d}}, status: {currentReplicas: 7}}`)
	row.Default(o)
	row.Strategy.PrepareForCreate(t.Context(), o)
	if *o.Spec.MinReplicas != 1 || *o.Spec.TargetCPUUtilizationPercentage != 80 || o.Status.CurrentReplicas != 0 {
		t.Errorf("defaults: %+v", o)
	}
	if errs := row.Strategy.Validate(t.Context(), o); len(errs) > 0 {
		t.Errorf("refused: %v", errs)
	}
	old := o.DeepCopy()
	old.ResourceVersion = "1"
	o = old.DeepCopy()
	o.Spec.MaxReplicas, o.Status.CurrentReplicas = 5, 4
	row.Status.PrepareForUpdate(t.Context(), o, old)
	if o.Spec.MaxReplicas != 3 || o.Status.CurrentReplicas != 4 {
		t.Errorf("a write of the status: %+v", o)
	}
	o.Spec.MaxReplicas = 5
	row.Strategy.PrepareForUpdate(t.Context(), o, old)
	if o.Spec.MaxReplicas != 5 || o.Status.CurrentReplicas != 0 {
		t.Errorf("a write of the spec: %+v", o)
	}
}

func TestValidation(t *testing.T) {
	row := HorizontalPodAutoscalers()[0]
	for _, c := range []struct {
		name   string
		change func(*autoscalingv2.HorizontalPodAutoscaler)
		want   string
	}{
		{"good", func(*autoscalingv2.HorizontalPodAutoscaler) {}, ""},
		{"max", func(o *autoscalingv2.HorizontalPodAutoscaler) { o.Spec.MaxReplicas = 0 }, "spec.maxReplicas: Required value: must be set and greater than 0"},
		{"min", func(o *autoscalingv2.HorizontalPodAutoscaler) { o.Spec.MinReplicas = ptr(int32(0)) }, "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1"},
		{"order", func(o *autoscalingv2.HorizontalPodAutoscaler) { o.Spec.MinReplicas = ptr(int32(10)) }, "must be greater than or equal to `minReplicas`"},
		{"kind", func(o *autoscalingv2.HorizontalPodAutoscaler) { o.Spec.ScaleTargetRef.Kind = "" }, "spec.scaleTargetRef.kind: Required value"},
		{"group", func(o *autoscalingv2.HorizontalPodAutoscaler) { o.Spec.ScaleTargetRef.APIVersion = "v1" }, "apiVersion must specify API group"},
		{"metric_type", func(o *autoscalingv2.HorizontalPodAutoscaler) { o.Spec.Metrics[0].Type = "Mood" }, `spec.metrics[0].type: Unsupported value: "Mood": supported values: "ContainerResource", "External", "Object", "Pods", "Resource"`},
		{"metric_other", func(o *autoscalingv2.HorizontalPodAutoscaler) {
			o.Spec.Metrics[0].Type = autoscalingv2.ObjectMetricSourceType
		}, "spec.metrics[0].pods: Forbidden: must populate the given metric source only"},
		{"both", func(o *autoscalingv2.HorizontalPodAutoscaler) {
			o.Spec.Metrics[4].Resource.Target.AverageValue = o.Spec.Metrics[0].Pods.Target.AverageValue
		}, "may not set both a target raw value and a target utilization"},
		{"policy", func(o *autoscalingv2.HorizontalPodAutoscaler) {
			o.Spec.Behavior.ScaleUp.Policies[0].PeriodSeconds = 1801
		}, "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800"},
		{"window", func(o *autoscalingv2.HorizontalPodAutoscaler) {
			o.Spec.Behavior.ScaleDown.StabilizationWindowSeconds = ptr(int32(4000))
		}, "must be less than or equal to 3600"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := &autoscalingv2.HorizontalPodAutoscaler{}
			parse(t, o, rich)
			row.Default(o)
			c.change(o)
			errs := row.Strategy.Validate(t.Context(), o)
			if (c.want == "") != (len(errs) == 0) || c.want != "" && !strings.Contains(errs.ToAggregate().Error(), c.want) {
				t.Errorf("want %q, got %v", c.want, errs)
			}
		})
	}
	o := &autoscalingv2.HorizontalPodAutoscaler{}
	parse(t, o, rich)
	if got := targets(o); got != "7/1k, <unknown>/5 + 3 more..." {
		t.Errorf("cell %q", got)
	}
}
