package quota

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

// amounts reads "cpu=1 memory=2Gi".
func amounts(s string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for _, part := range strings.Fields(s) {
		name, value, _ := strings.Cut(part, "=")
		list[corev1.ResourceName(name)] = resource.MustParse(value)
	}
	return list
}

func podAsking(requests, limits string) *corev1.Pod {
	return &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "c", Resources: corev1.ResourceRequirements{Requests: amounts(requests), Limits: amounts(limits)},
	}}}}
}

func shown(list corev1.ResourceList) string { return text(list) }

func TestUsage(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ended := podAsking("cpu=1", "")
	ended.Status.Phase = corev1.PodSucceeded
	overdue := podAsking("cpu=1", "")
	overdue.DeletionTimestamp, overdue.DeletionGracePeriodSeconds = &metav1.Time{Time: now.Add(-31 * time.Second)}, ptr.To[int64](30)
	going := podAsking("cpu=1", "")
	going.DeletionTimestamp, going.DeletionGracePeriodSeconds = &metav1.Time{Time: now.Add(-29 * time.Second)}, ptr.To[int64](30)
	withInit := podAsking("cpu=1", "")
	withInit.Spec.InitContainers = []corev1.Container{{Name: "i", Resources: corev1.ResourceRequirements{Requests: amounts("cpu=3")}}}
	withInit.Spec.Overhead = amounts("cpu=250m")
	service := func(typ corev1.ServiceType, ports int, allocate *bool) *corev1.Service {
		return &corev1.Service{Spec: corev1.ServiceSpec{Type: typ, Ports: make([]corev1.ServicePort, ports), AllocateLoadBalancerNodePorts: allocate}}
	}
	claim := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: ptr.To("gold"), Resources: corev1.VolumeResourceRequirements{Requests: amounts("storage=10Gi")},
	}}
	grown := claim.DeepCopy()
	grown.Spec.StorageClassName = nil
	grown.Status.AllocatedResources = amounts("storage=20Gi")
	for _, c := range []struct {
		name string
		gr   string
		obj  any
		want string
	}{
		{"configmap", "configmaps", nil, "configmaps=1,count/configmaps=1"},
		{"custom", "widgets.example.com", nil, "count/widgets.example.com=1"},
		{"same_name_elsewhere", "secrets.example.com", nil, "count/secrets.example.com=1"},
		{"pod", "pods", podAsking("cpu=1 memory=1Gi ephemeral-storage=2Gi hugepages-2Mi=4Mi example.com/gpu=2", "cpu=2 memory=2Gi ephemeral-storage=3Gi example.com/gpu=2"),
			"count/pods=1,cpu=1,ephemeral-storage=2Gi,hugepages-2Mi=4Mi,limits.cpu=2,limits.ephemeral-storage=3Gi,limits.memory=2Gi,memory=1Gi,pods=1," +
				"requests.cpu=1,requests.ephemeral-storage=2Gi,requests.example.com/gpu=2,requests.hugepages-2Mi=4Mi,requests.memory=1Gi"},
		{"pod_init_overhead", "pods", withInit, "count/pods=1,cpu=3250m,pods=1,requests.cpu=3250m"},
		{"pod_ended", "pods", ended, "count/pods=1"},
		{"pod_overdue", "pods", overdue, "count/pods=1"},
		{"pod_going", "pods", going, "count/pods=1,cpu=1,pods=1,requests.cpu=1"},
		{"clusterip", "services", service(corev1.ServiceTypeClusterIP, 2, nil), "count/services=1,services=1,services.loadbalancers=0,services.nodeports=0"},
		{"nodeport", "services", service(corev1.ServiceTypeNodePort, 2, nil), "count/services=1,services=1,services.loadbalancers=0,services.nodeports=2"},
		{"loadbalancer", "services", service(corev1.ServiceTypeLoadBalancer, 2, nil), "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2"},
		{"loadbalancer_without_ports", "services", service(corev1.ServiceTypeLoadBalancer, 2, ptr.To(false)), "count/services=1,services=1,services.loadbalancers=1,services.nodeports=0"},
		{"claim", "persistentvolumeclaims", claim, "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1," +
			"gold.storageclass.storage.k8s.io/requests.storage=10Gi,persistentvolumeclaims=1,requests.storage=10Gi"},
		{"claim_grown", "persistentvolumeclaims", grown, "count/persistentvolumeclaims=1,persistentvolumeclaims=1,requests.storage=20Gi"},
	} {
		t.Run(c.name, func(t *testing.T) {
			used := Usage(schema.ParseGroupResource(c.gr), c.obj, now)
			if diff := cmp.Diff(c.want, shown(used)); diff != "" {
				t.Error(diff)
			}
			for name := range used {
				if gr, ok := Resource(name); !ok || gr != schema.ParseGroupResource(c.gr) {
					t.Errorf("%s is said to be about %v, %v", name, gr, ok)
				}
			}
		})
	}
}

