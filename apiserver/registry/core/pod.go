package core

import (
	"context"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

// Pod is the row of pods.
func Pod(deps registry.Deps) registry.Resource {
	status := registry.Strategy{
		PrepareForUpdate: registry.PrepareUpdate(func(pod, old *corev1.Pod) {
			pod.Spec = old.Spec
			pod.Status.QOSClass = old.Status.QOSClass
			pod.OwnerReferences = old.OwnerReferences
		}),
		ValidateUpdate: registry.ValidateUpdate(validatePodStatusUpdate),
	}
	ephemeral := registry.Strategy{
		PrepareForUpdate: registry.PrepareUpdate(func(pod, old *corev1.Pod) {
			containers := pod.Spec.EphemeralContainers
			meta := pod.ObjectMeta
			*pod = *old.DeepCopy()
			pod.Spec.EphemeralContainers = containers
			pod.ResourceVersion, pod.ManagedFields = meta.ResourceVersion, meta.ManagedFields
			bumpPodGeneration(pod, old)
		}),
		ValidateUpdate: registry.ValidateUpdate(validatePodEphemeralContainersUpdate),
	}
	resize := registry.Strategy{
		PrepareForUpdate: registry.PrepareUpdate(prepareResize),
		ValidateUpdate:   registry.ValidateUpdate(validatePodResize),
	}
	pods := podActions{deps}
	v1 := corev1.SchemeGroupVersion
	pod := v1.WithKind("Pod")
	return registry.Resource{
		GVK: pod, Name: "pods", Singular: "pod", ShortNames: []string{"po"}, Categories: []string{"all"}, Namespaced: true,
		Default: registry.Defaulter(defaultPod),
		Strategy: registry.Strategy{
			PrepareForCreate: registry.Prepare(preparePod),
			PrepareForUpdate: registry.PrepareUpdate(func(pod, old *corev1.Pod) {
				pod.Status = old.Status
				bumpPodGeneration(pod, old)
			}),
			Validate:       registry.Validate(validatePod),
			ValidateUpdate: registry.ValidateUpdate(validatePodUpdate),
			Warnings: registry.Warn(func(pod, old *corev1.Pod) []string {
				if old != nil {
					return nil // little of a pod changes, and nothing of it for the better
				}
				return podSpecWarnings(&pod.Spec, field.NewPath("spec"))
			}),
			GracePeriod: func(o store.Object, opts *metav1.DeleteOptions) int64 {
				return graceful(o.(*corev1.Pod), opts)
			},
			ReturnDeleted:       true,
			UnconditionalUpdate: true,
		},
		Fields: registry.Select(podFields),
		Table:  registry.Table{Columns: podColumns(), Cells: registry.Cells(podCells)},
		Status: &status,
		Subresources: []registry.Subresource{
			{Name: "attach", Kind: v1.WithKind("PodAttachOptions"), Verbs: []string{"create", "get"}},
			{
				Name: "binding", Kind: v1.WithKind("Binding"), Verbs: []string{"create"},
				Change: func(_ context.Context, parent store.Object, body runtime.Object) error {
					return bind(parent.(*corev1.Pod), body.(*corev1.Binding))
				},
			},
			{Name: "eviction", Kind: policyv1.SchemeGroupVersion.WithKind("Eviction"), Verbs: []string{"create"}, Evict: pods.evict},
			{Name: "exec", Kind: v1.WithKind("PodExecOptions"), Verbs: []string{"create", "get"}},
			{Name: "log", Kind: pod, Verbs: []string{"get"}},
			{Name: "portforward", Kind: v1.WithKind("PodPortForwardOptions"), Verbs: []string{"create", "get"}},
			{Name: "proxy", Kind: v1.WithKind("PodProxyOptions"), Verbs: []string{"create", "delete", "get", "patch", "update"}},
			{Name: "ephemeralcontainers", Kind: pod, Verbs: []string{"get", "patch", "update"}, Strategy: &ephemeral},
			{Name: "resize", Kind: pod, Verbs: []string{"get", "patch", "update"}, Strategy: &resize},
		},
	}
}

// Binding is the row of bindings, the older address of pods/binding.
func Binding(deps registry.Deps) registry.Resource {
	pods := podActions{deps}
	return registry.Resource{
		GVK: corev1.SchemeGroupVersion.WithKind("Binding"), Name: "bindings", Singular: "binding", Namespaced: true, Verbs: []string{"create"},
		Create: func(ctx context.Context, o store.Object, dryRun bool) (runtime.Object, error) {
			b := o.(*corev1.Binding)
			err := pods.mutate(ctx, b.Namespace, b.Name, dryRun, func(pod *corev1.Pod) error { return bind(pod, b) })
			return &metav1.Status{Status: metav1.StatusSuccess}, err
		},
	}
}

func preparePod(pod *corev1.Pod) {
	pod.Generation = 1
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: qosClass(pod)}
	if len(pod.Spec.SchedulingGates) > 0 {
		pod.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		}}
	}
	mergeMatchLabelKeys(pod)
}

