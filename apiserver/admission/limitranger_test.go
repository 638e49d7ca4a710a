package admission

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
)

func limitRange(name string, items ...corev1.LimitRangeItem) *corev1.LimitRange {
	return &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.LimitRangeSpec{Limits: items}}
}

func TestLimitRangerSetsDefaults(t *testing.T) {
	c, _ := chainFor(t, append(base(),
		limitRange("a", corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Default: amounts("cpu=500m memory=500Mi"), DefaultRequest: amounts("cpu=100m")}),
		limitRange("b", corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Default: amounts("cpu=9"), DefaultRequest: amounts("memory=200Mi")}))...)
	p := newPod(func(p *corev1.Pod) {
		p.Spec.Containers = []corev1.Container{{Name: "bare"}, {Name: "own", Resources: corev1.ResourceRequirements{
			Requests: amounts("cpu=1 memory=1Mi"), Limits: amounts("cpu=2 memory=2Mi"),
		}}}
		p.Spec.InitContainers = []corev1.Container{{Name: "init", Resources: corev1.ResourceRequirements{Limits: amounts("cpu=3")}}}
	})
	if err := run(t, c, createPod(p)); err != nil {
		t.Fatal(err)
	}
	for i, want := range []corev1.ResourceRequirements{
		{Requests: amounts("cpu=100m memory=200Mi"), Limits: amounts("cpu=500m memory=500Mi")},
		{Requests: amounts("cpu=1 memory=1Mi"), Limits: amounts("cpu=2 memory=2Mi")},
	} {
		if diff := cmp.Diff(want, p.Spec.Containers[i].Resources); diff != "" {
			t.Errorf("%s: %s", p.Spec.Containers[i].Name, diff)
		}
	}
	want := corev1.ResourceRequirements{Requests: amounts("cpu=100m memory=200Mi"), Limits: amounts("cpu=3 memory=500Mi")}
	if diff := cmp.Diff(want, p.Spec.InitContainers[0].Resources); diff != "" {
		t.Error(diff)
	}
	if note := p.Annotations[limitRangerAnnotation]; note != "LimitRanger plugin set: memory request for container bare; memory request for init container init" {
		t.Errorf("the last range says what it has set: %q", note)
	}
}

func TestLimitRangerHoldsToLimits(t *testing.T) {
	container := func(change func(*corev1.LimitRangeItem)) corev1.LimitRangeItem {
		i := corev1.LimitRangeItem{Type: corev1.LimitTypeContainer}
		change(&i)
		return i
	}
	least := container(func(i *corev1.LimitRangeItem) { i.Min = amounts("cpu=100m") })
	most := container(func(i *corev1.LimitRangeItem) { i.Max = amounts("cpu=1") })
	ratio := container(func(i *corev1.LimitRangeItem) { i.MaxLimitRequestRatio = amounts("cpu=1500m") })
	whole := corev1.LimitRangeItem{Type: corev1.LimitTypePod, Max: amounts("cpu=1")}
	claims := corev1.LimitRangeItem{Type: corev1.LimitTypePersistentVolumeClaim, Min: amounts("storage=1Gi"), Max: amounts("storage=4Gi")}
	pod := func(requests, limits string) write {
		return createPod(newPod(func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: amounts(requests), Limits: amounts(limits)}
		}))
	}
	two := createPod(newPod(func(p *corev1.Pod) {
		r := corev1.ResourceRequirements{Requests: amounts("cpu=600m"), Limits: amounts("cpu=600m")}
		p.Spec.Containers = []corev1.Container{{Name: "a", Resources: r}, {Name: "b", Resources: r}}
		p.Spec.Overhead = amounts("cpu=5")
	}))
	claim := func(storage string) write {
		return write{resource: corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims"), namespace: "ns", name: "c", op: admission.Create,
			obj: &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: amounts(storage)}}}}
	}
	update := pod("cpu=1m", "cpu=1m")
	update.op, update.old = admission.Update, update.obj
	resize := update
	resize.sub = "resize"
	const pods = `pods "p" is forbidden: `
	for _, c := range []struct {
		name  string
		limit corev1.LimitRangeItem
		w     write
		want  string
	}{
		{"min_ok", least, pod("cpu=100m", ""), ""},
		{"min_request", least, pod("cpu=99m", ""), pods + "minimum cpu usage per Container is 100m, but request is 99m"},
		{"min_none", least, pod("", ""), pods + "minimum cpu usage per Container is 100m.  No request is specified"},
		{"min_limit", least, pod("cpu=100m", "cpu=50m"), pods + "minimum cpu usage per Container is 100m, but limit is 50m"},
		{"max_ok", most, pod("cpu=1", "cpu=1"), ""},
		{"max_none", most, pod("", ""), pods + "maximum cpu usage per Container is 1.  No limit is specified"},
		{"max_limit", most, pod("", "cpu=2"), pods + "maximum cpu usage per Container is 1, but limit is 2"},
		{"max_request", most, pod("cpu=2", "cpu=1"), pods + "maximum cpu usage per Container is 1, but request is 2"},
		{"ratio_ok", ratio, pod("cpu=100m", "cpu=150m"), ""},
		{"ratio_wide", ratio, pod("cpu=100m", "cpu=200m"), pods + "cpu max limit to request ratio per Container is 1500m, but provided ratio is 2.000000"},
		{"ratio_no_request", ratio, pod("", "cpu=1"), pods + "cpu max limit to request ratio per Container is 1500m, but no request is specified or request is 0"},
		{"ratio_no_limit", ratio, pod("cpu=1", ""), pods + "cpu max limit to request ratio per Container is 1500m, but no limit is specified or limit is 0"},
		{"pod_sum", whole, two, "pods \"p\" is forbidden: maximum cpu usage per Pod is 1, but limit is 1200m"},
		{"claim_ok", claims, claim("storage=2Gi"), ""},
		{"claim_small", claims, claim("storage=1Mi"), `persistentvolumeclaims "c" is forbidden: minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi`},
		{"claim_large", claims, claim("storage=5Gi"), `persistentvolumeclaims "c" is forbidden: maximum storage usage per PersistentVolumeClaim is 4Gi, but request is 5Gi`},
		{"update_is_left_alone", least, update, ""},
		{"resize_is_not", least, resize, pods + "minimum cpu usage per Container is 100m, but request is 1m"},
	} {
		t.Run(c.name, func(t *testing.T) {
			chain, _ := chainFor(t, append(base(), limitRange("l", c.limit))...)
			got := ""
			if err := run(t, chain, c.w); err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
