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

// StatefulSet is the row of statefulsets.
func StatefulSet() registry.Resource {
	main, status := registry.SpecStatus(func(s *appsv1.StatefulSet) (*appsv1.StatefulSetSpec, *appsv1.StatefulSetStatus) {
		return &s.Spec, &s.Status
	})
	main.Validate = registry.Validate(func(s *appsv1.StatefulSet) field.ErrorList {
		errs := apivalidation.ValidateObjectMeta(&s.ObjectMeta, true, apivalidation.NameIsDNSLabel, field.NewPath("metadata"))
		errs = append(errs, validateStatefulSetSpec(&s.Spec, field.NewPath("spec"))...)
		if n := s.Spec.ServiceName; n != "" {
			for _, msg := range validation.IsDNS1123Label(n) {
				errs = append(errs, field.Invalid(field.NewPath("spec", "serviceName"), n, msg))
			}
		}
		for i := range s.Spec.VolumeClaimTemplates {
			errs = append(errs, core.ValidateClaimSpec(&s.Spec.VolumeClaimTemplates[i].Spec, field.NewPath("spec", "volumeClaimTemplates").Index(i).Child("spec"))...)
		}
		return errs
	})
	main.ValidateUpdate = registry.ValidateUpdate(validateStatefulSetUpdate)
	template := core.TemplateWarnings(field.NewPath("spec", "template"), func(s *appsv1.StatefulSet) *corev1.PodTemplateSpec { return &s.Spec.Template })
	main.Warnings = registry.Warnings(template, registry.Warn(func(s, _ *appsv1.StatefulSet) []string {
		var warnings []string
		for i := range s.Spec.VolumeClaimTemplates {
			warnings = append(warnings, core.ClaimWarnings(&s.Spec.VolumeClaimTemplates[i].Spec, field.NewPath("spec", "volumeClaimTemplates").Index(i))...)
		}
		if n := s.Spec.RevisionHistoryLimit; n != nil && *n < 0 {
			warnings = append(warnings, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
		}
		return warnings
	}))
	status.ValidateUpdate = registry.ValidateUpdate(validateStatefulSetStatusUpdate)
	return registry.Resource{
		GVK: appsv1.SchemeGroupVersion.WithKind("StatefulSet"), Name: "statefulsets", Singular: "statefulset",
		ShortNames: []string{"sts"}, Categories: []string{"all"}, Namespaced: true,
		Default:  registry.Defaulter(defaultStatefulSet),
		Strategy: main,
		Table: registry.Table{
			Columns: append([]metav1.TableColumnDefinition{
				registry.NameColumn(), registry.Column("Ready", "How many pods are ready, of how many wanted"), registry.AgeColumn(),
			}, core.TemplateColumns()...),
			Cells: registry.Cells(func(s *appsv1.StatefulSet) []any {
				names, images := core.ContainerCells(s.Spec.Template.Spec.Containers)
				return []any{s.Name, fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, count(s.Spec.Replicas)), registry.Age(s.CreationTimestamp), names, images}
			}),
		},
		Status: &status,
		Scale: &registry.Scale{
			Get: func(o store.Object) (int32, int32, string) {
				s := o.(*appsv1.StatefulSet)
				return count(s.Spec.Replicas), s.Status.Replicas, selectorString(s.Spec.Selector)
			},
			Set: func(o store.Object, n int32) { o.(*appsv1.StatefulSet).Spec.Replicas = &n },
		},
	}
}

