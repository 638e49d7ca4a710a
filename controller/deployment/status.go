package deployment

import (
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of the conditions; kubectl rollout status reads ProgressDeadlineExceeded.
const (
	reasonCreated     = "NewReplicaSetCreated"
	reasonFound       = "FoundNewReplicaSet"
	reasonUpdated     = "ReplicaSetUpdated"
	reasonAvailable   = "NewReplicaSetAvailable"
	reasonCreateError = "ReplicaSetCreateError"
	reasonDeadline    = "ProgressDeadlineExceeded"
	reasonPaused      = "DeploymentPaused"
	reasonResumed     = "DeploymentResumed"
	reasonMinimum     = "MinimumReplicasAvailable"
	reasonNoMinimum   = "MinimumReplicasUnavailable"
)

// conditions is the list under change.
type conditions struct {
	list []appsv1.DeploymentCondition
	now  metav1.Time
}

func (c *conditions) get(t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range c.list {
		if c.list[i].Type == t {
			return &c.list[i]
		}
	}
	return nil
}

func (c *conditions) remove(t appsv1.DeploymentConditionType) {
	c.list = slices.DeleteFunc(c.list, func(o appsv1.DeploymentCondition) bool { return o.Type == t })
}

// set puts a condition. One of the same status and reason stays as it is, times included; a change of reason alone keeps the
// time of the transition.
func (c *conditions) set(t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	cond := appsv1.DeploymentCondition{Type: t, Status: status, Reason: reason, Message: message, LastUpdateTime: c.now, LastTransitionTime: c.now}
	if was := c.get(t); was != nil {
		if was.Status == status && was.Reason == reason {
			return
		}
		if was.Status == status {
			cond.LastTransitionTime = was.LastTransitionTime
		}
	}
	c.remove(t)
	c.list = append(c.list, cond)
}

// touch is set, but renews the time of a condition that stays: progress goes on.
func (c *conditions) touch(t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	was := c.get(t)
	if was != nil && was.Status == status && was.Reason == reason {
		was.LastUpdateTime, was.Message = c.now, message
		return
	}
	c.set(t, status, reason, message)
}

// complete says whether the rollout is over: all pods wanted are of the current template and available, and no others run.
func complete(d *appsv1.Deployment, s *appsv1.DeploymentStatus) bool {
	want := replicas(d.Spec.Replicas)
	return s.UpdatedReplicas == want && s.Replicas == want && s.AvailableReplicas == want && s.ObservedGeneration >= d.Generation
}

// progressed says whether the new status is nearer to the goal than the old.
func progressed(old, s *appsv1.DeploymentStatus) bool {
	return s.UpdatedReplicas > old.UpdatedReplicas || s.Replicas-s.UpdatedReplicas < old.Replicas-old.UpdatedReplicas ||
		s.ReadyReplicas > old.ReadyReplicas || s.AvailableReplicas > old.AvailableReplicas
}

// status counts pods and, in a rollout, judges progress. again is when the deadline passes.
func (r *rollout) status(progress bool) (s appsv1.DeploymentStatus, again time.Duration) {
	all := r.all()
	s = appsv1.DeploymentStatus{
		ObservedGeneration: r.d.Generation, CollisionCount: r.d.Status.CollisionCount,
		Replicas: running(all), AvailableReplicas: available(all),
	}
	terminating, known := int32(0), true
	for _, rs := range all {
		s.ReadyReplicas += rs.Status.ReadyReplicas
		if rs.Status.TerminatingReplicas == nil {
			known = known && rs.Status.ObservedGeneration == 0
			continue
		}
		terminating += *rs.Status.TerminatingReplicas
	}
	if known {
		s.TerminatingReplicas = &terminating
	}
	if r.current != nil {
		s.UpdatedReplicas = r.current.Status.Replicas
	}
	s.UnavailableReplicas = max(0, wanted(all)-s.AvailableReplicas)

	c := conditions{slices.Clone(r.d.Status.Conditions), metav1.NewTime(r.now)}
	if s.AvailableReplicas >= replicas(r.d.Spec.Replicas)-maxUnavailable(r.d) {
		c.set(appsv1.DeploymentAvailable, corev1.ConditionTrue, reasonMinimum, "Deployment has minimum availability.")
	} else {
		c.set(appsv1.DeploymentAvailable, corev1.ConditionFalse, reasonNoMinimum, "Deployment does not have minimum availability.")
	}
	if r.d.DeletionTimestamp == nil {
		r.pauseCondition(&c)
	}
	if progress {
		again = r.progressCondition(&c, &s)
		r.failureCondition(&c)
	}
	s.Conditions = c.list
	return s, again
}

// pauseCondition: a pause stops the clock, resuming starts it again. A rollout that has run out of time stays so.
func (r *rollout) pauseCondition(c *conditions) {
	was := c.get(appsv1.DeploymentProgressing)
	if !hasDeadline(r.d) || (was != nil && was.Reason == reasonDeadline) {
		return
	}
	paused := was != nil && was.Reason == reasonPaused
	switch {
	case r.d.Spec.Paused && !paused:
		c.set(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused")
	case !r.d.Spec.Paused && paused:
		c.set(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed")
	}
}

func (r *rollout) progressCondition(c *conditions, s *appsv1.DeploymentStatus) (again time.Duration) {
	if !hasDeadline(r.d) {
		c.remove(appsv1.DeploymentProgressing)
		return 0
	}
	subject := fmt.Sprintf("Deployment %q", r.d.Name)
	if r.current != nil {
		subject = fmt.Sprintf("ReplicaSet %q", r.current.Name)
	}
	switch {
	case r.created:
		c.set(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonCreated, fmt.Sprintf("Created new replica set %q", r.current.Name))
	case r.current != nil && c.get(appsv1.DeploymentProgressing) == nil:
		c.set(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonFound, fmt.Sprintf("Found new replica set %q", r.current.Name))
	}
	was := c.get(appsv1.DeploymentProgressing)
	if was != nil && was.Reason == reasonAvailable && s.Replicas == s.UpdatedReplicas && !r.created {
		return 0 // over; pods that come and go later are no rollout
	}
	switch {
	case complete(r.d, s):
		c.set(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonAvailable, subject+" has successfully progressed.")
	case progressed(&r.d.Status, s):
		c.touch(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonUpdated, subject+" is progressing.")
	case r.overdue(c):
		c.set(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonDeadline, subject+" has timed out progressing.")
	}
	is := c.get(appsv1.DeploymentProgressing)
	if is == nil || is.Reason == reasonDeadline || is.Reason == reasonAvailable {
		return 0
	}
	return max(is.LastUpdateTime.Add(r.deadline()).Sub(r.now), 0) + time.Second
}

func (r *rollout) deadline() time.Duration {
	return time.Duration(*r.d.Spec.ProgressDeadlineSeconds) * time.Second
}

func (r *rollout) overdue(c *conditions) bool {
	is := c.get(appsv1.DeploymentProgressing)
	switch {
	case is == nil || is.Reason == reasonAvailable:
		return false
	case is.Reason == reasonDeadline:
		return true
	}
	return is.LastUpdateTime.Add(r.deadline()).Before(r.now)
}

// failureCondition shows why pods cannot be made: the current set's reason, else any other's.
func (r *rollout) failureCondition(c *conditions) {
	sets := slices.Clone(r.old)
	if r.current != nil {
		sets = slices.Insert(sets, 0, r.current)
	}
	for _, rs := range sets {
		for _, f := range rs.Status.Conditions {
			if f.Type == appsv1.ReplicaSetReplicaFailure {
				c.set(appsv1.DeploymentReplicaFailure, f.Status, f.Reason, f.Message)
				return
			}
		}
	}
	c.remove(appsv1.DeploymentReplicaFailure)
}

// createFailed is the status after the new ReplicaSet could not be made.
func createFailed(d *appsv1.Deployment, name string, err error, now time.Time) appsv1.DeploymentStatus {
	s := *d.Status.DeepCopy()
	s.ObservedGeneration = d.Generation
	if hasDeadline(d) {
		c := conditions{s.Conditions, metav1.NewTime(now)}
		c.set(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonCreateError, fmt.Sprintf("Failed to create new replica set %q: %v", name, err))
		s.Conditions = c.list
	}
	return s
}
