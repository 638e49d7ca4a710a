package deployment

import (
	"math"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// replicas reads a count that defaults to one.
func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

func rolling(d *appsv1.Deployment) bool {
	return d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType
}

// bounds resolves maxSurge (rounded up) and maxUnavailable (rounded down) for the size of the Deployment. If both come out
// as zero nothing could ever move, so one pod may then be unavailable.
func bounds(d *appsv1.Deployment) (surge, unavailable int32) {
	ru := d.Spec.Strategy.RollingUpdate
	if !rolling(d) || ru == nil {
		return 0, 0
	}
	want := int(replicas(d.Spec.Replicas))
	resolve := func(v *intstr.IntOrString, up bool) int32 {
		if v == nil {
			return 0
		}
		n, err := intstr.GetScaledValueFromIntOrPercent(v, want, up)
		if err != nil || n < 0 {
			return 0 // validation does not let it through
		}
		return int32(min(n, math.MaxInt32))
	}
	surge, unavailable = resolve(ru.MaxSurge, true), resolve(ru.MaxUnavailable, false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, unavailable
}

func maxSurge(d *appsv1.Deployment) int32 {
	surge, _ := bounds(d)
	return surge
}

// maxUnavailable is how many pods may be missing from those wanted.
func maxUnavailable(d *appsv1.Deployment) int32 {
	if !rolling(d) || replicas(d.Spec.Replicas) == 0 {
		return 0
	}
	_, unavailable := bounds(d)
	return min(unavailable, replicas(d.Spec.Replicas))
}

// hasDeadline says whether progress is watched at all.
func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

// wanted sums up what the sets ask for, available what they have.
func wanted(sets []*appsv1.ReplicaSet) (n int32) {
	for _, rs := range sets {
		n += replicas(rs.Spec.Replicas)
	}
	return n
}

func available(sets []*appsv1.ReplicaSet) (n int32) {
	for _, rs := range sets {
		n += rs.Status.AvailableReplicas
	}
	return n
}

func running(sets []*appsv1.ReplicaSet) (n int32) {
	for _, rs := range sets {
		n += rs.Status.Replicas
	}
	return n
}

// lasting is how many of a set's available pods stay when it has come down to its size: a status may lag behind a resize.
func lasting(rs *appsv1.ReplicaSet) int32 {
	return min(replicas(rs.Spec.Replicas), rs.Status.AvailableReplicas)
}
