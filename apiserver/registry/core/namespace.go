package core

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

// Namespace is the row of namespaces. A deleted one turns Terminating and stays until its controller has emptied it and
// taken the "kubernetes" finalizer out of spec.finalizers through the finalize subresource.
func Namespace() registry.Resource {
	status := registry.Strategy{
		PrepareForUpdate: registry.PrepareUpdate(func(ns, old *corev1.Namespace) { ns.Spec = old.Spec }),
		ValidateUpdate:   registry.ValidateUpdate(validateNamespaceStatusUpdate),
	}
	finalize := registry.Strategy{
		PrepareForUpdate: registry.PrepareUpdate(func(ns, old *corev1.Namespace) { ns.Status = old.Status }),
		ValidateUpdate:   registry.ValidateUpdate(validateNamespaceFinalize),
		Held:             namespaceHeld,
	}
	return registry.Resource{
		GVK: corev1.SchemeGroupVersion.WithKind("Namespace"), Name: "namespaces", Singular: "namespace", ShortNames: []string{"ns"},
		Verbs:   []string{"create", "delete", "get", "list", "patch", "update", "watch"},
		Default: registry.Defaulter(defaultNamespace),
		Strategy: registry.Strategy{
			PrepareForCreate: registry.Prepare(prepareNamespace),
			PrepareForUpdate: registry.PrepareUpdate(func(ns, old *corev1.Namespace) {
				ns.Spec.Finalizers = old.Spec.Finalizers
				ns.Status = old.Status
			}),
			Validate: registry.Validate(func(ns *corev1.Namespace) field.ErrorList {
				errs := apivalidation.ValidateObjectMeta(&ns.ObjectMeta, false, apivalidation.ValidateNamespaceName, field.NewPath("metadata"))
				return append(errs, validateNamespaceFinalizers(ns)...)
			}),
			ValidateUpdate: registry.ValidateUpdate(func(ns, old *corev1.Namespace) field.ErrorList {
				return apivalidation.ValidateObjectMetaUpdate(&ns.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
			}),
			PrepareForDelete: func(_ context.Context, o store.Object) {
				o.(*corev1.Namespace).Status.Phase = corev1.NamespaceTerminating
			},
			Held:                namespaceHeld,
			UnconditionalUpdate: true,
		},
		Fields: registry.Select(func(ns *corev1.Namespace) fields.Set {
			return fields.Set{"status.phase": string(ns.Status.Phase), "name": ns.Name}
		}),
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(), registry.Column("Status", "The status of the namespace"), registry.AgeColumn(),
			},
			Cells: registry.Cells(func(ns *corev1.Namespace) []any {
				return []any{ns.Name, string(ns.Status.Phase), registry.Age(ns.CreationTimestamp)}
			}),
		},
		Status:       &status,
		Subresources: []registry.Subresource{{Name: "finalize", Kind: corev1.SchemeGroupVersion.WithKind("Namespace"), Verbs: []string{"update"}, Strategy: &finalize}},
	}
}

// defaultNamespace labels a namespace with its own name, so that selectors can name it (KEP-2161).
func defaultNamespace(ns *corev1.Namespace) {
	if ns.Name != "" {
		if ns.Labels == nil {
			ns.Labels = map[string]string{}
		}
		ns.Labels[corev1.LabelMetadataName] = ns.Name
	}
	if ns.Status.Phase == "" {
		ns.Status.Phase = corev1.NamespaceActive
	}
}

func prepareNamespace(ns *corev1.Namespace) {
	ns.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	defaultNamespace(ns) // a generated name is known only now
	for _, f := range ns.Spec.Finalizers {
		if f == corev1.FinalizerKubernetes {
			return
		}
	}
	ns.Spec.Finalizers = append(ns.Spec.Finalizers, corev1.FinalizerKubernetes)
}

func namespaceHeld(o store.Object) bool { return len(o.(*corev1.Namespace).Spec.Finalizers) > 0 }

func validateNamespaceFinalizers(ns *corev1.Namespace) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec", "finalizers")
	for i, f := range ns.Spec.Finalizers {
		for _, msg := range validation.IsQualifiedName(string(f)) {
			errs = append(errs, field.Invalid(path.Index(i), string(f), msg))
		}
		standard := f == corev1.FinalizerKubernetes || f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents
		if !standard && !strings.Contains(string(f), "/") {
			errs = append(errs, field.Invalid(path.Index(i), string(f), "name is neither a standard finalizer name nor is it fully qualified"))
		}
	}
	return errs
}

func validateNamespaceFinalize(ns, old *corev1.Namespace) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&ns.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	return append(errs, validateNamespaceFinalizers(ns)...)
}

func validateNamespaceStatusUpdate(ns, old *corev1.Namespace) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&ns.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	path := field.NewPath("status", "Phase")
	switch {
	case ns.DeletionTimestamp.IsZero() && ns.Status.Phase != corev1.NamespaceActive:
		errs = append(errs, field.Invalid(path, ns.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty"))
	case !ns.DeletionTimestamp.IsZero() && ns.Status.Phase != corev1.NamespaceTerminating:
		errs = append(errs, field.Invalid(path, ns.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty"))
	}
	return errs
}
