package replicaset

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/mini-k8s/mini/controller/podstate"
)

// burst bounds the pods that one sync creates or deletes, as upstream.
const burst = 500

// changes says what to do about the pods, and what the status counts.
type changes struct {
	create int
	delete []*corev1.Pod
	status appsv1.ReplicaSetStatus // without conditions
	// again is when a pod becomes available by the passing of time; 0 if none will.
	again time.Duration
}

// plan decides for a ReplicaSet and the pods it owns. related are the pods that Rank counts per node.
func plan(rs *appsv1.ReplicaSet, pods, related []*corev1.Pod, now time.Time) changes {
	var out changes
	minReady := time.Duration(rs.Spec.MinReadySeconds) * time.Second
	template := labels.Set(rs.Spec.Template.Labels).AsSelectorPreValidated()
	var active []*corev1.Pod
	terminating := int32(0)
	for _, p := range pods {
		if !podstate.Active(p) {
			if p.DeletionTimestamp != nil && !podstate.Terminal(p) {
				terminating++
			}
			continue
		}
		active = append(active, p)
		if template.Matches(labels.Set(p.Labels)) {
			out.status.FullyLabeledReplicas++
		}
		if podstate.Ready(p) {
			out.status.ReadyReplicas++
		}
		available, wait := podstate.Available(p, minReady, now)
		if available {
			out.status.AvailableReplicas++
		}
		if wait > 0 && (out.again == 0 || wait < out.again) {
			out.again = wait
		}
	}
	out.status.Replicas = int32(len(active))
	out.status.TerminatingReplicas = &terminating
	out.status.ObservedGeneration = rs.Generation
	if rs.DeletionTimestamp != nil {
		return out
	}
	want := 1
	if rs.Spec.Replicas != nil {
		want = int(*rs.Spec.Replicas)
	}
	switch d := want - len(active); {
	case d > 0:
		out.create = min(d, burst)
	case d < 0:
		Rank(active, related, now)
		out.delete = active[:min(-d, burst)]
	}
	return out
}

// withFailure returns status with the conditions of old, and the condition ReplicaFailure set by err or taken away.
func withFailure(status appsv1.ReplicaSetStatus, old []appsv1.ReplicaSetCondition, reason string, err error, now time.Time) appsv1.ReplicaSetStatus {
	failing := false
	for _, c := range old {
		if c.Type == appsv1.ReplicaSetReplicaFailure {
			if err == nil {
				continue
			}
			failing = true
		}
		status.Conditions = append(status.Conditions, c)
	}
	if err != nil && !failing {
		status.Conditions = append(status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: reason, Message: err.Error(),
			LastTransitionTime: metav1.NewTime(now),
		})
	}
	return status
}

// podOf makes a pod from the template.
func podOf(rs *appsv1.ReplicaSet, kind schema.GroupVersionKind) *corev1.Pod {
	t := rs.Spec.Template.DeepCopy()
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: rs.Namespace, GenerateName: rs.Name + "-",
			Labels: t.Labels, Annotations: t.Annotations, Finalizers: t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(rs, kind)},
		},
		Spec: t.Spec,
	}
}
