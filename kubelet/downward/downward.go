// SPDX-License-Identifier: Apache-2.0

package downward

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Facts are what the pod object may not show yet because this node decides it.
type Facts struct {
	HostIPs, PodIPs []string
	// Allocatable stands in for limits that a container does not set.
	Allocatable corev1.ResourceList
}

// Field returns the value that a fieldRef path names.
func Field(pod *corev1.Pod, f Facts, path string) (string, error) {
	if name, key, ok := subscript(path); ok {
		switch name {
		case "metadata.annotations":
			return pod.Annotations[key], nil
		case "metadata.labels":
			return pod.Labels[key], nil
		}
		return "", fmt.Errorf("fieldPath %q does not support subscript", path)
	}
	switch path {
	case "metadata.annotations":
		return pairs(pod.Annotations), nil
	case "metadata.labels":
		return pairs(pod.Labels), nil
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(f.HostIPs), nil
	case "status.hostIPs":
		return strings.Join(f.HostIPs, ","), nil
	case "status.podIP":
		return first(f.PodIPs), nil
	case "status.podIPs":
		return strings.Join(f.PodIPs, ","), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %s", path)
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

// subscript splits name['key'].
func subscript(path string) (name, key string, ok bool) {
	name, rest, ok := strings.Cut(path, "['")
	if !ok || !strings.HasSuffix(rest, "']") {
		return "", "", false
	}
	return name, strings.TrimSuffix(rest, "']"), true
}

// pairs prints a map as the volume files show it: key="value", sorted, one a line.
func pairs(m map[string]string) string {
	var b strings.Builder
	for i, k := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s=%q", k, m[k])
	}
	return b.String()
}

// Resource returns a request or limit of a container in units of the divisor, rounded up.
func Resource(pod *corev1.Pod, c *corev1.Container, f Facts, ref *corev1.ResourceFieldSelector) (string, error) {
	if ref.ContainerName != "" && (c == nil || c.Name != ref.ContainerName) {
		c = nil
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				if list[i].Name == ref.ContainerName {
					c = &list[i]
				}
			}
		}
	}
	if c == nil {
		return "", fmt.Errorf("container %q not found", ref.ContainerName)
	}
	kind, name, _ := strings.Cut(ref.Resource, ".")
	res := corev1.ResourceName(name)
	var q resource.Quantity
	switch kind {
	case "limits":
		var ok bool
		if q, ok = c.Resources.Limits[res]; (!ok || q.IsZero()) && !isHugePage(res) {
			q = f.Allocatable[res]
		}
	case "requests":
		var ok bool
		if q, ok = c.Resources.Requests[res]; !ok {
			q = c.Resources.Limits[res]
		}
	default:
		return "", fmt.Errorf("unsupported container resource: %v", ref.Resource)
	}
	switch {
	case res == corev1.ResourceCPU:
		d := int64(1000)
		if !ref.Divisor.IsZero() {
			d = ref.Divisor.MilliValue()
		}
		return strconv.FormatInt(ceil(q.MilliValue(), d), 10), nil
	case res == corev1.ResourceMemory, res == corev1.ResourceEphemeralStorage, isHugePage(res):
		d := int64(1)
		if !ref.Divisor.IsZero() {
			d = ref.Divisor.Value()
		}
		return strconv.FormatInt(ceil(q.Value(), d), 10), nil
	}
	return "", fmt.Errorf("unsupported container resource: %v", ref.Resource)
}

func isHugePage(r corev1.ResourceName) bool {
	return strings.HasPrefix(string(r), corev1.ResourceHugePagesPrefix)
}

func ceil(v, d int64) int64 {
	if d <= 0 {
		d = 1
	}
	return (v + d - 1) / d
}
