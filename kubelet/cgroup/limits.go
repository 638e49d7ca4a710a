// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resources "k8s.io/component-helpers/resource"
)

// The kernel's bounds for CPU shares and quota.
const (
	minShares = 2
	maxShares = 262144
	period    = 100000 // microseconds
	minQuota  = 1000   // microseconds
)

func sharesOf(milliCPU int64) uint64 {
	return uint64(min(max(milliCPU*1024/1000, minShares), maxShares))
}

func quotaOf(milliCPU int64) int64 { return max(milliCPU*period/1000, minQuota) }

// QOSClass is the pod's class: what its status says, or what follows from its requests and limits on CPU and memory.
func QOSClass(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	var all []corev1.ResourceRequirements
	if resources.IsPodLevelResourcesSet(pod) {
		all = append(all, *pod.Spec.Resources)
	} else {
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for _, c := range list {
				all = append(all, c.Resources)
			}
		}
	}
	guaranteed, some := true, false
	for _, r := range all {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			limit, request := r.Limits[name], r.Requests[name]
			if !limit.IsZero() || !request.IsZero() {
				some = true
			}
			// A limit alone is the request too.
			if _, asked := r.Requests[name]; limit.IsZero() || asked && request.Cmp(limit) != 0 {
				guaranteed = false
			}
		}
	}
	switch {
	case !some:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	default:
		return corev1.PodQOSBurstable
	}
}

// podLimits is what holds for the pod as a whole.
func podLimits(pod *corev1.Pod, class corev1.PodQOSClass) limits {
	l := limits{shares: minShares}
	if class == corev1.PodQOSBestEffort {
		return l
	}
	request := resources.PodRequests(pod, resources.PodResourcesOptions{})
	limit := resources.PodLimits(pod, resources.PodResourcesOptions{})
	cpuLimit := limit[corev1.ResourceCPU]
	if cpu, ok := request[corev1.ResourceCPU]; ok {
		l.shares = sharesOf(cpu.MilliValue())
	} else if !cpuLimit.IsZero() {
		l.shares = sharesOf(cpuLimit.MilliValue())
	}
	if !cpuLimit.IsZero() && allLimited(pod, corev1.ResourceCPU) {
		l.quota = quotaOf(cpuLimit.MilliValue())
	}
	if memory := limit[corev1.ResourceMemory]; !memory.IsZero() && allLimited(pod, corev1.ResourceMemory) {
		l.memory = memory.Value()
	}
	for name, q := range limit {
		size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix)
		if !ok {
			continue
		}
		bytes, err := resource.ParseQuantity(size)
		if err != nil {
			continue // the apiserver does not let such names in
		}
		if l.hugepages == nil {
			l.hugepages = make(map[string]int64)
		}
		l.hugepages[pageSizeName(bytes.Value())] = q.Value()
	}
	return l
}

// allLimited reports whether each of the pod's containers, or the pod itself, has a limit on a resource: only then the sum
// means something.
func allLimited(pod *corev1.Pod, name corev1.ResourceName) bool {
	if pod.Spec.Resources != nil {
		if q, ok := pod.Spec.Resources.Limits[name]; ok && !q.IsZero() {
			return true
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range list {
			if q, ok := c.Resources.Limits[name]; !ok || q.IsZero() {
				return false
			}
		}
	}
	return true
}

// pageSizeName names a size in bytes as the hugetlb controller does.
func pageSizeName(bytes int64) string {
	for _, unit := range []struct {
		size int64
		name string
	}{{1 << 30, "GB"}, {1 << 20, "MB"}} {
		if bytes >= unit.size {
			return strconv.FormatInt(bytes/unit.size, 10) + unit.name
		}
	}
	return strconv.FormatInt(bytes>>10, 10) + "KB"
}
