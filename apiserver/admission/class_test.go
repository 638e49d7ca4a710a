package admission

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/utils/ptr"
)

func check(t *testing.T, err error, want string) {
	t.Helper()
	got := ""
	if err != nil {
		got = err.Error()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func priorityClass(name string, value int32, global bool, policy corev1.PreemptionPolicy) *schedulingv1.PriorityClass {
	return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, GlobalDefault: global, PreemptionPolicy: &policy}
}

func TestPriority(t *testing.T) {
	never := priorityClass("polite", 7, false, corev1.PreemptNever)
	for _, c := range []struct {
		name    string
		classes []runtime.Object
		change  func(*corev1.Pod)
		class   string
		value   int32
		policy  corev1.PreemptionPolicy
		want    string
	}{
		{"none", nil, nil, "", 0, "PreemptLowerPriority", ""},
		{"named", []runtime.Object{never}, func(p *corev1.Pod) { p.Spec.PriorityClassName = "polite" }, "polite", 7, "Never", ""},
		{"default", []runtime.Object{priorityClass("usual", 3, true, corev1.PreemptLowerPriority), priorityClass("more", 4, true, corev1.PreemptLowerPriority)}, nil, "usual", 3, "PreemptLowerPriority", ""},
		{"named_before_default", []runtime.Object{never, priorityClass("usual", 3, true, corev1.PreemptLowerPriority)}, func(p *corev1.Pod) { p.Spec.PriorityClassName = "polite" }, "polite", 7, "Never", ""},
		{"system", nil, func(p *corev1.Pod) { p.Spec.PriorityClassName = "system-node-critical" }, "system-node-critical", 2000001000, "PreemptLowerPriority", ""},
		{"unknown", nil, func(p *corev1.Pod) { p.Spec.PriorityClassName = "who" }, "who", 0, "", `pods "p" is forbidden: no PriorityClass with name who was found`},
		{"other_number", []runtime.Object{never}, func(p *corev1.Pod) { p.Spec.PriorityClassName, p.Spec.Priority = "polite", ptr.To[int32](8) }, "", 0, "",
			`pods "p" is forbidden: the integer value of priority (8) must not be provided in pod spec; priority admission controller computed 7 from the given PriorityClass name`},
		{"other_policy", []runtime.Object{never}, func(p *corev1.Pod) {
			p.Spec.PriorityClassName, p.Spec.PreemptionPolicy = "polite", ptr.To(corev1.PreemptLowerPriority)
		}, "", 0, "",
			`pods "p" is forbidden: the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided in pod spec; priority admission controller computed Never from the given PriorityClass name`},
	} {
		t.Run(c.name, func(t *testing.T) {
			chain, _ := chainFor(t, append(base(), c.classes...)...)
			p := newPod(c.change)
			err := run(t, chain, createPod(p))
			check(t, err, c.want)
			if err == nil && (p.Spec.PriorityClassName != c.class || *p.Spec.Priority != c.value || *p.Spec.PreemptionPolicy != c.policy) {
				t.Errorf("got %q %d %s", p.Spec.PriorityClassName, *p.Spec.Priority, *p.Spec.PreemptionPolicy)
			}
		})
	}
	chain, _ := chainFor(t, append(base(), priorityClass("usual", 3, true, corev1.PreemptLowerPriority))...)
	second := write{resource: schedulingv1.SchemeGroupVersion.WithResource("priorityclasses"), name: "more", op: admission.Create, obj: priorityClass("more", 4, true, corev1.PreemptLowerPriority)}
	check(t, run(t, chain, second), `priorityclasses.scheduling.k8s.io "more" is forbidden: PriorityClass usual is already marked as default. Only one default can exist`)
}

func TestRuntimeClass(t *testing.T) {
	heavy := &nodev1.RuntimeClass{
		ObjectMeta: metav1.ObjectMeta{Name: "heavy"}, Handler: "h", Overhead: &nodev1.Overhead{PodFixed: amounts("cpu=250m")},
		Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"kind": "vm"}, Tolerations: []corev1.Toleration{{Key: "vm"}}},
	}
	named := func(change func(*corev1.Pod)) *corev1.Pod {
		return newPod(func(p *corev1.Pod) {
			p.Spec.RuntimeClassName = ptr.To("heavy")
			if change != nil {
				change(p)
			}
		})
	}
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		want string
	}{
		{"merged", named(func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"zone": "a"} }), ""},
		{"same_overhead", named(func(p *corev1.Pod) { p.Spec.Overhead = amounts("cpu=250m") }), ""},
		{"other_overhead", named(func(p *corev1.Pod) { p.Spec.Overhead = amounts("cpu=1") }), `pods "p" is forbidden: pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead`},
		{"overhead_without_class", newPod(func(p *corev1.Pod) { p.Spec.Overhead = amounts("cpu=1") }), `pods "p" is forbidden: pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead`},
		{"unknown", newPod(func(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr.To("who") }), `pods "p" is forbidden: pod rejected: RuntimeClass "who" not found`},
		{"conflict", named(func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"kind": "metal"} }),
			`pods "p" is forbidden: conflict: runtimeClass.scheduling.nodeSelector[kind] = vm; pod.spec.nodeSelector[kind] = metal`},
	} {
		t.Run(c.name, func(t *testing.T) {
			chain, _ := chainFor(t, append(base(), heavy)...)
			err := run(t, chain, createPod(c.pod))
			check(t, err, c.want)
			if err == nil && (c.pod.Spec.NodeSelector["kind"] != "vm" || c.pod.Spec.Overhead.Cpu().String() != "250m" || c.pod.Spec.Tolerations[len(c.pod.Spec.Tolerations)-1].Key != "vm") {
				t.Errorf("got %+v", c.pod.Spec)
			}
		})
	}
}

