package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/utils/ptr"
)

// taintNodesByCondition keeps pods off a new node until its conditions were looked at.
type taintNodesByCondition struct{}

var _ admission.MutationInterface = taintNodesByCondition{}

func (taintNodesByCondition) Handles(op admission.Operation) bool { return creates(op) }

func (taintNodesByCondition) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	node, ok := a.GetObject().(*corev1.Node)
	if !ok || !plain(a, nodeResource) {
		return nil
	}
	notReady := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
	for i := range node.Spec.Taints {
		if node.Spec.Taints[i].MatchTaint(&notReady) {
			return nil
		}
	}
	node.Spec.Taints = append(node.Spec.Taints, notReady)
	return nil
}

// notReadySeconds is how long pods stay on a node that is in trouble, unless they say otherwise.
const notReadySeconds = 300

// defaultTolerationSeconds lets pods outlast short troubles of their node.
type defaultTolerationSeconds struct{}

var _ admission.MutationInterface = defaultTolerationSeconds{}

func (defaultTolerationSeconds) Handles(op admission.Operation) bool { return writes(op) }

func (defaultTolerationSeconds) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok || !plain(a, podResource) {
		return nil
	}
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		if !toleratesExecute(pod.Spec.Tolerations, key) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
				Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](notReadySeconds),
			})
		}
	}
	return nil
}

func toleratesExecute(tolerations []corev1.Toleration, key string) bool {
	for i := range tolerations {
		t := &tolerations[i]
		if (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return true
		}
	}
	return false
}
