package coordination

import (
	"strings"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	"sigs.k8s.io/yaml"
)

func TestLease(t *testing.T) {
	row := Lease()
	if !row.Strategy.CreateOnUpdate || row.Strategy.UnconditionalUpdate {
		t.Error("a lease may be created by PUT and never be taken over without its resourceVersion")
	}
	for _, test := range []struct{ name, spec, want string }{
		{"good", `{holderIdentity: a, leaseDurationSeconds: 40, leaseTransitions: 0}`, ""},
		{"duration", `{leaseDurationSeconds: 0}`, "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"},
		{"transitions", `{leaseTransitions: -1}`, "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0"},
		{"preferred", `{preferredHolder: a}`, "spec.preferredHolder: Forbidden: may only be specified when `strategy` is defined"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := &coordinationv1.Lease{}
			if err := yaml.UnmarshalStrict([]byte(`{metadata: {name: l, namespace: n}, spec: `+test.spec+`}`), l); err != nil {
				t.Fatal(err)
			}
			errs := row.Strategy.Validate(t.Context(), l)
			if test.want == "" && len(errs) > 0 {
				t.Errorf("refused: %v", errs)
			}
			if test.want != "" && (len(errs) == 0 || !strings.Contains(errs.ToAggregate().Error(), test.want)) {
				t.Errorf("want %s, got %v", test.want, errs)
			}
			if cells := row.Table.Cells(l); test.name == "good" && cells[1] != "a" {
				t.Errorf("cells %v", cells)
			}
		})
	}
}
