package networking

import (
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

func TestValidation(t *testing.T) {
	for _, test := range []struct {
		name     string
		row      registry.Resource
		obj      store.Object
		manifest string
		want     string
	}{
		{"good", IPAddress(), &networkingv1.IPAddress{}, `{metadata: {name: 10.43.0.1}, spec: {parentRef: {resource: services, namespace: n, name: s}}}`, ""},
		{"good_six", IPAddress(), &networkingv1.IPAddress{}, `{metadata: {name: "fd00::1"}, spec: {parentRef: {resource: services, namespace: n, name: s}}}`, ""},
		{"not_an_address", IPAddress(), &networkingv1.IPAddress{}, `{metadata: {name: a}}`, `metadata.name: Invalid value: "a"`},
		{"two_names_for_one", IPAddress(), &networkingv1.IPAddress{}, `{metadata: {name: "fd00:0::1"}}`, "must be in canonical form (\"fd00::1\")"},
		{"no_parent", IPAddress(), &networkingv1.IPAddress{}, `{metadata: {name: 10.43.0.1}}`, "spec.parentRef: Required value"},
		{"no_resource", IPAddress(), &networkingv1.IPAddress{}, `{metadata: {name: 10.43.0.1}, spec: {parentRef: {name: s}}}`, "spec.parentRef.resource: Required value"},
		{"range", ServiceCIDR(), &networkingv1.ServiceCIDR{}, `{metadata: {name: a}, spec: {cidrs: [10.43.0.0/16, "fd00::/112"]}}`, ""},
		{"no_range", ServiceCIDR(), &networkingv1.ServiceCIDR{}, `{metadata: {name: a}}`, "spec.cidrs: Required value: at least one CIDR required"},
		{"bad_range", ServiceCIDR(), &networkingv1.ServiceCIDR{}, `{metadata: {name: a}, spec: {cidrs: [10.43.0.0]}}`, "spec.cidrs[0]: Invalid value"},
		{"same_family", ServiceCIDR(), &networkingv1.ServiceCIDR{}, `{metadata: {name: a}, spec: {cidrs: [10.43.0.0/16, 10.44.0.0/16]}}`, "may specify no more than one IP for each IP family"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := yaml.UnmarshalStrict([]byte(test.manifest), test.obj); err != nil {
				t.Fatal(err)
			}
			errs := test.row.Strategy.Validate(t.Context(), test.obj)
			if test.want == "" && len(errs) > 0 {
				t.Errorf("refused: %v", errs)
			}
			if test.want != "" && (len(errs) == 0 || !strings.Contains(errs.ToAggregate().Error(), test.want)) {
				t.Errorf("want %s, got %v", test.want, errs)
			}
		})
	}
}

func TestClaimIsForLife(t *testing.T) {
	old := &networkingv1.IPAddress{Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "n", Name: "s"}}}
	old.Name, old.ResourceVersion = "10.43.0.1", "1"
	ip := old.DeepCopy()
	ip.Spec.ParentRef.Name = "other"
	if errs := IPAddress().Strategy.ValidateUpdate(t.Context(), ip, old); len(errs) != 1 || !strings.Contains(errs[0].Error(), "field is immutable") {
		t.Errorf("%v", errs)
	}
	if cells := IPAddress().Table.Cells(old); cells[1] != "services/n/s" {
		t.Errorf("%v", cells)
	}
}
