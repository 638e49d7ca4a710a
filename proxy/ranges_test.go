package proxy

import (
	"fmt"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
)

func TestPlanRanges(t *testing.T) {
	for name, c := range map[string]struct {
		cidrs string // of one ServiceCIDR each
		want  string
	}{
		"none":                  {"", "[10.43.0.0/16]"},
		"default":               {"10.43.0.0/16", "[10.43.0.0/16]"},
		"more":                  {"10.60.0.0/24 10.50.0.0/24 10.50.0.0/24", "[10.43.0.0/16 10.50.0.0/24 10.60.0.0/24]"},
		"within":                {"10.43.7.0/24 10.50.0.0/28 10.50.0.0/24", "[10.43.0.0/16 10.50.0.0/24]"},
		"of_the_other_family":   {"fd00::/64", "[10.43.0.0/16]"},
		"pods_in_it":            {"10.42.0.0/15 10.42.7.0/24", "[10.43.0.0/16]"},
		"the_node_in_it":        {"192.168.0.0/16 0.0.0.0/0", "[10.43.0.0/16]"},
		"around_the_configured": {"10.43.0.0/16 10.44.0.0/16", "[10.43.0.0/16 10.44.0.0/16]"},
	} {
		t.Run(name, func(t *testing.T) {
			var cidrs []*networkingv1.ServiceCIDR
			for _, r := range strings.Fields(c.cidrs) {
				cidrs = append(cidrs, &networkingv1.ServiceCIDR{Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{r}}})
			}
			if got := fmt.Sprint(planRanges(prefix("10.43.0.0/16"), prefix("10.42.0.0/16"), addr("192.168.1.1"), cidrs)); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}