func defaultStatefulSet(s *appsv1.StatefulSet) {
	spec := &s.Spec
	if spec.PodManagementPolicy == "" {
		spec.PodManagementPolicy = appsv1.OrderedReadyPodManagement
	}
	update := &spec.UpdateStrategy
	if update.Type == "" {
		update.Type = appsv1.RollingUpdateStatefulSetStrategyType
		if update.RollingUpdate == nil {
			update.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{}
		}
	}
	if r := update.RollingUpdate; r != nil && update.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		if r.Partition == nil {
			r.Partition = ptr(int32(0))
		}
		if r.MaxUnavailable == nil {
			r.MaxUnavailable = ptr(intstr.FromInt32(1))
		}
	}
	if spec.PersistentVolumeClaimRetentionPolicy == nil {
		spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{}
	}
	for _, when := range []*appsv1.PersistentVolumeClaimRetentionPolicyType{
		&spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted, &spec.PersistentVolumeClaimRetentionPolicy.WhenScaled,
	} {
		if *when == "" {
			*when = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
		}
	}
	if spec.Replicas == nil {
		spec.Replicas = ptr(int32(1))
	}
	if spec.RevisionHistoryLimit == nil {
		spec.RevisionHistoryLimit = ptr(int32(10))
	}
	for i := range spec.VolumeClaimTemplates {
		c := &spec.VolumeClaimTemplates[i]
		c.APIVersion, c.Kind = "v1", "PersistentVolumeClaim"
		core.DefaultPersistentVolumeClaim(c)
	}
	core.DefaultPodTemplate(&spec.Template)
}

func validateStatefulSetSpec(spec *appsv1.StatefulSetSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch p := spec.PodManagementPolicy; p {
	case "":
		errs = append(errs, field.Required(path.Child("podManagementPolicy"), ""))
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	default:
		errs = append(errs, field.Invalid(path.Child("podManagementPolicy"), p,
			fmt.Sprintf("must be '%s' or '%s'", appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement)))
	}
	errs = append(errs, validateStatefulSetStrategy(&spec.UpdateStrategy, path.Child("updateStrategy"))...)
	if p := spec.PersistentVolumeClaimRetentionPolicy; p != nil {
		at := path.Child("persistentVolumeClaimRetentionPolicy")
		errs = append(errs, validateRetention(p.WhenDeleted, at.Child("whenDeleted"))...)
		errs = append(errs, validateRetention(p.WhenScaled, at.Child("whenScaled"))...)
	}
	errs = append(errs, nonNegative(count(spec.Replicas), path.Child("replicas"))...)
	errs = append(errs, nonNegative(spec.MinReadySeconds, path.Child("minReadySeconds"))...)
	if spec.Ordinals != nil {
		errs = append(errs, nonNegative(spec.Ordinals.Start, path.Child("ordinals.start"))...)
	}
	selector, invalid := core.ValidateSelector(spec.Selector, path.Child("selector"))
	errs = append(errs, invalid...)
	if s := spec.Selector; s != nil && len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path.Child("selector"), s, "empty selector is invalid for statefulset"))
	}
	if selector != nil {
		errs = append(errs, core.ValidateRunningTemplate(templateOfStatefulSet(spec), selector, "StatefulSet", path.Child("template"))...)
	}
	return errs
}

// templateOfStatefulSet is the pod template as pods get it: with the volumes of the claim templates, and without a hostname and
// subdomain of its own, which the controller sets.
func templateOfStatefulSet(spec *appsv1.StatefulSetSpec) *corev1.PodTemplateSpec {
	t := spec.Template // the spec is copied, what it points to is not
	t.Spec.Hostname, t.Spec.Subdomain = "", ""
	if len(spec.VolumeClaimTemplates) == 0 {
		return &t
	}
	claimed := map[string]bool{}
	t.Spec.Volumes = nil
	for i := range spec.VolumeClaimTemplates {
		name := spec.VolumeClaimTemplates[i].Name
		if claimed[name] {
			continue
		}
		claimed[name] = true
		t.Spec.Volumes = append(t.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
		}})
	}
	for _, v := range spec.Template.Spec.Volumes {
		if !claimed[v.Name] {
			t.Spec.Volumes = append(t.Spec.Volumes, v)
		}
	}
	return &t
}

func validateRetention(p appsv1.PersistentVolumeClaimRetentionPolicyType, path *field.Path) field.ErrorList {
	switch p {
	case appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType:
		return nil
	}
	return field.ErrorList{field.NotSupported(path, p, []appsv1.PersistentVolumeClaimRetentionPolicyType{
		appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType,
	})}
}

