package servicecidr

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/controller/controllertest"
)

func cidr(name string, ranges ...string) *networkingv1.ServiceCIDR {
	return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "1", Finalizers: []string{finalizer}}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: ranges}}
}

func TestPlanOfOneThatStays(t *testing.T) {
	c := cidr("a", "10.0.0.0/24")
	c.Finalizers = nil
	if p := plan(c, nil, nil); !p.protect || p.release || p.condition == nil || p.condition.Status != metav1.ConditionTrue {
		t.Errorf("%+v", p)
	}
	c.Finalizers = []string{finalizer}
	meta.SetStatusCondition(&c.Status.Conditions, ready)
	if p := plan(c, nil, nil); p != (changes{}) {
		t.Errorf("%+v", p)
	}
}

func TestPlanOfOneThatGoes(t *testing.T) {
	const own = "10.0.0.0/24"
	for name, c := range map[string]struct {
		ranges, others, addresses []string
		goes                      bool
	}{
		"empty":                    {[]string{own}, nil, nil, true},
		"in_use":                   {[]string{own}, nil, []string{"10.0.0.7"}, false},
		"others_in_use":            {[]string{own}, nil, []string{"10.0.1.7", "fd00::1"}, true},
		"in_a_larger_one":          {[]string{own}, []string{"10.0.0.0/16"}, []string{"10.0.0.7"}, true},
		"the_same_again":           {[]string{own}, []string{own}, []string{"10.0.0.7"}, true},
		"in_use_in_a_smaller_one":  {[]string{own}, []string{"10.0.0.0/28"}, []string{"10.0.0.7"}, true},
		"in_use_beside_a_smaller":  {[]string{own}, []string{"10.0.0.0/28"}, []string{"10.0.0.7", "10.0.0.99"}, false},
		"second_family_in_use":     {[]string{own, "fd00::/64"}, []string{"10.0.0.0/16"}, []string{"10.0.0.7", "fd00::5"}, false},
		"second_family_in_another": {[]string{own, "fd00::/64"}, []string{"10.0.0.0/16", "fd00::/48"}, []string{"10.0.0.7", "fd00::5"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			doomed := cidr("a", c.ranges...)
			doomed.DeletionTimestamp = &metav1.Time{}
			all := []*networkingv1.ServiceCIDR{doomed}
			for i, r := range c.others {
				all = append(all, cidr(string(rune('b'+i)), r))
			}
			var addresses []netip.Addr
			for _, a := range c.addresses {
				addresses = append(addresses, netip.MustParseAddr(a))
			}
			p := plan(doomed, all, addresses)
			if p.release != c.goes || p.protect || (p.condition == nil) != c.goes {
				t.Fatalf("%+v", p)
			}
			if p.condition != nil {
				if p.condition.Status != metav1.ConditionFalse || p.condition.Reason != "Terminating" {
					t.Errorf("%+v", p.condition)
				}
				meta.SetStatusCondition(&doomed.Status.Conditions, *p.condition)
				if p := plan(doomed, all, addresses); p != (changes{}) {
					t.Errorf("said twice: %+v", p)
				}
			}
		})
	}
}

// TestLife: a ServiceCIDR becomes Ready, and when it is deleted it waits for its last address and for the grace.
func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		second := cidr("second", "10.50.0.0/24")
		second.Finalizers = nil
		ip := &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: "10.50.0.3", Labels: map[string]string{networkingv1.LabelManagedBy: allocator}}}
		others := &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: "10.50.0.4", Labels: map[string]string{networkingv1.LabelManagedBy: "somebody"}}}
		w := controllertest.New(t, second, ip, others)
		c, err := New(Config{Client: w.Client, Informers: w.Informers, Feeds: w.Feeds, Logger: w.Logger})
		if err != nil {
			t.Fatal(err)
		}
		w.Start(c)
		cidrs := w.Client.NetworkingV1().ServiceCIDRs()
		get := func() *networkingv1.ServiceCIDR {
			t.Helper()
			synctest.Wait()
			got, err := cidrs.Get(ctx, "second", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return got.DeepCopy()
		}
		got := get()
		if !slices.Equal(got.Finalizers, []string{finalizer}) || !meta.IsStatusConditionTrue(got.Status.Conditions, "Ready") {
			t.Fatalf("%+v", got)
		}
		// The fake removes at once; a delete that waits for finalizers is an update.
		got.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		if _, err := cidrs.Update(ctx, got, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if got = get(); len(got.Finalizers) != 1 || !meta.IsStatusConditionFalse(got.Status.Conditions, "Ready") {
			t.Fatalf("%+v", got)
		}
		if err := w.Client.NetworkingV1().IPAddresses().Delete(ctx, ip.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if got = get(); len(got.Finalizers) != 1 {
			t.Error("gone before every server can know")
		}
		time.Sleep(grace)
		if got = get(); len(got.Finalizers) != 0 {
			t.Errorf("%+v", got)
		}
	})
}
