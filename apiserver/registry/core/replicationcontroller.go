package core

import (
	"maps"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

// ReplicationController is the row of replicationcontrollers.
func ReplicationController() registry.Resource {
	main, status := registry.SpecStatus(func(rc *corev1.ReplicationController) (*corev1.ReplicationControllerSpec, *corev1.ReplicationControllerStatus) {
		return &rc.Spec, &rc.Status
	})
	main.Validate = registry.Validate(func(rc *corev1.ReplicationController) field.ErrorList {
		errs := apivalidation.ValidateObjectMeta(&rc.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
		return append(errs, validateReplicationControllerSpec(&rc.Spec, field.NewPath("spec"))...)
	})
	main.ValidateUpdate = registry.ValidateUpdate(func(rc, old *corev1.ReplicationController) field.ErrorList {
		errs := apivalidation.ValidateObjectMetaUpdate(&rc.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
		if apiequality.Semantic.DeepEqual(rc.Spec, old.Spec) {
			return errs // what another server accepted must not keep labels and finalizers from changing
		}
		return append(errs, validateReplicationControllerSpec(&rc.Spec, field.NewPath("spec"))...)
	})
	main.Warnings = TemplateWarnings(field.NewPath("spec", "template"), func(rc *corev1.ReplicationController) *corev1.PodTemplateSpec { return rc.Spec.Template })
	main.OrphanDependents = true
	main.ReturnDeleted = true
	status.ValidateUpdate = registry.ValidateUpdate(validateReplicationControllerStatusUpdate)
	return registry.Resource{
		GVK: corev1.SchemeGroupVersion.WithKind("ReplicationController"), Name: "replicationcontrollers", Singular: "replicationcontroller",
		ShortNames: []string{"rc"}, Categories: []string{"all"}, Namespaced: true, Key: "controllers",
		Default:  registry.Defaulter(defaultReplicationController),
		Strategy: main,
		Fields: registry.Select(func(rc *corev1.ReplicationController) fields.Set {
			return fields.Set{"status.replicas": strconv.Itoa(int(rc.Status.Replicas))}
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
				registry.Wide(registry.Column("Selector", "The labels of the controller's pods")),
			},
			Cells: registry.Cells(func(rc *corev1.ReplicationController) []any {
				var containers []corev1.Container
				if rc.Spec.Template != nil {
					containers = rc.Spec.Template.Spec.Containers
				}
				names, images := ContainerCells(containers)
				return []any{
					rc.Name, int64(count(rc.Spec.Replicas)), int64(rc.Status.Replicas), int64(rc.Status.ReadyReplicas),
					registry.Age(rc.CreationTimestamp), names, images, FormatLabels(rc.Spec.Selector),
				}
			}),
		},
		Status: &status,
		Scale: &registry.Scale{
			Get: func(o store.Object) (int32, int32, string) {
				rc := o.(*corev1.ReplicationController)
				return count(rc.Spec.Replicas), rc.Status.Replicas, labels.Set(rc.Spec.Selector).String()
			},
			Set: func(o store.Object, n int32) { o.(*corev1.ReplicationController).Spec.Replicas = &n },
		},
	}
}

func count(n *int32) int32 {
	if n == nil {
		return 0
	}
	return *n
}

// defaultReplicationController takes selector and labels from the template where they are not said.
func defaultReplicationController(rc *corev1.ReplicationController) {
	if t := rc.Spec.Template; t != nil {
		if len(t.Labels) > 0 {
			if len(rc.Spec.Selector) == 0 {
				rc.Spec.Selector = maps.Clone(t.Labels)
			}
			if len(rc.Labels) == 0 {
				rc.Labels = maps.Clone(t.Labels)
			}
		}
		DefaultPodTemplate(t)
	}
	set(&rc.Spec.Replicas, 1)
}

func validateReplicationControllerSpec(spec *corev1.ReplicationControllerSpec, path *field.Path) field.ErrorList {
	errs := nonNegative(spec.MinReadySeconds, path.Child("minReadySeconds"))
	if len(spec.Selector) == 0 {
		errs = append(errs, field.Required(path.Child("selector"), ""))
	}
	if spec.Replicas == nil {
		errs = append(errs, field.Required(path.Child("replicas"), ""))
	} else {
		errs = append(errs, nonNegative(*spec.Replicas, path.Child("replicas"))...)
	}
	if spec.Template == nil {
		return append(errs, field.Required(path.Child("template"), ""))
	}
	return append(errs, ValidateRunningTemplate(spec.Template, labels.SelectorFromSet(spec.Selector), "ReplicationController", path.Child("template"))...)
}

func validateReplicationControllerStatusUpdate(rc, old *corev1.ReplicationController) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&rc.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	s, path := &rc.Status, field.NewPath("status")
	errs = append(errs, nonNegative(s.Replicas, path.Child("replicas"))...)
	errs = append(errs, apivalidation.ValidateNonnegativeField(s.ObservedGeneration, path.Child("observedGeneration"))...)
	for _, part := range []struct {
		name string
		n    int32
	}{{"fullyLabeledReplicas", s.FullyLabeledReplicas}, {"readyReplicas", s.ReadyReplicas}, {"availableReplicas", s.AvailableReplicas}} {
		errs = append(errs, nonNegative(part.n, path.Child(part.name))...)
		if part.n > s.Replicas {
			errs = append(errs, field.Invalid(path.Child(part.name), part.n, "cannot be greater than status.replicas"))
		}
	}
	if s.AvailableReplicas > s.ReadyReplicas {
		errs = append(errs, field.Invalid(path.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas"))
	}
	return errs
}

func nonNegative(n int32, path *field.Path) field.ErrorList {
	return apivalidation.ValidateNonnegativeField(int64(n), path)
}
