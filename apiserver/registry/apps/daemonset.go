package apps

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/registry/core"
)

// DaemonSet is the row of daemonsets.
func DaemonSet() registry.Resource {
	main, status := registry.SpecStatus(func(d *appsv1.DaemonSet) (*appsv1.DaemonSetSpec, *appsv1.DaemonSetStatus) {
		return &d.Spec, &d.Status
	})
	main.Validate = registry.Validate(func(d *appsv1.DaemonSet) field.ErrorList {
		errs := apivalidation.ValidateObjectMeta(&d.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
		return append(errs, validateDaemonSetSpec(&d.Spec, field.NewPath("spec"))...)
	})
	main.ValidateUpdate = registry.ValidateUpdate(func(d, old *appsv1.DaemonSet) field.ErrorList {
		errs := apivalidation.ValidateObjectMetaUpdate(&d.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
		if apiequality.Semantic.DeepEqual(d.Spec, old.Spec) {
			return errs // what another server accepted must not keep labels and finalizers from changing
		}
		errs = append(errs, apivalidation.ValidateImmutableField(d.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))...)
		return append(errs, validateDaemonSetSpec(&d.Spec, field.NewPath("spec"))...)
	})
	main.PrepareForCreate = registry.Then(main.PrepareForCreate, func(d *appsv1.DaemonSet) {
		setTemplateGeneration(d, max(1, templateGeneration(d)))
	})
	main.PrepareForUpdate = registry.ThenUpdate(main.PrepareForUpdate, func(d, old *appsv1.DaemonSet) {
		n := templateGeneration(old)
		if !apiequality.Semantic.DeepEqual(d.Spec.Template, old.Spec.Template) {
			n++
		}
		setTemplateGeneration(d, n)
	})
	main.Warnings = core.TemplateWarnings(field.NewPath("spec", "template"), func(d *appsv1.DaemonSet) *corev1.PodTemplateSpec { return &d.Spec.Template })
	status.ValidateUpdate = registry.ValidateUpdate(validateDaemonSetStatusUpdate)
	return registry.Resource{
		GVK: appsv1.SchemeGroupVersion.WithKind("DaemonSet"), Name: "daemonsets", Singular: "daemonset",
		ShortNames: []string{"ds"}, Categories: []string{"all"}, Namespaced: true,
		Default:  registry.Defaulter(defaultDaemonSet),
		Strategy: main,
		Table: registry.Table{
			Columns: append(append([]metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Number("Desired", "How many nodes shall run the pod"),
				registry.Number("Current", "How many of them run it"),
				registry.Number("Ready", "How many of these pods are ready"),
				registry.Number("Up-to-date", "How many have the current template"),
				registry.Number("Available", "How many have been ready for long enough"),
				registry.Column("Node Selector", "The labels of the nodes that shall run the pod"),
				registry.AgeColumn(),
			}, core.TemplateColumns()...), registry.Wide(registry.Column("Selector", "The labels of the set's pods"))),
			Cells: registry.Cells(func(d *appsv1.DaemonSet) []any {
				names, images := core.ContainerCells(d.Spec.Template.Spec.Containers)
				s := &d.Status
				return []any{
					d.Name, int64(s.DesiredNumberScheduled), int64(s.CurrentNumberScheduled), int64(s.NumberReady), int64(s.UpdatedNumberScheduled),
					int64(s.NumberAvailable), core.FormatLabels(d.Spec.Template.Spec.NodeSelector), registry.Age(d.CreationTimestamp),
					names, images, selectorCell(d.Spec.Selector),
				}
			}),
		},
		Status: &status,
	}
}

func defaultDaemonSet(d *appsv1.DaemonSet) {
	update := &d.Spec.UpdateStrategy
	if update.Type == "" {
		update.Type = appsv1.RollingUpdateDaemonSetStrategyType
	}
	if update.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		if update.RollingUpdate == nil {
			update.RollingUpdate = &appsv1.RollingUpdateDaemonSet{}
		}
		if r := update.RollingUpdate; r.MaxUnavailable == nil {
			r.MaxUnavailable = ptr(intstr.FromInt32(1))
		}
		if r := update.RollingUpdate; r.MaxSurge == nil {
			r.MaxSurge = ptr(intstr.FromInt32(0))
		}
	} else if r := update.RollingUpdate; r != nil { // it has no effect, but upstream shows it whole
		if r.MaxUnavailable == nil {
			r.MaxUnavailable = ptr(intstr.FromInt32(0))
		}
		if r.MaxSurge == nil {
			r.MaxSurge = ptr(intstr.FromInt32(0))
		}
	}
	if d.Spec.RevisionHistoryLimit == nil {
		d.Spec.RevisionHistoryLimit = ptr(int32(10))
	}
	core.DefaultPodTemplate(&d.Spec.Template)
}

