package resourcequota

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"pgregory.net/rapid"

	"github.com/mini-k8s/mini/internal/quota"
)

func amounts(s string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for _, part := range strings.Fields(s) {
		name, value, _ := strings.Cut(part, "=")
		list[corev1.ResourceName(name)] = resource.MustParse(value)
	}
	return list
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		name                      string
		spec, hard, used, counted string
		settled                   bool
		want                      string // used; "-" writes nothing
		again                     bool
	}{
		{"first_count", "pods=2", "", "", "pods=1", false, "pods=1", false},
		{"nothing_to_do", "pods=2", "pods=2", "pods=1", "pods=1", false, "-", false},
		{"more_than_charged", "pods=2", "pods=2", "pods=1", "pods=2", false, "pods=2", false},
		{"less_but_maybe_on_its_way", "pods=2", "pods=2", "pods=2", "pods=1", false, "-", true},
		{"less_and_settled", "pods=2", "pods=2", "pods=2", "pods=1", true, "pods=1", false},
		{"some_more_some_less", "pods=2 secrets=5", "pods=2 secrets=5", "pods=2 secrets=1", "pods=1 secrets=2", false, "pods=2 secrets=2", true},
		{"spec_changed", "pods=3", "pods=2", "pods=2", "pods=2", false, "pods=2", false},
		{"name_left_the_spec", "pods=3", "pods=3 secrets=1", "pods=2 secrets=1", "pods=2", false, "pods=2", false},
		{"status_written_by_others", "pods=3", "pods=9", "pods=2", "pods=2", true, "pods=2", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := &corev1.ResourceQuota{
				Spec:   corev1.ResourceQuotaSpec{Hard: amounts(c.spec)},
				Status: corev1.ResourceQuotaStatus{Hard: amounts(c.hard), Used: amounts(c.used)},
			}
			next, again := plan(q, amounts(c.counted), func(corev1.ResourceName) bool { return c.settled })
			if again != c.again {
				t.Errorf("again is %v", again)
			}
			if (next == nil) != (c.want == "-") {
				t.Fatalf("writes %v", next)
			}
			if next != nil && (!quota.Equal(next.Used, amounts(c.want)) || !quota.Equal(next.Hard, amounts(c.spec))) {
				t.Errorf("writes %v", next)
			}
		})
	}
}

// TestPlanConverges: what a plan writes needs no more writing, and a settled quota shows what was counted.
func TestPlanConverges(t *testing.T) {
	list := func(t *rapid.T, name string) corev1.ResourceList {
		l := corev1.ResourceList{}
		for _, key := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"pods", "secrets", "cpu"}), rapid.ID[string]).Draw(t, name) {
			l[corev1.ResourceName(key)] = *resource.NewQuantity(rapid.Int64Range(0, 3).Draw(t, name+key), resource.DecimalSI)
		}
		return l
	}
	rapid.Check(t, func(t *rapid.T) {
		q := &corev1.ResourceQuota{
			Spec:   corev1.ResourceQuotaSpec{Hard: list(t, "spec")},
			Status: corev1.ResourceQuotaStatus{Hard: list(t, "hard"), Used: list(t, "used")},
		}
		counted := list(t, "counted")
		settled := rapid.Bool().Draw(t, "settled")
		of := func(corev1.ResourceName) bool { return settled }
		next, again := plan(q, counted, of)
		if next != nil {
			q.Status = *next
		}
		if more, _ := plan(q, counted, of); more != nil {
			t.Fatalf("a second look writes %v", more)
		}
		if again == quota.Equal(q.Status.Used, counted) {
			t.Fatalf("shows %v of %v, again is %v", q.Status.Used, counted, again)
		}
		if settled && again {
			t.Fatal("a settled quota needs no other look")
		}
	})
}
