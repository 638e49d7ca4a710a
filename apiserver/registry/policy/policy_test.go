package policy

import (
	"strings"
	"testing"

	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"
)

func TestPodDisruptionBudget(t *testing.T) {
	row := PodDisruptionBudget()
	for _, c := range []struct{ name, spec, want string }{
		{"number", `{minAvailable: 2, selector: {matchLabels: {a: b}}}`, ""},
		{"percent", `{maxUnavailable: 30%, unhealthyPodEvictionPolicy: AlwaysAllow}`, ""},
		{"both", `{minAvailable: 2, maxUnavailable: 1}`, "minAvailable and maxUnavailable cannot be both set"},
		{"negative", `{minAvailable: -2}`, "spec.minAvailable: Invalid value: -2: must be greater than or equal to 0"},
		{"too_much", `{maxUnavailable: 130%}`, `spec.maxUnavailable: Invalid value: "130%": must not be greater than 100%`},
		{"text", `{maxUnavailable: many}`, "a valid percent string must be a numeric string followed by an ending '%'"},
		{"policy", `{unhealthyPodEvictionPolicy: Never}`, `supported values: "AlwaysAllow", "IfHealthyBudget"`},
		{"selector", `{selector: {matchLabels: {a: "?"}}}`, "spec.selector.matchLabels: Invalid value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &policyv1.PodDisruptionBudget{}
			b.Name, b.Namespace, b.ResourceVersion = "pdb", "default", "1"
			if err := yaml.UnmarshalStrict([]byte(c.spec), &b.Spec); err != nil {
				t.Fatal(err)
			}
			errs := row.Strategy.Validate(t.Context(), b)
			if (c.want == "") != (len(errs) == 0) || c.want != "" && !strings.Contains(errs.ToAggregate().Error(), c.want) {
				t.Errorf("want %q, got %v", c.want, errs)
			}
			old := b.DeepCopy()
			b.Status.CurrentHealthy = -1
			if errs := row.Status.ValidateUpdate(t.Context(), b, old); len(errs) != 1 {
				t.Errorf("a negative count: %v", errs)
			}
		})
	}
}
