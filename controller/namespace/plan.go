package namespace

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/controller/resource"
)

// report is what an attempt to empty a namespace came to.
type report struct {
	discovery  error
	failures   []error
	left       map[string]int // instances by resource
	finalizers map[string]int // instances by finalizer
}

func (r *report) remains(res *resource.Resource, items []metav1.PartialObjectMetadata) {
	if len(items) == 0 {
		return
	}
	r.left[res.Resource+"."+res.Group] += len(items)
	for i := range items {
		for _, f := range items[i].Finalizers {
			r.finalizers[f]++
		}
	}
}

// empty says whether the namespace may go.
func (r *report) empty() bool {
	return r.discovery == nil && len(r.failures) == 0 && len(r.left) == 0
}

func counts(m map[string]int, format string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf(format, k, m[k]))
	}
	return strings.Join(parts, ", ")
}

// conditions returns old with the report's conditions; those that do not change keep their time.
func (r *report) conditions(old []corev1.NamespaceCondition, now time.Time) []corev1.NamespaceCondition {
	out := slices.Clone(old)
	set := func(t corev1.NamespaceConditionType, bad bool, badReason, badMessage, reason, message string) {
		c := corev1.NamespaceCondition{Type: t, Status: corev1.ConditionFalse, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(now)}
		if bad {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, badReason, badMessage
		}
		i := slices.IndexFunc(out, func(o corev1.NamespaceCondition) bool { return o.Type == t })
		if i < 0 {
			out = append(out, c)
			return
		}
		if out[i].Status == c.Status {
			c.LastTransitionTime = out[i].LastTransitionTime
		}
		out[i] = c
	}
	discovery := ""
	if r.discovery != nil {
		discovery = r.discovery.Error()
	}
	var failures []string
	for _, err := range r.failures {
		failures = append(failures, err.Error())
	}
	slices.Sort(failures)
	set(corev1.NamespaceDeletionDiscoveryFailure, r.discovery != nil, "DiscoveryFailed", "Discovery failed for some groups: "+discovery,
		"ResourcesDiscovered", "All resources successfully discovered")
	set(corev1.NamespaceDeletionGVParsingFailure, false, "", "", "ParsedGroupVersions", "All legacy kube types successfully parsed")
	set(corev1.NamespaceDeletionContentFailure, len(failures) > 0, "ContentDeletionFailed",
		"Failed to delete all resource types, "+fmt.Sprint(len(failures))+" remaining: "+strings.Join(failures, ", "),
		"ContentDeleted", "All content successfully deleted, may be waiting on finalization")
	set(corev1.NamespaceContentRemaining, len(r.left) > 0, "SomeResourcesRemain",
		"Some resources are remaining: "+counts(r.left, "%s has %d resource instances"),
		"ContentRemoved", "All content successfully removed")
	set(corev1.NamespaceFinalizersRemaining, len(r.finalizers) > 0, "SomeFinalizersRemain",
		"Some content in the namespace has finalizers remaining: "+counts(r.finalizers, "%s in %d resource instances"),
		"ContentHasNoFinalizers", "All content-preserving finalizers finished")
	return out
}

// again is how long to wait before looking a second time: the longer it has taken, the longer it may take.
func again(deleted, now time.Time) time.Duration {
	return min(max(now.Sub(deleted)/4, 250*time.Millisecond), 30*time.Second)
}
