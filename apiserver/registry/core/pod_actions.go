package core

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

// podActions are the subresources of pods that do something rather than show a part: binding and eviction.
type podActions struct{ deps registry.Deps }

func (a podActions) collection() store.Collection {
	return a.deps.Collection("pods", corev1.SchemeGroupVersion.WithKind("Pod"))
}

var errDryRun = errors.New("dry run") // ends a Mutate before it writes

// mutate changes one pod; change may refuse with an API error.
func (a podActions) mutate(ctx context.Context, namespace, name string, dryRun bool, change func(*corev1.Pod) error) error {
	_, err := a.collection().Mutate(ctx, namespace+"/"+name, func(current *store.Item) (store.Change, error) {
		if current == nil {
			return store.Change{}, apierrors.NewNotFound(corev1.Resource("pods"), name)
		}
		pod := current.Object.(*corev1.Pod).DeepCopy()
		if err := change(pod); err != nil {
			return store.Change{}, err
		}
		if dryRun {
			return store.Change{}, errDryRun
		}
		return store.Change{Put: pod}, nil
	})
	if errors.Is(err, errDryRun) {
		return nil
	}
	return err
}

// bind puts a pod on a node: once, and not when it is being deleted or held back by scheduling gates.
func bind(pod *corev1.Pod, b *corev1.Binding) error {
	if errs := validateBinding(b); len(errs) > 0 {
		return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Binding").GroupKind(), pod.Name, errs)
	}
	conflict := func(format string, args ...any) error {
		return apierrors.NewConflict(corev1.Resource("pods/binding"), pod.Name, fmt.Errorf(format, args...))
	}
	switch {
	case b.UID != "" && b.UID != pod.UID:
		return conflict("Precondition failed: UID in precondition: %v, UID in object meta: %v", b.UID, pod.UID)
	case b.ResourceVersion != "" && b.ResourceVersion != pod.ResourceVersion:
		return conflict("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", b.ResourceVersion, pod.ResourceVersion)
	case pod.DeletionTimestamp != nil:
		return conflict("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return conflict("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) > 0:
		return conflict("pod %v has non-empty .spec.schedulingGates", pod.Name)
	}
	pod.Spec.NodeName = b.Target.Name
	pod.Status.NominatedNodeName = ""
	if len(b.Annotations) > 0 && pod.Annotations == nil {
		pod.Annotations = make(map[string]string, len(b.Annotations))
	}
	maps.Copy(pod.Annotations, b.Annotations)
	setPodCondition(pod, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue})
	return nil
}