func validateStatefulSetStrategy(s *appsv1.StatefulSetUpdateStrategy, path *field.Path) field.ErrorList {
	rolling := path.Child("rollingUpdate")
	switch s.Type {
	case "":
		return field.ErrorList{field.Required(path, "")}
	case appsv1.OnDeleteStatefulSetStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Invalid(rolling, s.RollingUpdate,
				fmt.Sprintf("only allowed for updateStrategy '%s'", appsv1.RollingUpdateStatefulSetStrategyType))}
		}
		return nil
	case appsv1.RollingUpdateStatefulSetStrategyType:
		if s.RollingUpdate == nil {
			return nil
		}
		errs := nonNegative(count(s.RollingUpdate.Partition), rolling.Child("partition"))
		if m := s.RollingUpdate.MaxUnavailable; m != nil {
			at := rolling.Child("maxUnavailable")
			errs = append(errs, positiveIntOrPercent(*m, at)...)
			if amount(*m) == 0 {
				errs = append(errs, field.Invalid(at, *m, "cannot be 0"))
			}
			errs = append(errs, notMoreThanAll(*m, at)...)
		}
		return errs
	}
	return field.ErrorList{field.Invalid(path, s, fmt.Sprintf("must be '%s' or '%s'",
		appsv1.RollingUpdateStatefulSetStrategyType, appsv1.OnDeleteStatefulSetStrategyType))}
}

// validateStatefulSetUpdate lets only that change which a running set can follow.
func validateStatefulSetUpdate(s, old *appsv1.StatefulSet) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&s.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	if apiequality.Semantic.DeepEqual(s.Spec, old.Spec) {
		return errs // what another server accepted must not keep labels and finalizers from changing
	}
	errs = append(errs, validateStatefulSetSpec(&s.Spec, field.NewPath("spec"))...)
	fixed := s.Spec
	fixed.Replicas, fixed.Template, fixed.UpdateStrategy = old.Spec.Replicas, old.Spec.Template, old.Spec.UpdateStrategy
	fixed.MinReadySeconds, fixed.Ordinals = old.Spec.MinReadySeconds, old.Spec.Ordinals
	fixed.RevisionHistoryLimit = old.Spec.RevisionHistoryLimit
	fixed.PersistentVolumeClaimRetentionPolicy = old.Spec.PersistentVolumeClaimRetentionPolicy
	if !apiequality.Semantic.DeepEqual(fixed, old.Spec) {
		errs = append(errs, field.Forbidden(field.NewPath("spec"), "updates to statefulset spec for fields other than 'replicas', 'ordinals', "+
			"'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"))
	}
	return errs
}

func validateStatefulSetStatusUpdate(set, old *appsv1.StatefulSet) field.ErrorList {
	s, path := &set.Status, field.NewPath("status")
	errs := nonNegative(s.Replicas, path.Child("replicas"))
	errs = append(errs, apivalidation.ValidateNonnegativeField(s.ObservedGeneration, path.Child("observedGeneration"))...)
	for _, part := range []struct {
		name string
		n    int32
	}{
		{"readyReplicas", s.ReadyReplicas}, {"currentReplicas", s.CurrentReplicas},
		{"updatedReplicas", s.UpdatedReplicas}, {"availableReplicas", s.AvailableReplicas},
	} {
		errs = append(errs, nonNegative(part.n, path.Child(part.name))...)
		errs = append(errs, notAbove(part.n, s.Replicas, path.Child(part.name), "cannot be greater than status.replicas")...)
	}
	errs = append(errs, notAbove(s.AvailableReplicas, s.ReadyReplicas, path.Child("availableReplicas"), "cannot be greater than status.readyReplicas")...)
	errs = append(errs, validateCollisions(s.CollisionCount, old.Status.CollisionCount, path.Child("collisionCount"))...)
	return append(errs, apivalidation.ValidateObjectMetaUpdate(&set.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))...)
}

// validateCollisions: the count by which a controller finds a name for a new revision never falls.
func validateCollisions(n, old *int32, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n != nil {
		errs = nonNegative(*n, path)
	}
	if old != nil && (n == nil || *n < *old) {
		errs = append(errs, field.Invalid(path, count(n), "cannot be decremented"))
	}
	return errs
}

func notMoreThanAll(v intstr.IntOrString, path *field.Path) field.ErrorList {
	if v.Type == intstr.String && amount(v) > 100 {
		return field.ErrorList{field.Invalid(path, v, "must not be greater than 100%")}
	}
	return nil
}