func TestInScope(t *testing.T) {
	best, burst := podAsking("", ""), podAsking("cpu=1", "")
	ending := podAsking("", "")
	ending.Spec.ActiveDeadlineSeconds = ptr.To[int64](60)
	high := podAsking("", "")
	high.Spec.PriorityClassName = "high"
	across := podAsking("", "")
	across.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
		{PodAffinityTerm: corev1.PodAffinityTerm{Namespaces: []string{"other"}}},
	}}}
	fast := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: ptr.To("fast")}}
	scope := func(s corev1.ResourceQuotaScope) *corev1.ResourceQuotaSpec {
		return &corev1.ResourceQuotaSpec{Scopes: []corev1.ResourceQuotaScope{s}}
	}
	selector := func(s corev1.ResourceQuotaScope, op corev1.ScopeSelectorOperator, values ...string) *corev1.ResourceQuotaSpec {
		return &corev1.ResourceQuotaSpec{ScopeSelector: &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{{ScopeName: s, Operator: op, Values: values}}}}
	}
	for _, c := range []struct {
		name string
		spec *corev1.ResourceQuotaSpec
		in   []any
		out  []any
	}{
		{"none", &corev1.ResourceQuotaSpec{}, []any{best, fast, nil}, nil},
		{"best_effort", scope(corev1.ResourceQuotaScopeBestEffort), []any{best, ending}, []any{burst, fast, nil}},
		{"not_best_effort", scope(corev1.ResourceQuotaScopeNotBestEffort), []any{burst}, []any{best}},
		{"terminating", scope(corev1.ResourceQuotaScopeTerminating), []any{ending}, []any{best}},
		{"not_terminating", scope(corev1.ResourceQuotaScopeNotTerminating), []any{best}, []any{ending}},
		{"any_class", selector(corev1.ResourceQuotaScopePriorityClass, corev1.ScopeSelectorOpExists), []any{high}, []any{best}},
		{"class_high", selector(corev1.ResourceQuotaScopePriorityClass, corev1.ScopeSelectorOpIn, "high"), []any{high}, []any{best}},
		{"class_other", selector(corev1.ResourceQuotaScopePriorityClass, corev1.ScopeSelectorOpNotIn, "high"), []any{best}, []any{high}},
		{"no_class", selector(corev1.ResourceQuotaScopePriorityClass, corev1.ScopeSelectorOpDoesNotExist), []any{best}, []any{high}},
		{"affinity", scope(corev1.ResourceQuotaScopeCrossNamespacePodAffinity), []any{across}, []any{best}},
		{"volume_class", selector(corev1.ResourceQuotaScopeVolumeAttributesClass, corev1.ScopeSelectorOpIn, "fast"), []any{fast}, []any{best, &corev1.PersistentVolumeClaim{}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, o := range c.in {
				if !InScope(c.spec, o) {
					t.Errorf("not in scope: %T %+v", o, o)
				}
			}
			for _, o := range c.out {
				if InScope(c.spec, o) {
					t.Errorf("in scope: %T %+v", o, o)
				}
			}
		})
	}
}

func quotaOf(hard, used string) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: amounts(hard)},
		Status: corev1.ResourceQuotaStatus{Hard: amounts(hard), Used: amounts(used)},
	}
}

