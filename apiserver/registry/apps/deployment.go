package apps

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/registry/core"
	"github.com/mini-k8s/mini/store"
)

// Deployment is the row of deployments.
func Deployment() registry.Resource {
	status := registry.Strategy{
		PrepareForUpdate: registry.PrepareUpdate(func(d, old *appsv1.Deployment) {
			d.Spec, d.Labels = old.Spec, old.Labels
		}),
		ValidateUpdate: registry.ValidateUpdate(validateDeploymentStatusUpdate),
	}
	return registry.Resource{
		GVK: appsv1.SchemeGroupVersion.WithKind("Deployment"), Name: "deployments", Singular: "deployment",
		ShortNames: []string{"deploy"}, Categories: []string{"all"}, Namespaced: true,
		Default: registry.Defaulter(defaultDeployment),
		Strategy: registry.Strategy{
			PrepareForCreate: registry.Prepare(func(d *appsv1.Deployment) {
				d.Status, d.Generation = appsv1.DeploymentStatus{}, 1
			}),
			PrepareForUpdate: registry.PrepareUpdate(func(d, old *appsv1.Deployment) {
				d.Status, d.Generation = old.Status, old.Generation
				// Annotations count too: the controller copies them to its ReplicaSets.
				if !apiequality.Semantic.DeepEqual(d.Spec, old.Spec) || !apiequality.Semantic.DeepEqual(d.Annotations, old.Annotations) {
					d.Generation++
				}
			}),
			Validate: registry.Validate(func(d *appsv1.Deployment) field.ErrorList {
				errs := apivalidation.ValidateObjectMeta(&d.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
				return append(errs, validateDeploymentSpec(&d.Spec, field.NewPath("spec"))...)
			}),
			ValidateUpdate: registry.ValidateUpdate(func(d, old *appsv1.Deployment) field.ErrorList {
				errs := apivalidation.ValidateObjectMetaUpdate(&d.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
				if apiequality.Semantic.DeepEqual(d.Spec, old.Spec) {
					return errs // what another server accepted must not keep labels and finalizers from changing
				}
				errs = append(errs, validateDeploymentSpec(&d.Spec, field.NewPath("spec"))...)
				return append(errs, apivalidation.ValidateImmutableField(d.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))...)
			}),
			Warnings:            core.TemplateWarnings(field.NewPath("spec", "template"), func(d *appsv1.Deployment) *corev1.PodTemplateSpec { return &d.Spec.Template }),
			UnconditionalUpdate: true,
		},
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Column("Ready", "How many pods are ready, of how many wanted"),
				registry.Column("Up-to-date", "How many pods have the current template"),
				registry.Column("Available", "How many pods have been ready for long enough"),
				registry.AgeColumn(),
				registry.Wide(registry.Column("Containers", "Names of the template's containers")),
				registry.Wide(registry.Column("Images", "Images of the template's containers")),
				registry.Wide(registry.Column("Selector", "The labels of the deployment's pods")),
			},
			Cells: registry.Cells(func(d *appsv1.Deployment) []any {
				names, images := core.ContainerCells(d.Spec.Template.Spec.Containers)
				return []any{
					d.Name, fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, count(d.Spec.Replicas)), int64(d.Status.UpdatedReplicas),
					int64(d.Status.AvailableReplicas), registry.Age(d.CreationTimestamp), names, images, selectorCell(d.Spec.Selector),
				}
			}),
		},
		Status: &status,
		Scale: &registry.Scale{
			Get: func(o store.Object) (int32, int32, string) {
				d := o.(*appsv1.Deployment)
				return count(d.Spec.Replicas), d.Status.Replicas, selectorString(d.Spec.Selector)
			},
			Set: func(o store.Object, n int32) { o.(*appsv1.Deployment).Spec.Replicas = &n },
		},
	}
}

func count(n *int32) int32 {
	if n == nil {
		return 0
	}
	return *n
}

// selectorString writes a selector as the scale subresource reports it, in the query syntax.
func selectorString(s *metav1.LabelSelector) string {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return ""
	}
	return selector.String()
}

func selectorCell(s *metav1.LabelSelector) string { return metav1.FormatLabelSelector(s) }

func ptr[T any](v T) *T { return &v }

func defaultDeployment(d *appsv1.Deployment) {
	spec := &d.Spec
	if spec.Replicas == nil {
		spec.Replicas = ptr(int32(1))
	}
	if spec.Strategy.Type == "" {
		spec.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
	}
	if spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		if spec.Strategy.RollingUpdate == nil {
			spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{}
		}
		if r := spec.Strategy.RollingUpdate; r.MaxUnavailable == nil {
			r.MaxUnavailable = ptr(intstr.FromString("25%"))
		}
		if r := spec.Strategy.RollingUpdate; r.MaxSurge == nil {
			r.MaxSurge = ptr(intstr.FromString("25%"))
		}
	}
	if spec.RevisionHistoryLimit == nil {
		spec.RevisionHistoryLimit = ptr(int32(10))
	}
	if spec.ProgressDeadlineSeconds == nil {
		spec.ProgressDeadlineSeconds = ptr(int32(600))
	}
	core.DefaultPodTemplate(&spec.Template)
}

