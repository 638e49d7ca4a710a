package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validatePod(pod *corev1.Pod) field.ErrorList {
	return apivalidation.ValidateObjectMeta(&pod.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
}
func validatePodUpdate(pod, old *corev1.Pod) field.ErrorList {
	return apivalidation.ValidateObjectMetaUpdate(&pod.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
}
func validatePodStatusUpdate(pod, old *corev1.Pod) field.ErrorList {
	return validatePodUpdate(pod, old)
}
func validatePodEphemeralContainersUpdate(pod, old *corev1.Pod) field.ErrorList {
	return validatePodUpdate(pod, old)
}
func validatePodResize(pod, old *corev1.Pod) field.ErrorList { return validatePodUpdate(pod, old) }

func validateQuantity(name corev1.ResourceName, q resource.Quantity, path *field.Path) field.ErrorList {
	return nil
}
func validateTaintEffect(e corev1.TaintEffect, empty bool, path *field.Path) field.ErrorList {
	return nil
}
func (f ipFamilies) validate(s *corev1.Service) field.ErrorList {
	return apivalidation.ValidateObjectMeta(&s.ObjectMeta, true, apivalidation.NameIsDNS1035Label, field.NewPath("metadata"))
}
func (f ipFamilies) validateUpdate(s, old *corev1.Service) field.ErrorList {
	return apivalidation.ValidateObjectMetaUpdate(&s.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
}
func validateServiceStatusUpdate(s, old *corev1.Service) field.ErrorList {
	return apivalidation.ValidateObjectMetaUpdate(&s.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
}
