package discovery

import (
	"strings"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"
)

func parse(t *testing.T, manifest string) *discoveryv1.EndpointSlice {
	t.Helper()
	s := &discoveryv1.EndpointSlice{}
	if err := yaml.UnmarshalStrict([]byte(manifest), s); err != nil {
		t.Fatal(err)
	}
	EndpointSlice().Default(s)
	return s
}

func TestValidation(t *testing.T) {
	for _, test := range []struct{ name, rest, want string }{
		{"good", `addressType: IPv4, endpoints: [{addresses: [10.0.0.1], nodeName: n, hints: {forZones: [{name: z}]}}], ports: [{name: http, port: 80}, {port: 81}]`, ""},
		{"good_fqdn", `addressType: FQDN, endpoints: [{addresses: [a.example.com]}]`, ""},
		{"no_type", `endpoints: []`, "addressType: Required value"},
		{"type", `addressType: MAC`, `addressType: Unsupported value: "MAC": supported values: "FQDN", "IPv4", "IPv6"`},
		{"family", `addressType: IPv4, endpoints: [{addresses: ["::1"]}]`, "must be an IPv4 address"},
		{"no_address", `addressType: IPv4, endpoints: [{}]`, "endpoints[0].addresses: Required value: must contain at least 1 address"},
		{"loopback", `addressType: IPv4, endpoints: [{addresses: [127.0.0.1]}]`, "may not be in the loopback range (127.0.0.0/8, ::1/128)"},
		{"link_local", `addressType: IPv4, endpoints: [{addresses: [169.254.1.1]}]`, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"},
		{"port_names", `addressType: IPv4, ports: [{name: a}, {name: a}]`, `ports[1].name: Duplicate value: "a"`},
		{"port", `addressType: IPv4, ports: [{port: 70000}]`, "ports[0].port: Invalid value: 70000"},
		{"protocol", `addressType: IPv4, ports: [{protocol: HTTP}]`, `ports[0].protocol: Unsupported value: "HTTP"`},
		{"hostname", `addressType: IPv4, endpoints: [{addresses: [10.0.0.1], hostname: A_B}]`, "endpoints[0].hostname: Invalid value"},
		{"zone_twice", `addressType: IPv4, endpoints: [{addresses: [10.0.0.1], hints: {forZones: [{name: z}, {name: z}]}}]`, `endpoints[0].hints.forZones[1].name: Duplicate value: "z"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			errs := validateSlice(parse(t, `{metadata: {name: s, namespace: n}, `+test.rest+`}`))
			if test.want == "" && len(errs) > 0 {
				t.Errorf("refused: %v", errs)
			}
			if test.want != "" && (len(errs) == 0 || !strings.Contains(errs.ToAggregate().Error(), test.want)) {
				t.Errorf("want %s\ngot  %v", test.want, errs)
			}
		})
	}
}

func TestUpdate(t *testing.T) {
	row := EndpointSlice()
	old := parse(t, `{metadata: {name: s, namespace: n, resourceVersion: "1", generation: 2}, addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}]}`)
	same := old.DeepCopy()
	same.Annotations = map[string]string{"a": "b"}
	row.Strategy.PrepareForUpdate(t.Context(), same, old)
	more := old.DeepCopy()
	more.Endpoints[0].Addresses = []string{"10.0.0.2"}
	row.Strategy.PrepareForUpdate(t.Context(), more, old)
	if same.Generation != 2 || more.Generation != 3 {
		t.Errorf("generations %d and %d", same.Generation, more.Generation)
	}
	more.AddressType = discoveryv1.AddressTypeFQDN
	if errs := row.Strategy.ValidateUpdate(t.Context(), more, old); len(errs) == 0 || !strings.Contains(errs.ToAggregate().Error(), "addressType: Invalid value: \"FQDN\": field is immutable") {
		t.Errorf("%v", errs)
	}
}

func TestCells(t *testing.T) {
	s := parse(t, `{addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}, {addresses: [10.0.0.3]}, {addresses: [10.0.0.4]}], ports: [{port: 80}, {name: any}]}`)
	cells := EndpointSlice().Table.Cells(s)
	if cells[1] != "IPv4" || cells[2] != "80,*" || cells[3] != "10.0.0.1,10.0.0.2,10.0.0.3 + 1 more..." {
		t.Errorf("%v", cells)
	}
	if cells := EndpointSlice().Table.Cells(&discoveryv1.EndpointSlice{}); cells[2] != "<unset>" || cells[3] != "<unset>" {
		t.Errorf("%v", cells)
	}
}
