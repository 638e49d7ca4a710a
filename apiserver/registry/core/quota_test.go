package core

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func amounts(s string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for _, part := range strings.Fields(s) {
		name, value, _ := strings.Cut(part, "=")
		list[corev1.ResourceName(name)] = resource.MustParse(value)
	}
	return list
}

func checkErrors(t *testing.T, errs field.ErrorList, want []string) {
	t.Helper()
	var got []string
	for _, err := range errs {
		got = append(got, err.Error())
	}
	if len(got) != len(want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	for i := range want {
		if !strings.Contains(got[i], want[i]) {
			t.Errorf("got %q, want %q", got[i], want[i])
		}
	}
}

func TestLimitRange(t *testing.T) {
	row := LimitRange()
	for _, c := range []struct {
		name string
		item corev1.LimitRangeItem
		want []string
	}{
		{"good", corev1.LimitRangeItem{Type: "Container", Min: amounts("cpu=1"), Max: amounts("cpu=4"), MaxLimitRequestRatio: amounts("cpu=2")}, nil},
		{"good_claim", corev1.LimitRangeItem{Type: "PersistentVolumeClaim", Max: amounts("storage=1Gi")}, nil},
		{"foreign_type", corev1.LimitRangeItem{Type: "example.com/Thing", Max: amounts("storage=1Gi")}, nil},
		{"type", corev1.LimitRangeItem{Type: "Thing"}, []string{`spec.limits[0].type: Invalid value: "Thing": must be a standard limit type or fully qualified`}},
		{"pod_default", corev1.LimitRangeItem{Type: "Pod", Default: amounts("cpu=1")}, []string{"spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"}},
		{"claim_without", corev1.LimitRangeItem{Type: "PersistentVolumeClaim", Max: amounts("memory=1")}, []string{"either minimum or maximum storage value is required"}},
		{"resource", corev1.LimitRangeItem{Type: "Container", Max: amounts("pods=1")}, []string{"must be a standard resource for containers", "must be a standard resource for containers", "must be a standard resource for containers"}},
		{"min_max", corev1.LimitRangeItem{Type: "Pod", Min: amounts("cpu=2"), Max: amounts("cpu=1")}, []string{`spec.limits[0].min[cpu]: Invalid value: "2": min value 2 is greater than max value 1`}},
		{"default_request", corev1.LimitRangeItem{Type: "Container", DefaultRequest: amounts("cpu=2"), Default: amounts("cpu=1")}, []string{"default request value 2 is greater than default limit value 1"}},
		{"default", corev1.LimitRangeItem{Type: "Container", Max: amounts("cpu=1"), Default: amounts("cpu=2"), DefaultRequest: amounts("cpu=1")}, []string{`spec.limits[0].default[cpu]: Invalid value: "1": default value 2 is greater than max value 1`}},
		{"ratio", corev1.LimitRangeItem{Type: "Pod", MaxLimitRequestRatio: amounts("cpu=500m")}, []string{"ratio 500m is less than 1"}},
		{"ratio_wide", corev1.LimitRangeItem{Type: "Pod", Min: amounts("cpu=1"), Max: amounts("cpu=2"), MaxLimitRequestRatio: amounts("cpu=3")}, []string{"ratio 3 is greater than max/min = 2.000000"}},
		{"overcommit", corev1.LimitRangeItem{Type: "Container", Default: amounts("example.com/a=2"), DefaultRequest: amounts("example.com/a=1")}, []string{"default value 2 must equal to defaultRequest value 1 in example.com/a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "l"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{c.item}}}
			row.Default(l)
			checkErrors(t, row.Strategy.Validate(t.Context(), l), c.want)
			checkErrors(t, row.Strategy.ValidateUpdate(t.Context(), l, l), c.want)
		})
	}
	two := &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "l"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{Type: "Pod"}, {Type: "Pod"}}}}
	checkErrors(t, row.Strategy.Validate(t.Context(), two), []string{`spec.limits[1].type: Duplicate value: "Pod"`})

	l := &corev1.LimitRange{Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{Type: "Container", Min: amounts("memory=1Mi"), Max: amounts("cpu=2"), Default: amounts("memory=5Mi")}}}}
	row.Default(l)
	want := corev1.LimitRangeItem{
		Type: "Container", Min: amounts("memory=1Mi"), Max: amounts("cpu=2"),
		Default: amounts("memory=5Mi cpu=2"), DefaultRequest: amounts("memory=5Mi cpu=2"),
	}
	if diff := cmp.Diff(want, l.Spec.Limits[0]); diff != "" {
		t.Error(diff)
	}
}

