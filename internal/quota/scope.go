package quota

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// InScope says whether all scopes of the quota hold for the object.
func InScope(spec *corev1.ResourceQuotaSpec, obj any) bool {
	for _, scope := range spec.Scopes {
		if !holds(corev1.ScopedResourceSelectorRequirement{ScopeName: scope, Operator: corev1.ScopeSelectorOpExists}, obj) {
			return false
		}
	}
	if spec.ScopeSelector != nil {
		for _, r := range spec.ScopeSelector.MatchExpressions {
			if !holds(r, obj) {
				return false
			}
		}
	}
	return true
}

// holds evaluates one scope; those that are not about an object's kind never hold.
func holds(r corev1.ScopedResourceSelectorRequirement, obj any) bool {
	switch o := obj.(type) {
	case *corev1.Pod:
		switch r.ScopeName {
		case corev1.ResourceQuotaScopeTerminating:
			return ends(o)
		case corev1.ResourceQuotaScopeNotTerminating:
			return !ends(o)
		case corev1.ResourceQuotaScopeBestEffort:
			return bestEffort(o)
		case corev1.ResourceQuotaScopeNotBestEffort:
			return !bestEffort(o)
		case corev1.ResourceQuotaScopePriorityClass:
			return selects(r, one(o.Spec.PriorityClassName))
		case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
			return crossesNamespaces(o.Spec.Affinity)
		}
	case *corev1.PersistentVolumeClaim:
		if r.ScopeName == corev1.ResourceQuotaScopeVolumeAttributesClass {
			return selects(r, attributesClasses(o))
		}
	}
	return false
}

// one is a list of the name, or of nothing.
func one(name string) []string {
	if name == "" {
		return nil
	}
	return []string{name}
}

// selects says whether the requirement holds for any of the names, or for there being none.
func selects(r corev1.ScopedResourceSelectorRequirement, names []string) bool {
	switch r.Operator {
	case corev1.ScopeSelectorOpExists:
		return len(names) > 0
	case corev1.ScopeSelectorOpDoesNotExist:
		return len(names) == 0
	case corev1.ScopeSelectorOpIn:
		return slices.ContainsFunc(names, func(n string) bool { return slices.Contains(r.Values, n) })
	case corev1.ScopeSelectorOpNotIn:
		return len(names) == 0 || slices.ContainsFunc(names, func(n string) bool { return !slices.Contains(r.Values, n) })
	}
	return false
}

func ends(pod *corev1.Pod) bool {
	return pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
}

func bestEffort(pod *corev1.Pod) bool {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass == corev1.PodQOSBestEffort
	}
	asks := func(r *corev1.ResourceRequirements) bool {
		return r != nil && (r.Requests.Cpu().Sign() > 0 || r.Requests.Memory().Sign() > 0 || r.Limits.Cpu().Sign() > 0 || r.Limits.Memory().Sign() > 0)
	}
	any := func(c corev1.Container) bool { return asks(&c.Resources) }
	return !asks(pod.Spec.Resources) && !slices.ContainsFunc(pod.Spec.Containers, any) && !slices.ContainsFunc(pod.Spec.InitContainers, any)
}

func crossesNamespaces(a *corev1.Affinity) bool {
	if a == nil {
		return false
	}
	crosses := func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil }
	prefers := func(t corev1.WeightedPodAffinityTerm) bool { return crosses(t.PodAffinityTerm) }
	if p := a.PodAffinity; p != nil && (slices.ContainsFunc(p.RequiredDuringSchedulingIgnoredDuringExecution, crosses) ||
		slices.ContainsFunc(p.PreferredDuringSchedulingIgnoredDuringExecution, prefers)) {
		return true
	}
	p := a.PodAntiAffinity
	return p != nil && (slices.ContainsFunc(p.RequiredDuringSchedulingIgnoredDuringExecution, crosses) ||
		slices.ContainsFunc(p.PreferredDuringSchedulingIgnoredDuringExecution, prefers))
}

// attributesClasses are the VolumeAttributesClasses a claim has, wants, and is being moved to.
func attributesClasses(claim *corev1.PersistentVolumeClaim) []string {
	var classes []string
	if name := claim.Spec.VolumeAttributesClassName; name != nil {
		classes = append(classes, one(*name)...)
	}
	if name := claim.Status.CurrentVolumeAttributesClassName; name != nil {
		classes = append(classes, one(*name)...)
	}
	if m := claim.Status.ModifyVolumeStatus; m != nil {
		classes = append(classes, one(m.TargetVolumeAttributesClassName)...)
	}
	return classes
}

// Relevant are the names of hard under which objects of the resource count.
func Relevant(gr schema.GroupResource, hard corev1.ResourceList) []corev1.ResourceName {
	var relevant []corev1.ResourceName
	for _, name := range names(hard) {
		if about(gr, name) {
			relevant = append(relevant, name)
		}
	}
	return relevant
}
