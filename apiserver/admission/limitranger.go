package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/admission"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

var claimResource = corev1.Resource("persistentvolumeclaims")

// limitRangerAnnotation tells what a pod got that its author did not write.
const limitRangerAnnotation = "kubernetes.io/limit-ranger"

// limitRanger gives containers the requests and limits of their namespace's LimitRanges, and holds pods and claims to what
// those allow.
type limitRanger struct {
	ranges corelisters.LimitRangeLister
}

var (
	_ admission.MutationInterface   = (*limitRanger)(nil)
	_ admission.ValidationInterface = (*limitRanger)(nil)
)

func (*limitRanger) Handles(op admission.Operation) bool { return writes(op) }

func (l *limitRanger) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok || !limited(a) {
		return nil
	}
	ranges, err := l.of(a)
	if err != nil {
		return err
	}
	for _, r := range ranges {
		setDefaults(pod, r)
	}
	return nil
}

func (l *limitRanger) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !limited(a) {
		return nil
	}
	ranges, err := l.of(a)
	if err != nil {
		return err
	}
	for _, r := range ranges {
		var errs []error
		for i := range r.Spec.Limits {
			switch obj := a.GetObject().(type) {
			case *corev1.Pod:
				errs = append(errs, limitPod(&r.Spec.Limits[i], obj)...)
			case *corev1.PersistentVolumeClaim:
				errs = append(errs, limitClaim(&r.Spec.Limits[i], obj)...)
			}
		}
		if err := utilerrors.NewAggregate(errs); err != nil {
			return admission.NewForbidden(a, err)
		}
	}
	return nil
}

// limited: a pod's resources are looked at when they can change, a claim's at every write; nothing that is being deleted.
func limited(a admission.Attributes) bool {
	if old, ok := a.GetOldObject().(metav1.Object); ok && old.GetDeletionTimestamp() != nil {
		return false
	}
	switch a.GetResource().GroupResource() {
	case podResource:
		return a.GetSubresource() == "" && a.GetOperation() == admission.Create || a.GetSubresource() == "resize" && a.GetOperation() == admission.Update
	case claimResource:
		return a.GetSubresource() == ""
	}
	return false
}

// of returns the namespace's LimitRanges in the order of their names, so that of two defaults always the same wins.
func (l *limitRanger) of(a admission.Attributes) ([]*corev1.LimitRange, error) {
	ranges, err := l.ranges.LimitRanges(a.GetNamespace()).List(labels.Everything())
	if err != nil {
		return nil, admission.NewForbidden(a, fmt.Errorf("unable to %s %v at this time because there was an error enforcing limit ranges", a.GetOperation(), a.GetResource()))
	}
	slices.SortFunc(ranges, func(a, b *corev1.LimitRange) int { return strings.Compare(a.Name, b.Name) })
	return ranges, nil
}

// setDefaults gives each container what it does not say itself, and writes down what that was.
func setDefaults(pod *corev1.Pod, r *corev1.LimitRange) {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	for i := range r.Spec.Limits {
		if item := &r.Spec.Limits[i]; item.Type == corev1.LimitTypeContainer {
			merge(&requests, item.DefaultRequest)
			merge(&limits, item.Default)
		}
	}
	var notes []string
	set := func(containers []corev1.Container, kind string) {
		for i := range containers {
			c := &containers[i]
			gotRequests := merge(&c.Resources.Requests, requests)
			gotLimits := merge(&c.Resources.Limits, limits)
			if len(gotRequests) > 0 {
				notes = append(notes, fmt.Sprintf("%s request for %s %s", strings.Join(gotRequests, ", "), kind, c.Name))
			}
			if len(gotLimits) > 0 {
				notes = append(notes, fmt.Sprintf("%s limit for %s %s", strings.Join(gotLimits, ", "), kind, c.Name))
			}
		}
	}
	set(pod.Spec.Containers, "container")
	set(pod.Spec.InitContainers, "init container")
	if len(notes) > 0 {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[limitRangerAnnotation] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
	}
}

// merge adds to list what only from has, and returns the names in order.
func merge(list *corev1.ResourceList, from corev1.ResourceList) []string {
	var added []string
	for name, q := range from {
		if _, ok := (*list)[name]; ok {
			continue
		}
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[name] = q.DeepCopy()
		added = append(added, string(name))
	}
	slices.Sort(added)
	return added
}