func TestCharge(t *testing.T) {
	nodePort := &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: make([]corev1.ServicePort, 1)}}
	uncounted := quotaOf("pods=1", "")
	uncounted.Status = corev1.ResourceQuotaStatus{}
	for _, c := range []struct {
		name  string
		quota *corev1.ResourceQuota
		req   Request
		want  string // amounts, or what the error says
	}{
		{"fits", quotaOf("pods=2", "pods=1"), Request{Resource: pods, Object: podAsking("", "")}, "pods=2"},
		{"full", quotaOf("pods=2 cpu=1", "pods=2 cpu=500m"), Request{Resource: pods, Object: podAsking("cpu=100m", "")},
			"exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"},
		{"two_exceeded", quotaOf("pods=2 cpu=1", "pods=2 cpu=1"), Request{Resource: pods, Object: podAsking("cpu=100m", "")},
			"exceeded quota: q, requested: cpu=100m,pods=1, used: cpu=1,pods=2, limited: cpu=1,pods=2"},
		{"must_say_cpu", quotaOf("cpu=1 limits.memory=1Gi", "cpu=0 limits.memory=0"), Request{Resource: pods, Object: podAsking("", "")},
			"failed quota: q: must specify cpu for: c; limits.memory for: c"},
		{"other_kind", quotaOf("pods=1", "pods=1"), Request{Resource: corev1.Resource("secrets")}, "pods=1"},
		{"before_the_first_count", uncounted, Request{Resource: pods, Object: podAsking("", "")}, ""},
		{"name_not_counted_yet", quotaOf("pods=1", ""), Request{Resource: pods, Object: podAsking("", "")}, "status unknown for quota: q, resources: pods"},
		{"custom", quotaOf("count/widgets.example.com=1", "count/widgets.example.com=0"), Request{Resource: schema.ParseGroupResource("widgets.example.com")}, "count/widgets.example.com=1"},
		{"update_without_more", quotaOf("services=1 services.nodeports=1", "services=1 services.nodeports=1"), Request{Resource: services, Object: nodePort, Old: nodePort}, "services=1,services.nodeports=1"},
		{"update_with_more", quotaOf("services=1 services.nodeports=0", "services=1 services.nodeports=0"), Request{Resource: services, Object: nodePort, Old: &corev1.Service{}},
			"exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=0, limited: services.nodeports=0"},
		{"over_already_but_asks_for_nothing", quotaOf("pods=1 cpu=1", "pods=0 cpu=5"), Request{Resource: corev1.Resource("pods"), Object: podAsking("cpu=0", "")}, "cpu=5,pods=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			used, err := Charge(c.quota, c.req)
			got := shown(used)
			if err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestChargesAddUp: whatever is admitted one after the other, the charge is what a count of the admitted finds, and never
// above the quota.
func TestChargesAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hard := corev1.ResourceList{
			corev1.ResourcePods:        *resource.NewQuantity(rapid.Int64Range(0, 10).Draw(t, "pods"), resource.DecimalSI),
			corev1.ResourceRequestsCPU: *resource.NewMilliQuantity(rapid.Int64Range(0, 5000).Draw(t, "cpu"), resource.DecimalSI),
			corev1.ResourceLimitsCPU:   *resource.NewMilliQuantity(rapid.Int64Range(0, 9000).Draw(t, "limits"), resource.DecimalSI),
		}
		spec := corev1.ResourceQuotaSpec{Hard: hard}
		if rapid.Bool().Draw(t, "scoped") {
			spec.Scopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeNotTerminating}
		}
		q := &corev1.ResourceQuota{Spec: spec, Status: corev1.ResourceQuotaStatus{Hard: hard, Used: NewSum(&spec).Used()}}
		sum := NewSum(&spec)
		for range rapid.IntRange(0, 20).Draw(t, "n") {
			request := rapid.Int64Range(0, 1000).Draw(t, "request")
			pod := podAsking("", "")
			c := &pod.Spec.Containers[0].Resources
			c.Requests = corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(request, resource.DecimalSI)}
			c.Limits = corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(2*request, resource.DecimalSI)}
			if rapid.Bool().Draw(t, "ends") {
				pod.Spec.ActiveDeadlineSeconds = ptr.To[int64](5)
			}
			before := q.DeepCopy()
			used, err := Charge(q, Request{Resource: pods, Object: pod})
			if !cmp.Equal(before, q) {
				t.Fatal("the quota was changed")
			}
			if err == nil {
				q.Status.Used = used
				sum.Add(pods, pod, time.Time{})
			}
		}
		if !Equal(q.Status.Used, sum.Used()) {
			t.Fatalf("charged %s, counted %s", shown(q.Status.Used), shown(sum.Used()))
		}
		if Below(hard, q.Status.Used) {
			t.Fatalf("charged %s of %s", shown(q.Status.Used), shown(hard))
		}
	})
}
