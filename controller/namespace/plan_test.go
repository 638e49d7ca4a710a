package namespace

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/mini-k8s/mini/controller/resource"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestConditions(t *testing.T) {
	pods := &resource.Resource{GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "pods"}}
	sets := &resource.Resource{GroupVersionResource: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "replicasets"}}
	item := func(finalizers ...string) metav1.PartialObjectMetadata {
		return metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Finalizers: finalizers}}
	}
	r := &report{left: map[string]int{}, finalizers: map[string]int{}}
	r.remains(pods, []metav1.PartialObjectMetadata{item(), item("b", "a")})
	r.remains(sets, []metav1.PartialObjectMetadata{item("a")})
	r.remains(sets, nil)
	if r.empty() {
		t.Fatal("empty")
	}
	first := r.conditions(nil, t0)
	want := map[corev1.NamespaceConditionType]string{
		corev1.NamespaceDeletionDiscoveryFailure: "False ResourcesDiscovered All resources successfully discovered",
		corev1.NamespaceDeletionGVParsingFailure: "False ParsedGroupVersions All legacy kube types successfully parsed",
		corev1.NamespaceDeletionContentFailure:   "False ContentDeleted All content successfully deleted, may be waiting on finalization",
		corev1.NamespaceContentRemaining:         "True SomeResourcesRemain Some resources are remaining: pods. has 2 resource instances, replicasets.apps has 1 resource instances",
		corev1.NamespaceFinalizersRemaining:      "True SomeFinalizersRemain Some content in the namespace has finalizers remaining: a in 2 resource instances, b in 1 resource instances",
	}
	got := map[corev1.NamespaceConditionType]string{}
	for _, c := range first {
		got[c.Type] = string(c.Status) + " " + c.Reason + " " + c.Message
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(first, r.conditions(first, t0.Add(time.Hour))); d != "" {
		t.Errorf("second run: %s", d)
	}
	later := (&report{}).conditions(first, t0.Add(time.Hour))
	for _, c := range later {
		if c.Status != corev1.ConditionFalse {
			t.Errorf("at the end %s is %s", c.Type, c.Status)
		}
		moved := c.Type == corev1.NamespaceContentRemaining || c.Type == corev1.NamespaceFinalizersRemaining
		if moved != c.LastTransitionTime.Time.Equal(t0.Add(time.Hour)) {
			t.Errorf("%s changed at %s", c.Type, c.LastTransitionTime)
		}
	}
	for name, r := range map[string]*report{"discovery": {discovery: errors.New("x")}, "failure": {failures: []error{errors.New("x")}}} {
		if r.empty() {
			t.Errorf("%s: the namespace would go although something failed", name)
		}
	}
}

func TestAgain(t *testing.T) {
	for age, want := range map[time.Duration]time.Duration{0: 250 * time.Millisecond, 4 * time.Second: time.Second, time.Hour: 30 * time.Second} {
		if got := again(t0, t0.Add(age)); got != want {
			t.Errorf("after %s: %s, want %s", age, got, want)
		}
	}
}
