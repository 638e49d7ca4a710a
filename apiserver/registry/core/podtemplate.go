package core

import (
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
)

// PodTemplate is the row of podtemplates, which nothing in the cluster makes pods of.
func PodTemplate() registry.Resource {
	return registry.Resource{
		GVK: corev1.SchemeGroupVersion.WithKind("PodTemplate"), Name: "podtemplates", Singular: "podtemplate", Namespaced: true,
		Default: registry.Defaulter(func(t *corev1.PodTemplate) { DefaultPodTemplate(&t.Template) }),
		Strategy: registry.Strategy{
			PrepareForCreate: registry.Prepare(func(t *corev1.PodTemplate) { t.Generation = 1 }),
			PrepareForUpdate: registry.PrepareUpdate(func(t, old *corev1.PodTemplate) {
				t.Generation = old.Generation
				if !apiequality.Semantic.DeepEqual(t.Template, old.Template) {
					t.Generation++
				}
			}),
			Validate: registry.Validate(func(t *corev1.PodTemplate) field.ErrorList {
				errs := apivalidation.ValidateObjectMeta(&t.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
				return append(errs, ValidatePodTemplate(&t.Template, field.NewPath("template"))...)
			}),
			ValidateUpdate: registry.ValidateUpdate(func(t, old *corev1.PodTemplate) field.ErrorList {
				errs := apivalidation.ValidateObjectMetaUpdate(&t.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
				if apiequality.Semantic.DeepEqual(t.Template, old.Template) {
					return errs
				}
				return append(errs, ValidatePodTemplate(&t.Template, field.NewPath("template"))...)
			}),
			Warnings:      TemplateWarnings(field.NewPath("template"), func(t *corev1.PodTemplate) *corev1.PodTemplateSpec { return &t.Template }),
			ReturnDeleted: true, UnconditionalUpdate: true,
		},
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Column("Containers", "Names of the template's containers"),
				registry.Column("Images", "Images of the template's containers"),
				registry.Column("Pod Labels", "The labels of pods of the template"),
			},
			Cells: registry.Cells(func(t *corev1.PodTemplate) []any {
				names, images := ContainerCells(t.Template.Spec.Containers)
				return []any{t.Name, names, images, FormatLabels(t.Template.Labels)}
			}),
		},
	}
}
