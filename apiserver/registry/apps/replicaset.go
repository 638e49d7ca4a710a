package apps

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/registry/core"
	"github.com/mini-k8s/mini/store"
)

// ReplicaSet is the row of replicasets.
func ReplicaSet() registry.Resource {
	status := registry.Strategy{
		PrepareForUpdate: registry.PrepareUpdate(func(rs, old *appsv1.ReplicaSet) { rs.Spec = old.Spec }),
		ValidateUpdate:   registry.ValidateUpdate(validateReplicaSetStatusUpdate),
	}
	return registry.Resource{
		GVK: appsv1.SchemeGroupVersion.WithKind("ReplicaSet"), Name: "replicasets", Singular: "replicaset",
		ShortNames: []string{"rs"}, Categories: []string{"all"}, Namespaced: true,
		Default: registry.Defaulter(func(rs *appsv1.ReplicaSet) {
			if rs.Spec.Replicas == nil {
				rs.Spec.Replicas = ptr(int32(1))
			}
			core.DefaultPodTemplate(&rs.Spec.Template)
		}),
		Strategy: registry.Strategy{
			PrepareForCreate: registry.Prepare(func(rs *appsv1.ReplicaSet) {
				rs.Status, rs.Generation = appsv1.ReplicaSetStatus{}, 1
			}),
			PrepareForUpdate: registry.PrepareUpdate(func(rs, old *appsv1.ReplicaSet) {
				rs.Status, rs.Generation = old.Status, old.Generation
				if !apiequality.Semantic.DeepEqual(rs.Spec, old.Spec) {
					rs.Generation++
				}
			}),
			Validate: registry.Validate(func(rs *appsv1.ReplicaSet) field.ErrorList {
				errs := apivalidation.ValidateObjectMeta(&rs.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
				return append(errs, validateReplicaSetSpec(&rs.Spec, field.NewPath("spec"))...)
			}),
			ValidateUpdate: registry.ValidateUpdate(func(rs, old *appsv1.ReplicaSet) field.ErrorList {
				errs := apivalidation.ValidateObjectMetaUpdate(&rs.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
				if apiequality.Semantic.DeepEqual(rs.Spec, old.Spec) {
					return errs // what another server accepted must not keep labels and finalizers from changing
				}
				errs = append(errs, validateReplicaSetSpec(&rs.Spec, field.NewPath("spec"))...)
				return append(errs, apivalidation.ValidateImmutableField(rs.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))...)
			}),
			Warnings: core.TemplateWarnings(field.NewPath("spec", "template"), func(rs *appsv1.ReplicaSet) *corev1.PodTemplateSpec { return &rs.Spec.Template }),

			UnconditionalUpdate: true,
		},
		Fields: registry.Select(func(rs *appsv1.ReplicaSet) fields.Set {
			return fields.Set{"status.replicas": strconv.Itoa(int(rs.Status.Replicas))}
		}),
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Number("Desired", "How many pods are wanted"),
				registry.Number("Current", "How many pods there are"),
				registry.Number("Ready", "How many pods are ready"),
				registry.AgeColumn(),
				registry.Wide(registry.Column("Containers", "Names of the template's containers")),
				registry.Wide(registry.Column("Images", "Images of the template's containers")),
				registry.Wide(registry.Column("Selector", "The labels of the set's pods")),
			},
			Cells: registry.Cells(func(rs *appsv1.ReplicaSet) []any {
				names, images := core.ContainerCells(rs.Spec.Template.Spec.Containers)
				return []any{
					rs.Name, int64(count(rs.Spec.Replicas)), int64(rs.Status.Replicas), int64(rs.Status.ReadyReplicas),
					registry.Age(rs.CreationTimestamp), names, images, selectorCell(rs.Spec.Selector),
				}
			}),
		},
		Status: &status,
		Scale: &registry.Scale{
			Get: func(o store.Object) (int32, int32, string) {
				rs := o.(*appsv1.ReplicaSet)
				return count(rs.Spec.Replicas), rs.Status.Replicas, selectorString(rs.Spec.Selector)
			},
			Set: func(o store.Object, n int32) { o.(*appsv1.ReplicaSet).Spec.Replicas = &n },
		},
	}
}

func validateReplicaSetSpec(spec *appsv1.ReplicaSetSpec, path *field.Path) field.ErrorList {
	errs := nonNegative(count(spec.Replicas), path.Child("replicas"))
	errs = append(errs, nonNegative(spec.MinReadySeconds, path.Child("minReadySeconds"))...)
	return append(errs, validateSelectorAndTemplate(spec.Selector, &spec.Template, path)...)
}

func validateReplicaSetStatusUpdate(rs, old *appsv1.ReplicaSet) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&rs.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	s, path := &rs.Status, field.NewPath("status")
	errs = append(errs, nonNegative(s.Replicas, path.Child("replicas"))...)
	errs = append(errs, nonNegative(s.FullyLabeledReplicas, path.Child("fullyLabeledReplicas"))...)
	errs = append(errs, nonNegative(s.ReadyReplicas, path.Child("readyReplicas"))...)
	errs = append(errs, nonNegative(s.AvailableReplicas, path.Child("availableReplicas"))...)
	errs = append(errs, apivalidation.ValidateNonnegativeField(s.ObservedGeneration, path.Child("observedGeneration"))...)
	const aboveAll = "cannot be greater than status.replicas"
	errs = append(errs, notAbove(s.FullyLabeledReplicas, s.Replicas, path.Child("fullyLabeledReplicas"), aboveAll)...)
	errs = append(errs, notAbove(s.ReadyReplicas, s.Replicas, path.Child("readyReplicas"), aboveAll)...)
	errs = append(errs, notAbove(s.AvailableReplicas, s.Replicas, path.Child("availableReplicas"), aboveAll)...)
	return append(errs, notAbove(s.AvailableReplicas, s.ReadyReplicas, path.Child("availableReplicas"), "cannot be greater than readyReplicas")...)
}
