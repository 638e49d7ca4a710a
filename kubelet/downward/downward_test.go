// SPDX-License-Identifier: Apache-2.0

package downward

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func list(kv ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(kv); i += 2 {
		l[corev1.ResourceName(kv[i])] = resource.MustParse(kv[i+1])
	}
	return l
}

var testPod = &corev1.Pod{
	ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u-1", Labels: map[string]string{"b": "2", "a": "one \"1\""},
		Annotations: map[string]string{"example.com/x": "line 1\nline 2"}},
	Spec: corev1.PodSpec{NodeName: "n1", ServiceAccountName: "sa",
		InitContainers: []corev1.Container{{Name: "init", Resources: corev1.ResourceRequirements{Limits: list("cpu", "3")}}},
		Containers: []corev1.Container{
			{Name: "full", Resources: corev1.ResourceRequirements{
				Limits:   list("cpu", "1250m", "memory", "64Mi", "ephemeral-storage", "1Gi", "hugepages-2Mi", "4Mi"),
				Requests: list("cpu", "250m", "memory", "32Mi")}},
			{Name: "limited", Resources: corev1.ResourceRequirements{Limits: list("cpu", "2")}},
			{Name: "bare"},
		}},
}

var testFacts = Facts{HostIPs: []string{"192.0.2.1", "2001:db8::1"}, PodIPs: []string{"198.51.100.7", "2001:db8::7"},
	Allocatable: list("cpu", "8", "memory", "16Gi", "ephemeral-storage", "100Gi")}

func TestField(t *testing.T) {
	for path, want := range map[string]string{
		"metadata.name":                         "p",
		"metadata.namespace":                    "ns",
		"metadata.uid":                          "u-1",
		"metadata.labels":                       "a=\"one \\\"1\\\"\"\nb=\"2\"", // sorted and quoted
		"metadata.annotations":                  "example.com/x=\"line 1\\nline 2\"",
		"metadata.labels['b']":                  "2",
		"metadata.labels['absent']":             "", // an unset one is no error
		"metadata.annotations['example.com/x']": "line 1\nline 2",
		"spec.nodeName":                         "n1",
		"spec.serviceAccountName":               "sa",
		"status.hostIP":                         "192.0.2.1",
		"status.hostIPs":                        "192.0.2.1,2001:db8::1",
		"status.podIP":                          "198.51.100.7",
		"status.podIPs":                         "198.51.100.7,2001:db8::7",
	} {
		if got, err := Field(testPod, testFacts, path); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"", "spec.restartPolicy", "metadata.labels['a", "spec.nodeName['x']"} {
		if got, err := Field(testPod, testFacts, path); err == nil {
			t.Errorf("%s: accepted as %q", path, got)
		}
	}
	if got, err := Field(&corev1.Pod{}, Facts{}, "status.podIP"); err != nil || got != "" {
		t.Errorf("without addresses: %q, %v", got, err)
	}
}

func TestResource(t *testing.T) {
	own := func(name string) *corev1.Container {
		for _, l := range [][]corev1.Container{testPod.Spec.InitContainers, testPod.Spec.Containers} {
			for i := range l {
				if l[i].Name == name {
					return &l[i]
				}
			}
		}
		return nil
	}
	for name, tc := range map[string]struct {
		self, of, resource, divisor, want string
	}{
		"cpu_rounds_up_to_cores":      {"full", "", "limits.cpu", "", "2"},
		"cpu_in_millis":               {"full", "", "limits.cpu", "1m", "1250"},
		"cpu_request":                 {"full", "", "requests.cpu", "1m", "250"},
		"memory_in_bytes":             {"full", "", "limits.memory", "", "67108864"},
		"memory_in_mebibytes":         {"full", "", "requests.memory", "1Mi", "32"},
		"memory_rounds_up":            {"full", "", "requests.memory", "1Gi", "1"},
		"storage":                     {"full", "", "limits.ephemeral-storage", "1Mi", "1024"},
		"hugepages":                   {"full", "", "limits.hugepages-2Mi", "1Mi", "4"},
		"another_container":           {"bare", "full", "limits.cpu", "1m", "1250"},
		"an_init_container":           {"bare", "init", "limits.cpu", "", "3"},
		"volume_names_its_container":  {"", "limited", "limits.cpu", "", "2"},
		"request_follows_limit":       {"limited", "", "requests.cpu", "", "2"},
		"limit_defaults_to_node":      {"bare", "", "limits.cpu", "", "8"},
		"memory_limit_defaults":       {"limited", "", "limits.memory", "1Gi", "16"},
		"storage_limit_defaults":      {"bare", "", "limits.ephemeral-storage", "1Gi", "100"},
		"request_defaults_to_nothing": {"bare", "", "requests.memory", "", "0"},
		"hugepages_have_no_default":   {"bare", "", "limits.hugepages-2Mi", "1Mi", "0"},
	} {
		t.Run(name, func(t *testing.T) {
			ref := &corev1.ResourceFieldSelector{ContainerName: tc.of, Resource: tc.resource}
			if tc.divisor != "" {
				ref.Divisor = resource.MustParse(tc.divisor)
			}
			if got, err := Resource(testPod, own(tc.self), testFacts, ref); err != nil || got != tc.want {
				t.Errorf("%q, %v; want %q", got, err, tc.want)
			}
		})
	}
	for _, ref := range []corev1.ResourceFieldSelector{
		{ContainerName: "nobody", Resource: "limits.cpu"}, {ContainerName: "full", Resource: "usage.cpu"},
		{ContainerName: "full", Resource: "limits.example.com/dongle"}, {Resource: "limits.cpu"},
	} {
		if got, err := Resource(testPod, nil, testFacts, &ref); err == nil {
			t.Errorf("%+v: accepted as %q", ref, got)
		}
	}
}

// FuzzField gives it paths as a pod may have them.
func FuzzField(f *testing.F) {
	for _, s := range []string{"metadata.labels['a']", "metadata.labels['']", "metadata.labels['']']", "['", "status.podIPs", "metadata.annotations['a'"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if v, err := Field(testPod, testFacts, path); err != nil && v != "" {
			t.Errorf("%q: both %q and %v", path, v, err)
		}
	})
}