func validateDeploymentSpec(spec *appsv1.DeploymentSpec, path *field.Path) field.ErrorList {
	errs := nonNegative(count(spec.Replicas), path.Child("replicas"))
	errs = append(errs, validateSelectorAndTemplate(spec.Selector, &spec.Template, path)...)
	errs = append(errs, validateDeploymentStrategy(&spec.Strategy, path.Child("strategy"))...)
	errs = append(errs, nonNegative(spec.MinReadySeconds, path.Child("minReadySeconds"))...)
	if spec.RevisionHistoryLimit != nil {
		errs = append(errs, nonNegative(*spec.RevisionHistoryLimit, path.Child("revisionHistoryLimit"))...)
	}
	if spec.ProgressDeadlineSeconds != nil {
		at := path.Child("progressDeadlineSeconds")
		errs = append(errs, nonNegative(*spec.ProgressDeadlineSeconds, at)...)
		if *spec.ProgressDeadlineSeconds <= spec.MinReadySeconds {
			errs = append(errs, field.Invalid(at, *spec.ProgressDeadlineSeconds, "must be greater than minReadySeconds"))
		}
	}
	return errs
}

// validateSelectorAndTemplate holds for every kind that keeps a number of equal pods: the selector is there, is not
// empty, and matches the template, whose pods run on for ever.
func validateSelectorAndTemplate(selector *metav1.LabelSelector, template *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	s, invalid := core.ValidateSelector(selector, path.Child("selector"))
	errs = append(errs, invalid...)
	if selector != nil && len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path.Child("selector"), selector, "empty selector is invalid for deployment"))
	}
	if s != nil {
		errs = append(errs, core.ValidateRunningTemplate(template, s, "ReplicaSet", path.Child("template"))...)
	}
	return errs
}

func validateDeploymentStrategy(s *appsv1.DeploymentStrategy, path *field.Path) field.ErrorList {
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(path.Child("rollingUpdate"), "may not be specified when strategy `type` is 'Recreate'")}
		}
		return nil
	case appsv1.RollingUpdateDeploymentStrategyType:
		at := path.Child("rollingUpdate")
		if s.RollingUpdate == nil {
			return field.ErrorList{field.Required(at, "this should be defaulted and never be nil")}
		}
		unavailable, surge := deref(s.RollingUpdate.MaxUnavailable), deref(s.RollingUpdate.MaxSurge)
		errs := positiveIntOrPercent(unavailable, at.Child("maxUnavailable"))
		errs = append(errs, positiveIntOrPercent(surge, at.Child("maxSurge"))...)
		if amount(unavailable) == 0 && amount(surge) == 0 {
			errs = append(errs, field.Invalid(at.Child("maxUnavailable"), unavailable, "may not be 0 when `maxSurge` is 0"))
		}
		if unavailable.Type == intstr.String && amount(unavailable) > 100 {
			errs = append(errs, field.Invalid(at.Child("maxUnavailable"), unavailable, "must not be greater than 100%"))
		}
		return errs
	}
	return field.ErrorList{field.NotSupported(path.Child("type"), s.Type,
		[]appsv1.DeploymentStrategyType{appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType})}
}

func deref(v *intstr.IntOrString) intstr.IntOrString {
	if v == nil {
		return intstr.IntOrString{}
	}
	return *v
}

// amount is the number or percentage; what is neither counts as nothing.
func amount(v intstr.IntOrString) int {
	n, err := intstr.GetScaledValueFromIntOrPercent(&v, 100, true)
	if err != nil {
		return 0
	}
	return n
}

func positiveIntOrPercent(v intstr.IntOrString, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch v.Type {
	case intstr.String:
		for _, msg := range validation.IsValidPercent(v.StrVal) {
			errs = append(errs, field.Invalid(path, v, msg))
		}
	case intstr.Int:
		errs = nonNegative(v.IntVal, path)
	default:
		errs = append(errs, field.Invalid(path, v, "must be an integer or percentage (e.g '5%%')"))
	}
	return errs
}

func nonNegative(n int32, path *field.Path) field.ErrorList {
	return apivalidation.ValidateNonnegativeField(int64(n), path)
}

func validateDeploymentStatusUpdate(d, old *appsv1.Deployment) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&d.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	s, path := &d.Status, field.NewPath("status")
	errs = append(errs, apivalidation.ValidateNonnegativeField(s.ObservedGeneration, path.Child("observedGeneration"))...)
	errs = append(errs, nonNegative(s.Replicas, path.Child("replicas"))...)
	errs = append(errs, nonNegative(s.UpdatedReplicas, path.Child("updatedReplicas"))...)
	errs = append(errs, nonNegative(s.ReadyReplicas, path.Child("readyReplicas"))...)
	errs = append(errs, nonNegative(s.AvailableReplicas, path.Child("availableReplicas"))...)
	errs = append(errs, nonNegative(s.UnavailableReplicas, path.Child("unavailableReplicas"))...)
	errs = append(errs, notAbove(s.UpdatedReplicas, s.Replicas, path.Child("updatedReplicas"), "cannot be greater than status.replicas")...)
	errs = append(errs, notAbove(s.ReadyReplicas, s.Replicas, path.Child("readyReplicas"), "cannot be greater than status.replicas")...)
	errs = append(errs, notAbove(s.AvailableReplicas, s.Replicas, path.Child("availableReplicas"), "cannot be greater than status.replicas")...)
	errs = append(errs, notAbove(s.AvailableReplicas, s.ReadyReplicas, path.Child("availableReplicas"), "cannot be greater than readyReplicas")...)
	if s.CollisionCount != nil {
		errs = append(errs, nonNegative(*s.CollisionCount, path.Child("collisionCount"))...)
	}
	if was := old.Status.CollisionCount; was != nil {
		if s.CollisionCount == nil {
			errs = append(errs, field.Invalid(path.Child("collisionCount"), s.CollisionCount, "should not be unset when previously set"))
		} else if *s.CollisionCount < *was {
			errs = append(errs, field.Invalid(path.Child("collisionCount"), *s.CollisionCount, "cannot be decremented"))
		}
	}
	return errs
}

func notAbove(n, limit int32, path *field.Path, message string) field.ErrorList {
	if n > limit {
		return field.ErrorList{field.Invalid(path, n, message)}
	}
	return nil
}