// templateGeneration is the older count of a set's templates. It is no field of apps/v1 any more; it lives on in an annotation,
// which clients do not own.
func templateGeneration(d *appsv1.DaemonSet) int64 {
	n, err := strconv.ParseInt(d.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func setTemplateGeneration(d *appsv1.DaemonSet, n int64) {
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(n, 10)
}

func validateDaemonSetSpec(spec *appsv1.DaemonSetSpec, path *field.Path) field.ErrorList {
	selector, errs := core.ValidateSelector(spec.Selector, path.Child("selector"))
	if s := spec.Selector; s != nil && len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path.Child("selector"), s, "empty selector is invalid for daemonset"))
	}
	if selector != nil {
		errs = append(errs, core.ValidateRunningTemplate(&spec.Template, selector, "DaemonSet", path.Child("template"))...)
	}
	errs = append(errs, nonNegative(spec.MinReadySeconds, path.Child("minReadySeconds"))...)
	errs = append(errs, validateDaemonSetStrategy(&spec.UpdateStrategy, path.Child("updateStrategy"))...)
	if spec.RevisionHistoryLimit != nil {
		errs = append(errs, nonNegative(*spec.RevisionHistoryLimit, path.Child("revisionHistoryLimit"))...)
	}
	return errs
}

func validateDaemonSetStrategy(s *appsv1.DaemonSetUpdateStrategy, path *field.Path) field.ErrorList {
	switch s.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
		return nil
	case appsv1.RollingUpdateDaemonSetStrategyType:
	default:
		return field.ErrorList{field.NotSupported(path, s, []string{
			string(appsv1.RollingUpdateDaemonSetStrategyType), string(appsv1.OnDeleteDaemonSetStrategyType),
		})}
	}
	at := path.Child("rollingUpdate")
	if s.RollingUpdate == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	unavailable, surge := deref(s.RollingUpdate.MaxUnavailable), deref(s.RollingUpdate.MaxSurge)
	errs := positiveIntOrPercent(unavailable, at.Child("maxUnavailable"))
	errs = append(errs, positiveIntOrPercent(surge, at.Child("maxSurge"))...)
	errs = append(errs, notMoreThanAll(unavailable, at.Child("maxUnavailable"))...)
	errs = append(errs, notMoreThanAll(surge, at.Child("maxSurge"))...)
	switch hasUnavailable, hasSurge := amount(unavailable) != 0, amount(surge) != 0; {
	case hasUnavailable && hasSurge:
		errs = append(errs, field.Invalid(at.Child("maxSurge"), surge, "may not be set when maxUnavailable is non-zero"))
	case !hasUnavailable && !hasSurge:
		errs = append(errs, field.Required(at.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0"))
	}
	return errs
}

func validateDaemonSetStatusUpdate(d, old *appsv1.DaemonSet) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&d.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	s, path := &d.Status, field.NewPath("status")
	for _, part := range []struct {
		name string
		n    int32
	}{
		{"currentNumberScheduled", s.CurrentNumberScheduled}, {"numberMisscheduled", s.NumberMisscheduled},
		{"desiredNumberScheduled", s.DesiredNumberScheduled}, {"numberReady", s.NumberReady},
		{"updatedNumberScheduled", s.UpdatedNumberScheduled}, {"numberAvailable", s.NumberAvailable}, {"numberUnavailable", s.NumberUnavailable},
	} {
		errs = append(errs, nonNegative(part.n, path.Child(part.name))...)
	}
	errs = append(errs, apivalidation.ValidateNonnegativeField(s.ObservedGeneration, path.Child("observedGeneration"))...)
	return append(errs, validateCollisions(s.CollisionCount, old.Status.CollisionCount, path.Child("collisionCount"))...)
}