func validateBinding(b *corev1.Binding) field.ErrorList {
	var errs field.ErrorList
	if b.Target.Kind != "" && b.Target.Kind != "Node" {
		errs = append(errs, field.NotSupported(field.NewPath("target", "kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(field.NewPath("target", "name"), ""))
	}
	return errs
}

// setPodCondition sets c; the transition time moves only when the status does.
func setPodCondition(pod *corev1.Pod, c corev1.PodCondition) {
	c.LastTransitionTime = metav1.NewTime(time.Now().Truncate(time.Second))
	for i := range pod.Status.Conditions {
		if was := &pod.Status.Conditions[i]; was.Type == c.Type {
			if was.Status == c.Status {
				c.LastTransitionTime = was.LastTransitionTime
			}
			c.ObservedGeneration = was.ObservedGeneration
			*was = c
			return
		}
	}
	pod.Status.Conditions = append(pod.Status.Conditions, c)
}

// evict says how to delete a pod if the PodDisruptionBudget that selects it allows one disruption more, which it counts
// there. The pod itself is marked as disrupted first.
func (a podActions) evict(ctx context.Context, parent store.Object, body runtime.Object, dryRun bool) (*metav1.DeleteOptions, error) {
	pod, e := parent.(*corev1.Pod), body.(*policyv1.Eviction)
	opts := &metav1.DeleteOptions{}
	if e.DeleteOptions != nil {
		opts = e.DeleteOptions.DeepCopy()
	}
	dryRun = dryRun || len(opts.DryRun) > 0
	if p := opts.Preconditions; p != nil {
		conflict := func(what string, wanted, is any) error {
			return apierrors.NewConflict(corev1.Resource("pods"), pod.Name, fmt.Errorf("Precondition failed: %[1]s in precondition: %[2]v, %[1]s in object meta: %[3]v", what, wanted, is))
		}
		if p.UID != nil && *p.UID != pod.UID {
			return nil, conflict("UID", *p.UID, pod.UID)
		}
		if p.ResourceVersion != nil && *p.ResourceVersion != pod.ResourceVersion {
			return nil, conflict("ResourceVersion", *p.ResourceVersion, pod.ResourceVersion)
		}
	}
	if !outOfBudget(pod) {
		if err := a.takeDisruption(ctx, pod, dryRun); err != nil {
			return nil, err
		}
	}
	if err := a.mutate(ctx, pod.Namespace, pod.Name, dryRun, func(p *corev1.Pod) error {
		if p.UID != pod.UID {
			return apierrors.NewConflict(corev1.Resource("pods"), pod.Name, errors.New("the pod was replaced by another of the same name"))
		}
		setPodCondition(p, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
		})
		return nil
	}); err != nil {
		return nil, err
	}
	// The condition has just moved the resourceVersion; the uid is what must not change.
	opts.Preconditions = &metav1.Preconditions{UID: &pod.UID}
	return opts, nil
}

// outOfBudget says that a pod does not count as available for its budget anyway.
func outOfBudget(pod *corev1.Pod) bool {
	switch pod.Status.Phase {
	case corev1.PodSucceeded, corev1.PodFailed, corev1.PodPending:
		return true
	}
	return pod.DeletionTimestamp != nil
}

// takeDisruption charges the one budget that selects the pod, or fails with 429.
func (a podActions) takeDisruption(ctx context.Context, pod *corev1.Pod, dryRun bool) error {
	budgets := a.deps.Collection("poddisruptionbudgets", policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"))
	list, err := budgets.List(ctx, store.ListOptions{Namespace: pod.Namespace, Match: func(i *store.Item) bool {
		selector, err := metav1.LabelSelectorAsSelector(i.Object.(*policyv1.PodDisruptionBudget).Spec.Selector)
		return err == nil && selector.Matches(labels.Set(pod.Labels))
	}})
	if err != nil {
		return err
	}
	switch len(list.Items) {
	case 0:
		return nil
	case 1:
	default:
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
			Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
		}}
	}
	_, err = budgets.Mutate(ctx, list.Items[0].Key, func(current *store.Item) (store.Change, error) {
		if current == nil {
			return store.Change{}, nil
		}
		budget := current.Object.(*policyv1.PodDisruptionBudget).DeepCopy()
		changed, err := chargeBudget(budget, pod)
		if err != nil || !changed {
			return store.Change{}, err
		}
		if dryRun {
			return store.Change{}, errDryRun
		}
		return store.Change{Put: budget}, nil
	})
	if errors.Is(err, errDryRun) {
		return nil
	}
	return err
}

// chargeBudget counts one disruption for pod in budget's status. A pod that is not ready need not be counted when the
// budget's policy says so, or when enough others are healthy.
func chargeBudget(budget *policyv1.PodDisruptionBudget, pod *corev1.Pod) (changed bool, err error) {
	st := &budget.Status
	if !podReady(pod) {
		always := budget.Spec.UnhealthyPodEvictionPolicy != nil && *budget.Spec.UnhealthyPodEvictionPolicy == policyv1.AlwaysAllow
		if always || (st.CurrentHealthy >= st.DesiredHealthy && st.DesiredHealthy > 0) {
			return false, nil
		}
	}
	refuse := func(message string) error {
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusTooManyRequests, Reason: metav1.StatusReasonTooManyRequests,
			Message: "Cannot evict pod as it would violate the pod's disruption budget.",
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: policyv1.DisruptionBudgetCause, Message: message}}},
		}}
	}
	switch {
	case st.ObservedGeneration < budget.Generation:
		err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 10)
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
			Type: policyv1.DisruptionBudgetCause, Message: fmt.Sprintf("The disruption budget %s is still being processed by the server.", budget.Name),
		})
		return false, err
	case st.DisruptionsAllowed < 0:
		return false, apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), budget.Name, errors.New("pdb disruptions allowed is negative"))
	case len(st.DisruptedPods) > 2000:
		return false, apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), budget.Name, errors.New("DisruptedPods map too big - too many evictions not confirmed by PDB controller"))
	case st.DisruptionsAllowed == 0:
		return false, refuse(fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", budget.Name, st.DesiredHealthy, st.CurrentHealthy))
	}
	st.DisruptionsAllowed--
	if st.DisruptedPods == nil {
		st.DisruptedPods = map[string]metav1.Time{}
	}
	st.DisruptedPods[pod.Name] = metav1.NewTime(time.Now().Truncate(time.Second))
	return true, nil
}

func podReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
