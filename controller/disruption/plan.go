package disruption

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/mini-k8s/mini/controller/podstate"
)

// deletionTime is how long an evicted pod may take to be marked as deleted before its eviction counts as failed.
const deletionTime = 2 * time.Minute

// scale is what the controller of a pod asks for.
type scale struct {
	uid      types.UID // of the topmost controller: the Deployment rather than its ReplicaSet
	replicas int32
}

// changes is what a sync does.
type changes struct {
	status    policyv1.PodDisruptionBudgetStatus
	again     time.Duration // when an eviction counts as failed; 0 if none is under way
	unmanaged bool          // some pods have no controller although the budget is measured by controllers
	failed    error         // the size of a controller is not known
}

// plan computes the status of a budget from the pods that it selects. scaleOf finds what a pod's controller asks for.
func plan(b *policyv1.PodDisruptionBudget, pods []*corev1.Pod, scaleOf func(*corev1.Pod, *metav1.OwnerReference) (scale, error), now time.Time) changes {
	var out changes
	expected, desired, unmanaged, err := wanted(b, pods, scaleOf)
	if err != nil {
		out.failed = err
		out.status = *b.Status.DeepCopy()
		out.status.DisruptionsAllowed = 0
		setCondition(&out.status, metav1.ConditionFalse, policyv1.SyncFailedReason, err.Error(), b.Status.ObservedGeneration)
		return out
	}
	out.unmanaged = unmanaged
	disrupted := map[string]metav1.Time{}
	healthy := int32(0)
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil {
			continue
		}
		if at, ok := b.Status.DisruptedPods[pod.Name]; ok {
			if left := at.Add(deletionTime).Sub(now); left > 0 {
				disrupted[pod.Name] = at
				if out.again == 0 || left < out.again {
					out.again = left
				}
				continue
			}
		}
		if podstate.Ready(pod) {
			healthy++
		}
	}
	allowed := max(0, healthy-desired)
	if expected <= 0 {
		allowed = 0 // what is not there yet may be evicted only once it has been counted
	}
	out.status = policyv1.PodDisruptionBudgetStatus{
		ObservedGeneration: b.Generation, DisruptedPods: disrupted, DisruptionsAllowed: allowed,
		CurrentHealthy: healthy, DesiredHealthy: desired, ExpectedPods: expected,
	}
	for _, c := range b.Status.Conditions {
		out.status.Conditions = append(out.status.Conditions, *c.DeepCopy())
	}
	if allowed > 0 {
		setCondition(&out.status, metav1.ConditionTrue, policyv1.SufficientPodsReason, "", b.Generation)
	} else {
		setCondition(&out.status, metav1.ConditionFalse, policyv1.InsufficientPodsReason, "", b.Generation)
	}
	return out
}

func setCondition(s *policyv1.PodDisruptionBudgetStatus, status metav1.ConditionStatus, reason, message string, generation int64) {
	apimeta.SetStatusCondition(&s.Conditions, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: status, Reason: reason, Message: message, ObservedGeneration: generation,
	})
}

// wanted is how many pods there should be, and how many of them must be healthy.
func wanted(b *policyv1.PodDisruptionBudget, pods []*corev1.Pod, scaleOf func(*corev1.Pod, *metav1.OwnerReference) (scale, error)) (expected, desired int32, unmanaged bool, err error) {
	switch least, most := b.Spec.MinAvailable, b.Spec.MaxUnavailable; {
	case most != nil:
		if expected, unmanaged, err = total(pods, scaleOf); err != nil {
			return 0, 0, false, err
		}
		n, err := intstr.GetScaledValueFromIntOrPercent(most, int(expected), true)
		return expected, max(0, expected-int32(n)), unmanaged, err
	case least != nil && least.Type == intstr.Int:
		return int32(len(pods)), least.IntVal, false, nil
	case least != nil:
		if expected, unmanaged, err = total(pods, scaleOf); err != nil {
			return 0, 0, false, err
		}
		n, err := intstr.GetScaledValueFromIntOrPercent(least, int(expected), true)
		return expected, int32(n), unmanaged, err
	}
	return 0, 0, false, nil
}

// total is what the pods' controllers ask for together.
func total(pods []*corev1.Pod, scaleOf func(*corev1.Pod, *metav1.OwnerReference) (scale, error)) (sum int32, unmanaged bool, err error) {
	scales := map[types.UID]int32{}
	asked := map[types.UID]bool{}
	for _, pod := range pods {
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref == nil {
			unmanaged = true
			continue
		}
		if asked[ref.UID] {
			continue
		}
		asked[ref.UID] = true
		s, err := scaleOf(pod, ref)
		if err != nil {
			return 0, false, fmt.Errorf("pod %s: %w", pod.Name, err)
		}
		scales[s.uid] = s.replicas
	}
	for _, n := range scales {
		sum += n
	}
	return sum, unmanaged, nil
}
