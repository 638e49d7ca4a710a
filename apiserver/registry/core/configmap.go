package core

import (
	"bytes"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
)

const whenImmutable = "field is immutable when `immutable` is set"

// ConfigMap is the row of configmaps.
func ConfigMap() registry.Resource {
	return registry.Resource{
		GVK: corev1.SchemeGroupVersion.WithKind("ConfigMap"), Name: "configmaps", Singular: "configmap", ShortNames: []string{"cm"}, Namespaced: true,
		Strategy: registry.Strategy{
			Validate: registry.Validate(validateConfigMap),
			ValidateUpdate: registry.ValidateUpdate(func(cm, old *corev1.ConfigMap) field.ErrorList {
				errs := apivalidation.ValidateObjectMetaUpdate(&cm.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
				if old.Immutable != nil && *old.Immutable {
					if cm.Immutable == nil || !*cm.Immutable {
						errs = append(errs, field.Forbidden(field.NewPath("immutable"), whenImmutable))
					}
					if !maps.Equal(cm.Data, old.Data) {
						errs = append(errs, field.Forbidden(field.NewPath("data"), whenImmutable))
					}
					if !maps.EqualFunc(cm.BinaryData, old.BinaryData, bytes.Equal) {
						errs = append(errs, field.Forbidden(field.NewPath("binaryData"), whenImmutable))
					}
				}
				return append(errs, validateConfigMap(cm)...)
			}),
			UnconditionalUpdate: true,
		},
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(), registry.Column("Data", "Number of keys"), registry.AgeColumn(),
			},
			Cells: registry.Cells(func(cm *corev1.ConfigMap) []any {
				return []any{cm.Name, int64(len(cm.Data) + len(cm.BinaryData)), registry.Age(cm.CreationTimestamp)}
			}),
		},
	}
}

func validateConfigMap(cm *corev1.ConfigMap) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&cm.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	size := 0
	for key, value := range cm.Data {
		for _, msg := range validation.IsConfigMapKey(key) {
			errs = append(errs, field.Invalid(field.NewPath("data").Key(key), key, msg))
		}
		if _, both := cm.BinaryData[key]; both {
			errs = append(errs, field.Invalid(field.NewPath("data").Key(key), key, "duplicate of key present in binaryData"))
		}
		size += len(value)
	}
	for key, value := range cm.BinaryData {
		for _, msg := range validation.IsConfigMapKey(key) {
			errs = append(errs, field.Invalid(field.NewPath("binaryData").Key(key), key, msg))
		}
		size += len(value)
	}
	if size > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(field.NewPath(""), "", corev1.MaxSecretSize))
	}
	return errs
}