func TestDefaultClasses(t *testing.T) {
	day := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	storage := func(name string, age int, annotation string) *storagev1.StorageClass {
		return &storagev1.StorageClass{
			ObjectMeta:           metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(day.AddDate(0, 0, -age)), Annotations: map[string]string{annotation: "true"}},
			AllowVolumeExpansion: ptr.To(name == "grows"),
		}
	}
	ingress := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: "front", Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}}}
	chain, _ := chainFor(t, append(base(), storage("old", 3, defaultStorageAnnotation), storage("z", 1, defaultStorageBetaAnnotation), storage("a", 1, defaultStorageAnnotation),
		storage("grows", 0, "x"), ingress)...)
	claimOf := func(class *string, size string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"},
			Spec:       corev1.PersistentVolumeClaimSpec{StorageClassName: class, Resources: corev1.VolumeResourceRequirements{Requests: amounts("storage=" + size)}},
			Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
		}
	}
	claims := corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims")
	create := func(c *corev1.PersistentVolumeClaim) string {
		if err := run(t, chain, write{resource: claims, namespace: "ns", name: "c", op: admission.Create, obj: c}); err != nil {
			t.Fatal(err)
		}
		return ptr.Deref(c.Spec.StorageClassName, "<nil>")
	}
	beta := claimOf(nil, "1Gi")
	beta.Annotations = map[string]string{corev1.BetaStorageClassAnnotation: "x"}
	for want, c := range map[string]*corev1.PersistentVolumeClaim{"a": claimOf(nil, "1Gi"), "own": claimOf(ptr.To("own"), "1Gi"), "": claimOf(ptr.To(""), "1Gi"), "<nil>": beta} {
		if got := create(c); got != want {
			t.Errorf("class %q, not %q", got, want)
		}
	}
	unbound := claimOf(ptr.To("grows"), "1Gi")
	unbound.Status.Phase = corev1.ClaimPending
	for _, c := range []struct {
		name     string
		old, new *corev1.PersistentVolumeClaim
		want     string
	}{
		{"grows", claimOf(ptr.To("grows"), "1Gi"), claimOf(ptr.To("grows"), "2Gi"), ""},
		{"same", claimOf(ptr.To("a"), "1Gi"), claimOf(ptr.To("a"), "1Gi"), ""},
		{"unbound", unbound, claimOf(ptr.To("grows"), "2Gi"), `persistentvolumeclaims "c" is forbidden: only bound persistent volume claims can be expanded`},
		{"fixed", claimOf(ptr.To("a"), "1Gi"), claimOf(ptr.To("a"), "2Gi"),
			`persistentvolumeclaims "c" is forbidden: only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize`},
	} {
		t.Run(c.name, func(t *testing.T) {
			check(t, run(t, chain, write{resource: claims, namespace: "ns", name: "c", op: admission.Update, obj: c.new, old: c.old}), c.want)
		})
	}
	for want, i := range map[string]*networkingv1.Ingress{
		"front": {}, "own": {Spec: networkingv1.IngressSpec{IngressClassName: ptr.To("own")}},
		"<nil>": {ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{ingressClassAnnotation: "x"}}},
	} {
		if err := run(t, chain, write{resource: networkingv1.SchemeGroupVersion.WithResource("ingresses"), namespace: "ns", name: "i", op: admission.Create, obj: i}); err != nil {
			t.Fatal(err)
		}
		if got := ptr.Deref(i.Spec.IngressClassName, "<nil>"); got != want {
			t.Errorf("class %q, not %q", got, want)
		}
	}
}
