package quota

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Request is a write that quotas may be charged for.
type Request struct {
	Resource schema.GroupResource
	Object   any // as Usage takes it
	Old      any // on update; nil on create
	Now      time.Time
}

// Charge returns what the quota's status.used becomes with the request: the same list when nothing changes. The error says,
// in upstream's words, why the quota does not allow it. A quota holds from its first count on: what goes by status.hard.
func Charge(q *corev1.ResourceQuota, r Request) (corev1.ResourceList, error) {
	relevant := Relevant(r.Resource, q.Status.Hard)
	if len(relevant) == 0 || !InScope(&q.Spec, r.Object) {
		return q.Status.Used, nil
	}
	if pod, ok := r.Object.(*corev1.Pod); ok {
		if err := missing(pod, relevant); err != nil {
			return nil, fmt.Errorf("failed quota: %s: %w", q.Name, err)
		}
	}
	if slices.ContainsFunc(relevant, func(name corev1.ResourceName) bool { _, known := q.Status.Used[name]; return !known }) {
		return nil, fmt.Errorf("status unknown for quota: %s, resources: %s", q.Name, textNames(relevant))
	}
	usage := mask(Usage(r.Resource, r.Object, r.Now), relevant)
	for name, amount := range usage {
		if amount.Sign() < 0 {
			return nil, fmt.Errorf("quota usage is negative for resource(s): %s", name)
		}
	}
	var before corev1.ResourceList
	if r.Old != nil && InScope(&q.Spec, r.Old) {
		before = mask(Usage(r.Resource, r.Old, r.Now), relevant)
	}
	more := increase(usage, before)
	if len(more) == 0 {
		return q.Status.Used, nil
	}
	used := add(q.Status.Used, more)
	var exceeded []corev1.ResourceName
	for _, name := range names(more) {
		if total := used[name]; total.Cmp(q.Status.Hard[name]) > 0 {
			exceeded = append(exceeded, name)
		}
	}
	if len(exceeded) > 0 {
		return nil, fmt.Errorf("exceeded quota: %s, requested: %s, used: %s, limited: %s", q.Name,
			text(mask(more, exceeded)), text(mask(q.Status.Used, exceeded)), text(mask(q.Status.Hard, exceeded)))
	}
	return used, nil
}

// mustSay are the resources that every container has to ask for, or be limited in, once a quota is about them.
var mustSay = []corev1.ResourceName{
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
	corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
}

func missing(pod *corev1.Pod, relevant []corev1.ResourceName) error {
	if resourcehelper.IsPodLevelResourcesSet(pod) {
		return nil
	}
	lacking := map[corev1.ResourceName][]string{}
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			said := corev1.ResourceList{}
			compute(said, containers[i].Resources.Requests, containers[i].Resources.Limits)
			for _, name := range mustSay {
				if _, ok := said[name]; !ok && slices.Contains(relevant, name) {
					lacking[name] = append(lacking[name], containers[i].Name)
				}
			}
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	var parts []string
	for name, containers := range lacking {
		slices.Sort(containers)
		parts = append(parts, fmt.Sprintf("%s for: %s", name, strings.Join(slices.Compact(containers), ",")))
	}
	slices.Sort(parts)
	return fmt.Errorf("must specify %s", strings.Join(parts, "; "))
}

// Sum adds up what objects of a resource use of the quota, under the names of its spec.hard.
type Sum struct {
	spec *corev1.ResourceQuotaSpec
	used corev1.ResourceList
}

// NewSum starts at zero for every name of the quota that something is counted under.
func NewSum(spec *corev1.ResourceQuotaSpec) *Sum {
	s := &Sum{spec: spec, used: make(corev1.ResourceList, len(spec.Hard))}
	for name, hard := range spec.Hard {
		if _, ok := Resource(name); !ok {
			continue
		}
		zero := hard.DeepCopy()
		zero.Sub(hard)
		s.used[name] = zero
	}
	return s
}

// Add counts one object.
func (s *Sum) Add(gr schema.GroupResource, obj any, now time.Time) {
	if !InScope(s.spec, obj) {
		return
	}
	for name, amount := range Usage(gr, obj, now) {
		if total, ok := s.used[name]; ok {
			total.Add(amount)
			s.used[name] = total
		}
	}
}

// AddCount counts n objects of a resource that only their number matters of.
func (s *Sum) AddCount(gr schema.GroupResource, n int64) {
	if !InScope(s.spec, nil) {
		return
	}
	for name := range Usage(gr, nil, time.Time{}) {
		if total, ok := s.used[name]; ok {
			total.Add(count(int(n)))
			s.used[name] = total
		}
	}
}

// Used is the sum.
func (s *Sum) Used() corev1.ResourceList { return s.used }