func limitPod(item *corev1.LimitRangeItem, pod *corev1.Pod) []error {
	var errs []error
	switch item.Type {
	case corev1.LimitTypeContainer:
		for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range containers {
				errs = append(errs, limitAmounts(item, containers[i].Resources.Requests, containers[i].Resources.Limits)...)
			}
		}
	case corev1.LimitTypePod:
		options := resourcehelper.PodResourcesOptions{ExcludeOverhead: true}
		errs = limitAmounts(item, resourcehelper.PodRequests(pod, options), resourcehelper.PodLimits(pod, options))
	}
	return errs
}

// limitClaim holds a claim to the least and the most; limits are not for claims to set.
func limitClaim(item *corev1.LimitRangeItem, claim *corev1.PersistentVolumeClaim) []error {
	if item.Type != corev1.LimitTypePersistentVolumeClaim {
		return nil
	}
	requests := claim.Spec.Resources.Requests
	var errs []error
	for _, name := range resourceNames(item.Min) {
		errs = append(errs, limitMin(item.Type, name, item.Min[name], requests, nil))
	}
	for _, name := range resourceNames(item.Max) {
		most := item.Max[name]
		request, ok := requests[name]
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s.  No request is specified", name, item.Type, most.String()))
		case request.Cmp(most) > 0:
			errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, item.Type, most.String(), request.String()))
		}
	}
	return errs
}

func limitAmounts(item *corev1.LimitRangeItem, requests, limits corev1.ResourceList) []error {
	var errs []error
	for _, name := range resourceNames(item.Min) {
		errs = append(errs, limitMin(item.Type, name, item.Min[name], requests, limits))
	}
	for _, name := range resourceNames(item.Max) {
		errs = append(errs, limitMax(item.Type, name, item.Max[name], requests, limits))
	}
	for _, name := range resourceNames(item.MaxLimitRequestRatio) {
		errs = append(errs, limitRatio(item.Type, name, item.MaxLimitRequestRatio[name], requests, limits))
	}
	return errs
}

func resourceNames(list corev1.ResourceList) []corev1.ResourceName {
	names := make([]corev1.ResourceName, 0, len(list))
	for name := range list {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func limitMin(t corev1.LimitType, name corev1.ResourceName, least resource.Quantity, requests, limits corev1.ResourceList) error {
	request, asked := requests[name]
	limit, capped := limits[name]
	switch {
	case !asked:
		return fmt.Errorf("minimum %s usage per %s is %s.  No request is specified", name, t, least.String())
	case request.Cmp(least) < 0:
		return fmt.Errorf("minimum %s usage per %s is %s, but request is %s", name, t, least.String(), request.String())
	case capped && limit.Cmp(least) < 0:
		return fmt.Errorf("minimum %s usage per %s is %s, but limit is %s", name, t, least.String(), limit.String())
	}
	return nil
}

func limitMax(t corev1.LimitType, name corev1.ResourceName, most resource.Quantity, requests, limits corev1.ResourceList) error {
	request, asked := requests[name]
	limit, capped := limits[name]
	switch {
	case !capped:
		return fmt.Errorf("maximum %s usage per %s is %s.  No limit is specified", name, t, most.String())
	case limit.Cmp(most) > 0:
		return fmt.Errorf("maximum %s usage per %s is %s, but limit is %s", name, t, most.String(), limit.String())
	case asked && request.Cmp(most) > 0:
		return fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, t, most.String(), request.String())
	}
	return nil
}

func limitRatio(t corev1.LimitType, name corev1.ResourceName, most resource.Quantity, requests, limits corev1.ResourceList) error {
	request, limit := requests[name], limits[name]
	if request.IsZero() {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", name, t, most.String())
	}
	if limit.IsZero() {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no limit is specified or limit is 0", name, t, most.String())
	}
	if ratio := limit.AsApproximateFloat64() / request.AsApproximateFloat64(); ratio > most.AsApproximateFloat64() {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but provided ratio is %f", name, t, most.String(), ratio)
	}
	return nil
}