func TestResourceQuota(t *testing.T) {
	row := ResourceQuota()
	scopes := func(s ...corev1.ResourceQuotaScope) []corev1.ResourceQuotaScope { return s }
	selector := func(r ...corev1.ScopedResourceSelectorRequirement) *corev1.ScopeSelector {
		return &corev1.ScopeSelector{MatchExpressions: r}
	}
	for _, c := range []struct {
		name string
		spec corev1.ResourceQuotaSpec
		want []string
	}{
		{"good", corev1.ResourceQuotaSpec{Hard: amounts("pods=1 cpu=1 limits.memory=1Gi requests.example.com/gpu=1 count/widgets.example.com=3 requests.hugepages-2Mi=4Mi gold.storageclass.storage.k8s.io/requests.storage=1Gi")}, nil},
		{"name", corev1.ResourceQuotaSpec{Hard: amounts("potatoes=1")}, []string{"must be a standard resource type or fully qualified", "must be a standard resource for quota"}},
		{"negative", corev1.ResourceQuotaSpec{Hard: amounts("pods=-1")}, []string{"spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0"}},
		{"fraction", corev1.ResourceQuotaSpec{Hard: amounts("pods=1500m")}, []string{"must be an integer"}},
		{"good_scope", corev1.ResourceQuotaSpec{Hard: amounts("pods=1"), Scopes: scopes("BestEffort")}, nil},
		{"scope", corev1.ResourceQuotaSpec{Hard: amounts("pods=1"), Scopes: scopes("Fast")}, []string{"unsupported scope"}},
		{"scope_for_resource", corev1.ResourceQuotaSpec{Hard: amounts("cpu=1"), Scopes: scopes("BestEffort")}, []string{"unsupported scope applied to resource"}},
		{"opposed", corev1.ResourceQuotaSpec{Hard: amounts("pods=1"), Scopes: scopes("Terminating", "NotTerminating")}, []string{"conflicting scopes"}},
		{"selector", corev1.ResourceQuotaSpec{Hard: amounts("pods=1"), ScopeSelector: selector(corev1.ScopedResourceSelectorRequirement{ScopeName: "PriorityClass", Operator: "In", Values: []string{"a"}})}, nil},
		{"selector_operator", corev1.ResourceQuotaSpec{Hard: amounts("pods=1"), ScopeSelector: selector(corev1.ScopedResourceSelectorRequirement{ScopeName: "Terminating", Operator: "DoesNotExist"})}, []string{"must be 'Exists' when scope is any of"}},
		{"selector_values", corev1.ResourceQuotaSpec{Hard: amounts("pods=1"), ScopeSelector: selector(corev1.ScopedResourceSelectorRequirement{ScopeName: "PriorityClass", Operator: "In"})}, []string{"must be at least one value"}},
		{"selector_no_values", corev1.ResourceQuotaSpec{Hard: amounts("pods=1"), ScopeSelector: selector(corev1.ScopedResourceSelectorRequirement{ScopeName: "PriorityClass", Operator: "Exists", Values: []string{"a"}})}, []string{"must be no value"}},
		{"selector_bad", corev1.ResourceQuotaSpec{Hard: amounts("pods=1"), ScopeSelector: selector(corev1.ScopedResourceSelectorRequirement{ScopeName: "PriorityClass", Operator: "Near"})}, []string{"not a valid selector operator"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "q", ResourceVersion: "1"}, Spec: c.spec}
			checkErrors(t, row.Strategy.Validate(t.Context(), q), c.want)
			checkErrors(t, row.Strategy.ValidateUpdate(t.Context(), q, q), c.want)
		})
	}
	old := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "q", ResourceVersion: "1"}, Spec: corev1.ResourceQuotaSpec{Hard: amounts("pods=1")}}
	q := old.DeepCopy()
	q.Spec.Scopes = scopes("BestEffort")
	checkErrors(t, row.Strategy.ValidateUpdate(t.Context(), q, old), []string{"spec.scopes: Invalid value: [\"BestEffort\"]: field is immutable"})
	q = old.DeepCopy()
	q.Status.Used = amounts("pods=-1")
	checkErrors(t, row.Status.ValidateUpdate(t.Context(), q, old), []string{"status.used[pods]"})

	warned := row.Strategy.Warnings(t.Context(), &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{Hard: amounts("cpu=2 limits.cpu=1 requests.memory=1 limits.memory=2")}}, nil)
	if diff := cmp.Diff([]string{"ResourceQuota cpu (2) should be less than limits.cpu (1)"}, warned); diff != "" {
		t.Error(diff)
	}
	cells := row.Table.Cells(&corev1.ResourceQuota{Status: corev1.ResourceQuotaStatus{Hard: amounts("pods=2 limits.cpu=3"), Used: amounts("pods=1")}})
	if cells[1] != "pods: 1/2" || cells[2] != "limits.cpu: 0/3" {
		t.Errorf("cells %q", cells)
	}
}
