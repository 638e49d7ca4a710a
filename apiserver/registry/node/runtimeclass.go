package node

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/registry/core"
)

// RuntimeClass is the row of runtimeclasses.
func RuntimeClass() registry.Resource {
	return registry.Resource{
		GVK: nodev1.SchemeGroupVersion.WithKind("RuntimeClass"), Name: "runtimeclasses", Singular: "runtimeclass",
		Strategy: registry.Strategy{
			Validate: registry.Validate(validate),
			ValidateUpdate: registry.ValidateUpdate(func(rc, old *nodev1.RuntimeClass) field.ErrorList {
				errs := append(validate(rc), registry.ValidateMetaUpdate(rc, old)...)
				return append(errs, registry.Immutable(rc.Handler, old.Handler, field.NewPath("handler"))...)
			}),
			Warnings:       registry.Warn(func(rc, _ *nodev1.RuntimeClass) []string { return warnings(rc) }),
			CreateOnUpdate: true,
		},
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(), registry.Column("Handler", "The name by which nodes know it"), registry.AgeColumn(),
			},
			Cells: registry.Cells(func(rc *nodev1.RuntimeClass) []any {
				return []any{rc.Name, rc.Handler, registry.Age(rc.CreationTimestamp)}
			}),
		},
	}
}

func validate(rc *nodev1.RuntimeClass) field.ErrorList {
	errs := registry.ValidateMeta(rc, false, apivalidation.NameIsDNSSubdomain)
	path := field.NewPath("handler")
	if rc.Handler == "" {
		errs = append(errs, field.Required(path, ""))
	} else {
		errs = append(errs, registry.Invalid(path, rc.Handler, apivalidation.NameIsDNSLabel(rc.Handler, false))...)
	}
	if rc.Overhead != nil {
		errs = append(errs, core.ValidateResources(&corev1.ResourceRequirements{Limits: rc.Overhead.PodFixed}, field.NewPath("overhead"))...)
	}
	if s := rc.Scheduling; s != nil {
		path := field.NewPath("scheduling")
		errs = append(errs, metav1validation.ValidateLabels(s.NodeSelector, path.Child("nodeSelector"))...)
		errs = append(errs, validateTolerations(s.Tolerations, path.Child("tolerations"))...)
	}
	return errs
}

// validateTolerations refuses one toleration twice, as clients merge the list by its content.
func validateTolerations(tolerations []corev1.Toleration, path *field.Path) field.ErrorList {
	errs := core.ValidateTolerations(tolerations, path)
	seen := map[corev1.Toleration]bool{}
	for i, t := range tolerations {
		key := t
		key.TolerationSeconds = nil
		if seen[key] {
			errs = append(errs, field.Duplicate(path.Index(i), t))
		}
		seen[key] = true
	}
	return errs
}

func warnings(rc *nodev1.RuntimeClass) []string {
	if rc.Scheduling == nil {
		return nil
	}
	var out []string
	for label := range rc.Scheduling.NodeSelector {
		if instead := core.DeprecatedNodeLabel(label); instead != "" {
			out = append(out, fmt.Sprintf("%s: %s", field.NewPath("scheduling", "nodeSelector"), instead))
		}
	}
	slices.Sort(out)
	return out
}
