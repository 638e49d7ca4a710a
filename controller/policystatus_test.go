package controller_test

import (
	"fmt"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestPolicyIsTypeChecked: a policy's status says which expressions do not fit the kinds it is for, once for each generation.
func TestPolicyIsTypeChecked(t *testing.T) {
	c := start(t)
	api := c.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	policy := must(api.Create(c.ctx, &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "few"},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
				RuleWithOperations: admissionregistrationv1.RuleWithOperations{
					Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
					Rule:       admissionregistrationv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}},
				},
			}}},
			Validations: []admissionregistrationv1.Validation{
				{Expression: "object.spec.replicas > 1"},
				{Expression: "object.spec.replcas > 1", MessageExpression: "'no ' + object.spec.relicas"},
			},
		},
	}, metav1.CreateOptions{}))
	warnings := func(want ...string) {
		t.Helper()
		c.until("the policy is checked", func() (bool, string) {
			policy = must(api.Get(c.ctx, "few", metav1.GetOptions{}))
			return policy.Status.ObservedGeneration == policy.Generation && policy.Status.TypeChecking != nil, fmt.Sprint(policy.Status)
		})
		got := policy.Status.TypeChecking.ExpressionWarnings
		if len(got) != len(want)/2 {
			t.Fatalf("%+v, want %q", got, want)
		}
		for i, w := range got {
			if w.FieldRef != want[2*i] || !strings.Contains(w.Warning, want[2*i+1]) {
				t.Errorf("%+v, want %q", w, want[2*i:2*i+2])
			}
		}
	}
	warnings("spec.validations[1].expression", "apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'replcas'",
		"spec.validations[1].messageExpression", "undefined field 'relicas'")
	policy.Spec.Validations = policy.Spec.Validations[:1]
	must(api.Update(c.ctx, policy, metav1.UpdateOptions{}))
	warnings()
}
