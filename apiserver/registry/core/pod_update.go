package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// updatablePodFields are named to the user who changes any other.
var updatablePodFields = []string{
	"`spec.containers[*].image`",
	"`spec.initContainers[*].image`",
	"`spec.activeDeadlineSeconds`",
	"`spec.tolerations` (only additions to existing tolerations)",
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
}

// validatePodUpdate lets very little of a pod's spec change: what runs was started from it. A pod that scheduling gates
// still hold back may besides be narrowed to fewer nodes (KEP-3838).
func validatePodUpdate(pod, old *corev1.Pod) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&pod.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	errs = append(errs, newlyInvalid(pod, old)...)
	path := field.NewPath("spec")
	if len(pod.Spec.Containers) != len(old.Spec.Containers) {
		return append(errs, field.Forbidden(path.Child("containers"), "pod updates may not add or remove containers"))
	}
	if len(pod.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return append(errs, field.Forbidden(path.Child("initContainers"), "pod updates may not add or remove containers"))
	}
	errs = append(errs, validateDeadlineUpdate(pod.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds, path.Child("activeDeadlineSeconds"))...)
	errs = append(errs, onlyAddedTolerations(pod.Spec.Tolerations, old.Spec.Tolerations, path.Child("tolerations"))...)
	errs = append(errs, onlyRemovedGates(pod.Spec.SchedulingGates, old.Spec.SchedulingGates, path.Child("schedulingGates"))...)
	if len(errs) > 0 {
		return errs // the rest would only repeat these
	}
	was := pod.Spec.DeepCopy()
	for i := range was.Containers {
		was.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range was.InitContainers {
		was.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	was.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	was.Tolerations = old.Spec.Tolerations
	was.SchedulingGates = old.Spec.SchedulingGates
	if t := old.Spec.TerminationGracePeriodSeconds; t != nil && *t < 0 && was.TerminationGracePeriodSeconds != nil && *was.TerminationGracePeriodSeconds == 1 {
		was.TerminationGracePeriodSeconds = t
	}
	if len(old.Spec.SchedulingGates) > 0 {
		errs = append(errs, onlyNarrowed(&pod.Spec, &old.Spec, path)...)
		was.NodeSelector = old.Spec.NodeSelector
		if was.Affinity != nil || old.Spec.Affinity != nil {
			was.Affinity = withNodeAffinityOf(was.Affinity, old.Spec.Affinity)
		}
	}
	if !apiequality.Semantic.DeepEqual(*was, old.Spec) {
		errs = append(errs, field.Forbidden(path, fmt.Sprintf("pod updates may not change fields other than %s\n%v",
			strings.Join(updatablePodFields, ","), diff.Diff(old.Spec, *was))))
	}
	return errs
}

func withNodeAffinityOf(a, old *corev1.Affinity) *corev1.Affinity {
	if a == nil {
		a = &corev1.Affinity{}
	}
	a = a.DeepCopy()
	if old == nil {
		a.NodeAffinity = nil
		if *a == (corev1.Affinity{}) {
			return nil
		}
		return a
	}
	a.NodeAffinity = old.NodeAffinity
	return a
}

func validateDeadlineUpdate(now, was *int64, at *field.Path) field.ErrorList {
	switch {
	case now == nil && was != nil:
		return field.ErrorList{field.Invalid(at, now, "must not update from a positive integer to nil value")}
	case now != nil && was != nil && *now > *was:
		return field.ErrorList{field.Invalid(at, *now, "must be less than or equal to previous value")}
	}
	return nil
}

func onlyAddedTolerations(now, was []corev1.Toleration, at *field.Path) field.ErrorList {
	for _, old := range was {
		old.TolerationSeconds = nil
		if !slices.ContainsFunc(now, func(t corev1.Toleration) bool { t.TolerationSeconds = nil; return t == old }) {
			return field.ErrorList{field.Forbidden(at, "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return nil
}

func onlyRemovedGates(now, was []corev1.PodSchedulingGate, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, gate := range now {
		if !slices.Contains(was, gate) {
			errs = append(errs, field.Forbidden(at.Index(i).Child("name"), fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", gate.Name)))
		}
	}
	return errs
}

// onlyNarrowed requires that a gated pod's node selector and required node affinity select no node they did not before.
func onlyNarrowed(spec, old *corev1.PodSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for k, v := range old.NodeSelector {
		if now, ok := spec.NodeSelector[k]; !ok || now != v {
			errs = append(errs, field.Invalid(at.Child("nodeSelector"), spec.NodeSelector, "only additions are allowed, no mutations or deletions"))
			break
		}
	}
	required := func(s *corev1.PodSpec) *corev1.NodeSelector {
		if s.Affinity == nil || s.Affinity.NodeAffinity == nil {
			return nil
		}
		return s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	was, now := required(old), required(spec)
	if was == nil {
		return errs
	}
	path := at.Child("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
	if now == nil || len(now.NodeSelectorTerms) != len(was.NodeSelectorTerms) {
		var terms any
		if now != nil {
			terms = now.NodeSelectorTerms
		}
		return append(errs, field.Invalid(path, terms, "no additions/deletions to non-empty NodeSelectorTerms list are allowed"))
	}
	for i := range was.NodeSelectorTerms {
		oldTerm, term := &was.NodeSelectorTerms[i], &now.NodeSelectorTerms[i]
		if len(oldTerm.MatchExpressions)+len(oldTerm.MatchFields) == 0 {
			if len(term.MatchExpressions)+len(term.MatchFields) > 0 {
				errs = append(errs, field.Invalid(path.Index(i), term, "only additions are allowed (no mutations or deletions)"))
			}
			continue
		}
		for _, pair := range [][2][]corev1.NodeSelectorRequirement{{oldTerm.MatchExpressions, term.MatchExpressions}, {oldTerm.MatchFields, term.MatchFields}} {
			if len(pair[1]) < len(pair[0]) || !apiequality.Semantic.DeepEqual(pair[0], pair[1][:len(pair[0])]) {
				errs = append(errs, field.Invalid(path.Index(i), term, "only additions are allowed (no mutations or deletions)"))
				break
			}
		}
	}
	return errs
}

func validatePodStatusUpdate(pod, old *corev1.Pod) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&pod.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	path := field.NewPath("status")
	for i, c := range pod.Status.Conditions {
		for _, gate := range pod.Spec.ReadinessGates {
			if c.Type == gate.ConditionType {
				errs = append(errs, invalid(path.Child("conditions").Index(i).Child("type"), c.Type, validation.IsQualifiedName(string(c.Type)))...)
			}
		}
	}
	if n := pod.Status.NominatedNodeName; n != "" {
		errs = append(errs, invalid(path.Child("nominatedNodeName"), n, validation.IsDNS1123Subdomain(n))...)
	}
	if pod.Spec.NodeName != old.Spec.NodeName {
		errs = append(errs, field.Forbidden(path.Child("nodeName"), "may not be changed directly"))
	}
	regularPolicy := func(string) corev1.RestartPolicy { return pod.Spec.RestartPolicy }
	initPolicy := func(name string) corev1.RestartPolicy {
		for i := range pod.Spec.InitContainers {
			if pod.Spec.InitContainers[i].Name == name && isSidecar(&pod.Spec.InitContainers[i]) {
				return corev1.RestartPolicyAlways
			}
		}
		if pod.Spec.RestartPolicy == corev1.RestartPolicyAlways {
			return corev1.RestartPolicyAlways
		}
		return pod.Spec.RestartPolicy
	}
	errs = append(errs, staysTerminated(pod.Status.ContainerStatuses, old.Status.ContainerStatuses, regularPolicy, path.Child("containerStatuses"))...)
	errs = append(errs, staysTerminated(pod.Status.InitContainerStatuses, old.Status.InitContainerStatuses, initPolicy, path.Child("initContainerStatuses"))...)
	for i, ip := range pod.Status.PodIPs {
		errs = append(errs, validation.IsValidIPForLegacyField(path.Child("podIPs").Index(i), ip.IP, false, nil)...)
	}
	for i, ip := range pod.Status.HostIPs {
		errs = append(errs, validation.IsValidIPForLegacyField(path.Child("hostIPs").Index(i), ip.IP, false, nil)...)
	}
	if len(pod.Status.HostIPs) > 0 && pod.Status.HostIP != pod.Status.HostIPs[0].IP {
		errs = append(errs, field.Invalid(path.Child("hostIPs").Index(0).Child("ip"), pod.Status.HostIPs[0].IP, "must be equal to `hostIP`"))
	}
	return errs
}

// staysTerminated refuses a status that brings a container back which its restart policy leaves dead: such a write comes
// from somebody who has lost track.
func staysTerminated(now, was []corev1.ContainerStatus, policy func(name string) corev1.RestartPolicy, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range was {
		old := &was[i]
		restart := policy(old.Name)
		if restart == corev1.RestartPolicyAlways || old.State.Terminated == nil ||
			(restart == corev1.RestartPolicyOnFailure && old.State.Terminated.ExitCode != 0) {
			continue
		}
		for j := range now {
			if now[j].Name == old.Name && now[j].State.Terminated == nil {
				errs = append(errs, field.Forbidden(at.Index(j).Child("state"), "may not be transitioned to non-terminated state"))
			}
		}
	}
	return errs
}

// validatePodEphemeralContainersUpdate lets containers be added, never changed or removed.
func validatePodEphemeralContainersUpdate(pod, old *corev1.Pod) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&pod.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	errs = append(errs, newlyInvalid(pod, old)...)
	path := field.NewPath("spec", "ephemeralContainers")
	if mirror := old.Annotations[corev1.MirrorPodAnnotationKey]; mirror != "" {
		errs = append(errs, field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers"))
	}
	now := make(map[string]int, len(pod.Spec.EphemeralContainers))
	for i := range pod.Spec.EphemeralContainers {
		now[pod.Spec.EphemeralContainers[i].Name] = i
	}
	for i := range old.Spec.EphemeralContainers {
		was := &old.Spec.EphemeralContainers[i]
		j, ok := now[was.Name]
		switch {
		case !ok:
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", was.Name)))
		case !apiequality.Semantic.DeepEqual(pod.Spec.EphemeralContainers[j], *was):
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v", was.Name, diff.Diff(*was, pod.Spec.EphemeralContainers[j]))))
		}
	}
	return errs
}

// validatePodResize checks a change of resources of running containers (KEP-1287).
func validatePodResize(pod, old *corev1.Pod) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&pod.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	errs = append(errs, newlyInvalid(pod, old)...)
	path := field.NewPath("spec")
	if _, static := old.Annotations[corev1.MirrorPodAnnotationKey]; static {
		return append(errs, field.Forbidden(field.NewPath(""), "static pods cannot be resized"))
	}
	if qos := qosClass(pod); qos != old.Status.QOSClass && old.Status.QOSClass != "" {
		errs = append(errs, field.Invalid(path, qos, "Pod QOS Class may not change as a result of resizing"))
	}
	only := func(list corev1.ResourceList, at *field.Path) {
		for name := range list {
			if name != corev1.ResourceCPU && name != corev1.ResourceMemory {
				errs = append(errs, field.Forbidden(at, "only cpu and memory resources are mutable"))
				return
			}
		}
	}
	for i := range pod.Spec.Containers {
		r, was := &pod.Spec.Containers[i].Resources, &old.Spec.Containers[i].Resources
		at := path.Child("containers").Index(i).Child("resources")
		only(changed(r.Limits, was.Limits), at)
		only(changed(r.Requests, was.Requests), at)
		for name := range was.Limits {
			if _, ok := r.Limits[name]; !ok {
				errs = append(errs, field.Forbidden(at.Child("limits"), "resource limits cannot be removed"))
			}
		}
		for name := range was.Requests {
			if _, ok := r.Requests[name]; !ok {
				errs = append(errs, field.Forbidden(at.Child("requests"), "resource requests cannot be removed"))
			}
		}
	}
	return errs
}

func changed(now, was corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, q := range now {
		if old, ok := was[name]; !ok || old.Cmp(q) != 0 {
			out[name] = q
		}
	}
	for name, q := range was {
		if _, ok := now[name]; !ok {
			out[name] = q
		}
	}
	return out
}
