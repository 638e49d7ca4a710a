package replicaset

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/controller/podstate"
)

// Rank sorts pods so that those to delete first come first. The rules, each deciding where those before it do not
// (kubernetes.io, "ReplicaSet: scaling"; KEP 2255 pod deletion cost; KEP 2185 random pod selection on downscale):
//
//  1. not scheduled before scheduled
//  2. Pending before Unknown before Running
//  3. not ready before ready
//  4. the lower controller.kubernetes.io/pod-deletion-cost
//  5. on the node with more pods of the same kind; related are the pods that count for this
//  6. ready for less time, in powers of two
//  7. more restarts
//  8. younger, in powers of two
func Rank(pods, related []*corev1.Pod, now time.Time) {
	onNode := map[string]int{}
	for _, p := range related {
		if podstate.Active(p) && p.Spec.NodeName != "" {
			onNode[p.Spec.NodeName]++
		}
	}
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int {
		if d := cmp.Or(
			before(a.Spec.NodeName == "", b.Spec.NodeName == ""),
			cmp.Compare(phase(a), phase(b)),
			before(!podstate.Ready(a), !podstate.Ready(b)),
			cmp.Compare(deletionCost(a), deletionCost(b)),
			cmp.Compare(onNode[b.Spec.NodeName], onNode[a.Spec.NodeName]),
		); d != 0 {
			return d
		}
		if podstate.Ready(a) && podstate.Ready(b) {
			if d := younger(readySince(a), readySince(b), now); d != 0 {
				return d
			}
		}
		return cmp.Or(
			cmp.Compare(restarts(b), restarts(a)),
			younger(a.CreationTimestamp, b.CreationTimestamp, now),
			strings.Compare(string(a.UID), string(b.UID)),
		)
	})
}

// before puts what has the property first.
func before(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func phase(p *corev1.Pod) int {
	switch p.Status.Phase {
	case corev1.PodPending:
		return 0
	case corev1.PodUnknown:
		return 1
	}
	return 2
}

func deletionCost(p *corev1.Pod) int32 {
	n, err := strconv.ParseInt(p.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0 // validation rejects what is no number; an empty one counts as none
	}
	return int32(n)
}

func readySince(p *corev1.Pod) metav1.Time {
	if c := podstate.Condition(p, corev1.PodReady); c != nil {
		return c.LastTransitionTime
	}
	return metav1.Time{}
}

// younger compares by the power of two that an age falls into. An unknown time counts as the youngest.
func younger(a, b metav1.Time, now time.Time) int {
	switch {
	case a.IsZero() || b.IsZero():
		return before(a.IsZero(), b.IsZero())
	}
	return cmp.Compare(magnitude(now.Sub(a.Time)), magnitude(now.Sub(b.Time)))
}

func magnitude(age time.Duration) int64 {
	if age <= 0 {
		return 0
	}
	return int64(math.Log2(float64(age)))
}

func restarts(p *corev1.Pod) int32 {
	n := int32(0)
	for i := range p.Status.ContainerStatuses {
		n = max(n, p.Status.ContainerStatuses[i].RestartCount)
	}
	return n
}
