package core

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

// ContainerCells are the wide table cells that name a template's containers and their images.
func ContainerCells(containers []corev1.Container) (names, images string) {
	n, i := make([]string, len(containers)), make([]string, len(containers))
	for at := range containers {
		n[at], i[at] = containers[at].Name, containers[at].Image
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}

// ValidateSelector validates a selector that must be there and returns it parsed, or nil if it cannot be.
func ValidateSelector(s *metav1.LabelSelector, path *field.Path) (labels.Selector, field.ErrorList) {
	if s == nil {
		return nil, field.ErrorList{field.Required(path, "")}
	}
	errs := metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, path)
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return nil, append(errs, field.Invalid(path, s, "invalid label selector"))
	}
	return selector, errs
}

// ValidateRunningTemplate validates the template of a kind whose pods run for ever: it matches the kind's selector, and its
// restart policy is Always.
func ValidateRunningTemplate(t *corev1.PodTemplateSpec, selector labels.Selector, kind string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if !selector.Empty() && !selector.Matches(labels.Set(t.Labels)) {
		errs = append(errs, field.Invalid(path.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`"))
	}
	errs = append(errs, ValidatePodTemplate(t, path)...)
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(path.Child("spec", "restartPolicy"), t.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(path.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in "+kind+" is not Supported"))
	}
	return errs
}

// TemplateWarnings is the Warnings hook of a kind with a pod template, which of may not find.
func TemplateWarnings[T store.Object](path *field.Path, of func(T) *corev1.PodTemplateSpec) func(context.Context, store.Object, store.Object) []string {
	return func(_ context.Context, o, old store.Object) []string {
		t := of(o.(T))
		if t == nil {
			return nil
		}
		var was *corev1.PodTemplateSpec
		if old != nil {
			was = of(old.(T))
		}
		return PodTemplateWarnings(t, was, path)
	}
}

// TemplateColumns are the wide columns of a kind with a pod template: see ContainerCells.
func TemplateColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		registry.Wide(registry.Column("Containers", "Names of the template's containers")),
		registry.Wide(registry.Column("Images", "Images of the template's containers")),
	}
}
