package core

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/store"
)

func serviceCIDR(name string, ready metav1.ConditionStatus, deleting bool, ranges ...string) *networkingv1.ServiceCIDR {
	c := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: ranges}}
	if ready != "" {
		c.Status.Conditions = []metav1.Condition{{Type: networkingv1.ServiceCIDRConditionReady, Status: ready}}
	}
	if deleting {
		c.DeletionTimestamp = &metav1.Time{}
	}
	return c
}

func TestPlanRanges(t *testing.T) {
	const own = "10.43.0.0/24"
	for name, c := range map[string]struct {
		cidrs []*networkingv1.ServiceCIDR
		want  string // + is open
	}{
		"the_servers_own":   {nil, "+10.43.0.0/24"},
		"default_made":      {[]*networkingv1.ServiceCIDR{serviceCIDR("kubernetes", "", false, own)}, "+10.43.0.0/24"},
		"default_going":     {[]*networkingv1.ServiceCIDR{serviceCIDR("kubernetes", "True", true, own)}, "-10.43.0.0/24"},
		"default_not_ready": {[]*networkingv1.ServiceCIDR{serviceCIDR("kubernetes", "False", false, own)}, "-10.43.0.0/24"},
		"same_as_default":   {[]*networkingv1.ServiceCIDR{serviceCIDR("kubernetes", "True", true, own), serviceCIDR("a", "True", false, own)}, "+10.43.0.0/24"},
		"another_default":   {[]*networkingv1.ServiceCIDR{serviceCIDR("kubernetes", "True", false, "10.50.0.0/24")}, "+10.43.0.0/24 +10.50.0.0/24"},
		"added":             {[]*networkingv1.ServiceCIDR{serviceCIDR("b", "True", false, "10.51.0.0/24"), serviceCIDR("a", "True", false, "10.50.0.0/24", "fd00::/64")}, "+10.43.0.0/24 +10.50.0.0/24 +fd00::/64 +10.51.0.0/24"},
		"not_ready_yet":     {[]*networkingv1.ServiceCIDR{serviceCIDR("a", "", false, "10.50.0.0/24")}, "+10.43.0.0/24 -10.50.0.0/24"},
		"going":             {[]*networkingv1.ServiceCIDR{serviceCIDR("a", "True", true, "10.50.0.0/24")}, "+10.43.0.0/24 -10.50.0.0/24"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, r := range planRanges([]netip.Prefix{netip.MustParsePrefix(own)}, c.cidrs) {
				sign := "-"
				if r.open {
					sign = "+"
				}
				got = append(got, sign+r.cidr.String())
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("%v, want %s", got, c.want)
			}
		})
	}
}

// TestServiceCIDRs: addresses come out of a new range when the first is full, and may be asked for; a range that is closed
// gives none.
func TestServiceCIDRs(t *testing.T) {
	w, _, a, row := newWorld("10.43.0.0/29") // six addresses
	n := 0
	make1 := func(spec string) (*corev1.Service, error) {
		n++
		s := parseService(t, fmt.Sprintf("{metadata: {name: s%d, namespace: default}, spec: %s}", n, spec))
		return s, create(row, w, s)
	}
	const anyAddress, inSecond = "{ports: [{port: 80}]}", "{clusterIP: 10.50.0.9, ports: [{port: 80}]}"
	for range 6 {
		if _, err := make1(anyAddress); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(spec, want string) {
		t.Helper()
		if s, err := make1(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", s.Spec, err, want)
		}
	}
	const full, outside = "range is full", "failed to allocate IP 10.50.0.9: the provided network does not match the current range"
	refused(anyAddress, full)
	refused(inSecond, outside)
	cidrs := w.collection("servicecidrs", networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR"))
	put := func(c *networkingv1.ServiceCIDR) {
		t.Helper()
		if _, err := cidrs.Mutate(t.Context(), c.Name, func(*store.Item) (store.Change, error) { return store.Change{Put: c}, nil }); err != nil {
			t.Fatal(err)
		}
	}
	put(serviceCIDR("second", "", false, "10.50.0.0/28"))
	refused(anyAddress, full)
	refused(inSecond, outside)
	put(serviceCIDR("second", "True", false, "10.50.0.0/28"))
	if _, err := make1(inSecond); err != nil {
		t.Error(err)
	}
	refused(inSecond, "provided IP is already allocated")
	for range 13 {
		if s, err := make1(anyAddress); err != nil || !strings.HasPrefix(s.Spec.ClusterIP, "10.50.0.") {
			t.Errorf("%s, %v", s.Spec.ClusterIP, err)
		}
	}
	refused(anyAddress, full)
	put(serviceCIDR("third", "True", false, "10.51.0.0/24"))
	put(serviceCIDR("third", "True", true, "10.51.0.0/24"))
	refused(anyAddress, full)

	// Repair claims what a Service holds in any range, and nothing is a leak because of its range.
	if _, err := w.collection("ipaddresses", networkingv1.SchemeGroupVersion.WithKind("IPAddress")).Mutate(t.Context(), "10.50.0.9",
		func(*store.Item) (store.Change, error) { return store.Change{Delete: true}, nil }); err != nil {
		t.Fatal(err)
	}
	put(serviceCIDR("second", "True", true, "10.50.0.0/28"))
	if err := a.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkClaims(t, w)
}
