// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// nodeResources are the capacity and allocatable that the Node should show: what this machine has, and the extended resources that
// others wrote into the Node's capacity (device managers, administrators, tests). Of those all that is there can be used, as
// upstream's MachineInfo setter has it; one that left the capacity leaves allocatable too.
func nodeResources(was *corev1.Node, m machine) (capacity, allocatable corev1.ResourceList) {
	capacity, allocatable = m.capacity.DeepCopy(), m.allocatable.DeepCopy()
	if was == nil {
		return capacity, allocatable
	}
	for name, q := range was.Status.Capacity {
		if _, own := capacity[name]; own || !isExtended(name) {
			continue
		}
		capacity[name], allocatable[name] = q.DeepCopy(), q.DeepCopy()
	}
	return capacity, allocatable
}

// isExtended tells resources that a domain of its own names from those that Kubernetes defines.
func isExtended(name corev1.ResourceName) bool {
	domain, _, ok := strings.Cut(string(name), "/")
	return ok && domain != "kubernetes.io" && !strings.HasSuffix(domain, ".kubernetes.io") &&
		!strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix)
}

// sameQuantities says whether a node shows the same amounts; the order of keys and their notation do not matter.
func sameQuantities(a, b corev1.ResourceList) bool {
	if len(a) != len(b) {
		return false
	}
	for name, q := range a {
		other, ok := b[name]
		if !ok || q.Cmp(other) != 0 {
			return false
		}
	}
	return true
}