// bumpPodGeneration counts changes of the spec (KEP-5067). A pod from before the count began starts it with its first change.
func bumpPodGeneration(pod, old *corev1.Pod) {
	pod.Generation = old.Generation
	if !apiequality.Semantic.DeepEqual(pod.Spec, old.Spec) {
		pod.Generation++
	}
}

// mergeMatchLabelKeys turns the label keys of pod affinity terms into requirements with the pod's own values, as the
// scheduler only reads selectors (KEP-3633).
func mergeMatchLabelKeys(pod *corev1.Pod) {
	a := pod.Spec.Affinity
	if a == nil {
		return
	}
	merge := func(t *corev1.PodAffinityTerm) {
		add := func(keys []string, op metav1.LabelSelectorOperator) {
			for _, key := range keys {
				if value, ok := pod.Labels[key]; ok && t.LabelSelector != nil {
					t.LabelSelector.MatchExpressions = append(t.LabelSelector.MatchExpressions,
						metav1.LabelSelectorRequirement{Key: key, Operator: op, Values: []string{value}})
				}
			}
		}
		add(t.MatchLabelKeys, metav1.LabelSelectorOpIn)
		add(t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
	}
	terms := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		for i := range required {
			merge(&required[i])
		}
		for i := range preferred {
			merge(&preferred[i].PodAffinityTerm)
		}
	}
	if p := a.PodAffinity; p != nil {
		terms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		terms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

// prepareResize lets only the containers' (and the pod's) resources and resize policies through.
func prepareResize(pod, old *corev1.Pod) {
	wanted := pod.Spec
	meta := pod.ObjectMeta
	*pod = *old.DeepCopy()
	pod.ResourceVersion, pod.ManagedFields = meta.ResourceVersion, meta.ManagedFields
	copyResources := func(to, from []corev1.Container) {
		byName := make(map[string]*corev1.Container, len(from))
		for i := range from {
			byName[from[i].Name] = &from[i]
		}
		for i := range to {
			if c := byName[to[i].Name]; c != nil {
				to[i].Resources, to[i].ResizePolicy = c.Resources, c.ResizePolicy
			}
		}
	}
	copyResources(pod.Spec.Containers, wanted.Containers)
	copyResources(pod.Spec.InitContainers, wanted.InitContainers)
	if wanted.Resources != nil && pod.Spec.Resources != nil {
		pod.Spec.Resources = wanted.Resources
	}
	bumpPodGeneration(pod, old)
}

func podFields(pod *corev1.Pod) fields.Set {
	return fields.Set{
		"spec.nodeName":            pod.Spec.NodeName,
		"spec.restartPolicy":       string(pod.Spec.RestartPolicy),
		"spec.schedulerName":       pod.Spec.SchedulerName,
		"spec.serviceAccountName":  pod.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(pod.Spec.HostNetwork),
		"status.phase":             string(pod.Status.Phase),
		"status.podIP":             podIP(pod),
		"status.nominatedNodeName": pod.Status.NominatedNodeName,
	}
}

// qosClass is Guaranteed when every container has equal CPU and memory requests and limits, BestEffort when none has any,
// Burstable otherwise. Resources set for the pod as a whole decide alone where they exist.
func qosClass(pod *corev1.Pod) corev1.PodQOSClass {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	guaranteed := true
	count := func(r *corev1.ResourceRequirements) {
		limited := sets.New[corev1.ResourceName]()
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			if q, ok := r.Requests[name]; ok && q.Sign() > 0 {
				addTo(requests, corev1.ResourceList{name: q})
			}
			if q, ok := r.Limits[name]; ok && q.Sign() > 0 {
				limited.Insert(name)
				addTo(limits, corev1.ResourceList{name: q})
			}
		}
		guaranteed = guaranteed && limited.Len() == 2
	}
	if pod.Spec.Resources != nil && len(pod.Spec.Resources.Limits)+len(pod.Spec.Resources.Requests) > 0 {
		count(pod.Spec.Resources)
	} else {
		for i := range pod.Spec.InitContainers {
			count(&pod.Spec.InitContainers[i].Resources)
		}
		for i := range pod.Spec.Containers {
			count(&pod.Spec.Containers[i].Resources)
		}
	}
	if len(requests) == 0 && len(limits) == 0 {
		return corev1.PodQOSBestEffort
	}
	if !guaranteed || len(requests) != len(limits) {
		return corev1.PodQOSBurstable
	}
	for name, q := range requests {
		if limit, ok := limits[name]; !ok || limit.Cmp(q) != 0 {
			return corev1.PodQOSBurstable
		}
	}
	return corev1.PodQOSGuaranteed
}
