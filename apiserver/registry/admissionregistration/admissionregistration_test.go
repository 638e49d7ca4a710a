package admissionregistration

import (
	"context"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/registry/registrytest"
	"github.com/mini-k8s/mini/store"
)

const match = `resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}]`

func policy(spec string) string {
	return `{metadata: {name: a}, spec: {matchConstraints: {` + match + `}, ` + spec + `}}`
}

func TestPolicies(t *testing.T) {
	row, mutating := ValidatingAdmissionPolicy(registry.Deps{}), MutatingAdmissionPolicy(registry.Deps{})
	mutation := func(m string) string { return policy(`reinvocationPolicy: Never, mutations: [` + m + `]`) }
	registrytest.Run(t, []registrytest.Case{
		{Name: "good", Row: row, New: policy(`variables: [{name: count, expression: object.spec.replicas}], validations: [{expression: variables.count < 5, messageExpression: "'n is ' + string(variables.count)"}]`), Then: func(t *testing.T, o store.Object) {
			p := o.(*admissionv1.ValidatingAdmissionPolicy)
			if *p.Spec.FailurePolicy != "Fail" || *p.Spec.MatchConstraints.MatchPolicy != "Equivalent" || *p.Spec.MatchConstraints.ResourceRules[0].Scope != "*" || p.Generation != 1 {
				t.Errorf("%+v", p)
			}
		}},
		{Name: "nothing", Row: row, New: policy(`failurePolicy: Fail`), Want: "spec.validations: Required value: validations or auditAnnotations must contain at least one item"},
		{Name: "no_match", Row: row, New: `{metadata: {name: a}, spec: {validations: [{expression: "true"}]}}`, Want: "spec.matchConstraints: Required value"},
		{Name: "syntax", Row: row, New: policy(`validations: [{expression: object. <}]`), Want: `spec.validations[0].expression: Invalid value: "object. <": compilation failed: ERROR`},
		{Name: "type", Row: row, New: policy(`validations: [{expression: "1"}]`), Want: "must evaluate to bool"},
		{Name: "match_condition", Row: row, New: policy(`matchConditions: [{name: a, expression: "1 +"}], validations: [{expression: "true"}]`), Want: "spec.matchConditions[0].expression: Invalid value: \"1 +\": compilation failed"},
		{Name: "no_params", Row: row, New: policy(`validations: [{expression: params.x == 1}]`), Want: "undeclared reference to 'params'"},
		{Name: "params", Row: row, New: policy(`paramKind: {apiVersion: v1, kind: ConfigMap}, validations: [{expression: params.x == 1}]`)},
		{Name: "variable_name", Row: row, New: policy(`variables: [{name: for, expression: "1"}], validations: [{expression: "true"}]`), Want: "spec.variables[0].name: Invalid value: \"for\": must be a valid CEL identifier"},
		{Name: "annotations", Row: row, New: policy(`auditAnnotations: [{key: k, valueExpression: "'a'"}, {key: k, valueExpression: "1"}]`), Want: "must evaluate to one of [string null_type]"},
		{Name: "reason", Row: row, New: policy(`validations: [{expression: "true", reason: Because}]`), Want: "spec.validations[0].reason: Unsupported value: \"Because\""},
		{Name: "generation", Row: row, Old: policy(`validations: [{expression: "true"}]`), New: policy(`validations: [{expression: "false"}]`), Then: func(t *testing.T, o store.Object) {
			if o.GetGeneration() != 1 {
				t.Errorf("generation %d", o.GetGeneration())
			}
		}},
		{Name: "status", Row: row, View: "status", Old: policy(`validations: [{expression: "true"}]`), New: `{metadata: {name: a}, status: {typeChecking: {expressionWarnings: [{fieldRef: "a[", warning: w}]}}}`, Want: "status.typeChecking.expressionWarnings[0].fieldRef: Invalid value: \"a[\": invalid JSONPath"},

		{Name: "apply", Row: mutating, New: mutation(`{patchType: ApplyConfiguration, applyConfiguration: {expression: "Object{spec: Object.spec{replicas: 1}}"}}`)},
		{Name: "patch", Row: mutating, New: mutation(`{patchType: JSONPatch, jsonPatch: {expression: "[JSONPatch{op: 'remove', path: '/spec/x'}]"}}`)},
		{Name: "no_type", Row: mutating, New: mutation(`{}`), Want: "spec.mutations[0].patchType: Required value"},
		{Name: "wrong_part", Row: mutating, New: mutation(`{patchType: JSONPatch, applyConfiguration: {expression: "Object{}"}}`), Want: "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch"},
		{Name: "bad_patch", Row: mutating, New: mutation(`{patchType: JSONPatch, jsonPatch: {expression: "1"}}`), Want: "spec.mutations[0].jsonPatch.expression: Invalid value"},
		{Name: "no_policy", Row: mutating, New: policy(`mutations: []`), Want: "spec.reinvocationPolicy: Required value"},
		{Name: "deletes", Row: mutating, New: strings.Replace(mutation(`{patchType: JSONPatch, jsonPatch: {expression: "[]"}}`), "CREATE", "DELETE", 1), Want: `spec.matchConstraints.resourceRules.operations: Unsupported value: "DELETE": supported values: "*", "CONNECT", "CREATE", "UPDATE"`},
	})
}

func TestBindings(t *testing.T) {
	row, mutating := ValidatingAdmissionPolicyBinding(registry.Deps{}), MutatingAdmissionPolicyBinding(registry.Deps{})
	registrytest.Run(t, []registrytest.Case{
		{Name: "good", Row: row, New: `{metadata: {name: a}, spec: {policyName: p, validationActions: [Deny, Audit], matchResources: {namespaceSelector: {matchLabels: {a: b}}}}}`},
		{Name: "no_policy", Row: row, New: `{metadata: {name: a}, spec: {validationActions: [Deny]}}`, Want: "spec.policyName: Required value"},
		{Name: "no_action", Row: row, New: `{metadata: {name: a}, spec: {policyName: p}}`, Want: "spec.validationActions: Required value: at least one validation action is required"},
		{Name: "deny_and_warn", Row: row, New: `{metadata: {name: a}, spec: {policyName: p, validationActions: [Deny, Warn]}}`, Want: "must not contain both Deny and Warn"},
		{Name: "action", Row: row, New: `{metadata: {name: a}, spec: {policyName: p, validationActions: [Shout]}}`, Want: `spec.validationActions[0]: Unsupported value: "Shout": supported values: "Audit", "Deny", "Warn"`},
		{Name: "param", Row: row, New: `{metadata: {name: a}, spec: {policyName: p, validationActions: [Deny], paramRef: {name: x, selector: {}}}}`, Want: "spec.paramRef.parameterNotFoundAction: Required value"},
		{Name: "good", Row: mutating, New: `{metadata: {name: a}, spec: {policyName: p, paramRef: {name: x, parameterNotFoundAction: Deny}}}`},
		{Name: "no_param", Row: mutating, New: `{metadata: {name: a}, spec: {policyName: p, paramRef: {parameterNotFoundAction: Deny}}}`, Want: "spec.paramRef: Required value: one of name or selector must be specified"},
	})
	o := registrytest.Decode(t, row, `{metadata: {name: a}, spec: {policyName: p, paramRef: {name: x}}}`)
	if cells := row.Table.Cells(o); cells[2] != "*/x" {
		t.Errorf("%v", cells)
	}
}

func TestWebhooks(t *testing.T) {
	hook := func(more string) string {
		return `{metadata: {name: a}, webhooks: [{name: a.b.c, sideEffects: None, admissionReviewVersions: [v1], clientConfig: {service: {name: s, namespace: n}}, rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]` + more + `}]}`
	}
	row, mutating := ValidatingWebhookConfiguration(), MutatingWebhookConfiguration()
	registrytest.Run(t, []registrytest.Case{
		{Name: "good", Row: mutating, New: hook(``), Then: func(t *testing.T, o store.Object) {
			w := o.(*admissionv1.MutatingWebhookConfiguration).Webhooks[0]
			if *w.ReinvocationPolicy != "Never" || *w.TimeoutSeconds != 10 || *w.ClientConfig.Service.Port != 443 || *w.Rules[0].Scope != "*" {
				t.Errorf("%+v", w)
			}
		}},
		{Name: "good", Row: row, New: hook(`, matchConditions: [{name: a, expression: "request.kind.kind != 'Pod'"}]`)},
		{Name: "condition", Row: row, New: hook(`, matchConditions: [{name: a, expression: "... [bad expression"}]`), Want: "compilation failed"},
		{Name: "same_condition", Row: row, New: hook(`, matchConditions: [{name: a, expression: "true"}, {name: a, expression: "true"}]`), Want: "webhooks[0].matchConditions[1].name: Duplicate value: \"a\""},
		{Name: "timeout", Row: row, New: hook(`, timeoutSeconds: 31`), Want: "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds"},
		{Name: "both", Row: row, New: `{metadata: {name: a}, webhooks: [{name: a.b.c, clientConfig: {}}]}`, Want: "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun, webhooks[0].clientConfig: Required value: exactly one of url or service is required, webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1"},
		{Name: "name", Row: row, New: strings.Replace(hook(``), "a.b.c", "a", 1), Want: "webhooks[0].name: Invalid value: \"a\": should be a domain with at least three segments separated by dots"},
		{Name: "resources", Row: row, New: strings.Replace(hook(``), "[pods]", `["*/*", pods, "pods/*", pods/log]`, 1), Want: "if 'pods/*' is present, must not specify pods/log"},
		{Name: "old_effects_stay", Row: row, Old: strings.Replace(hook(``), "None", "Some", 1), New: strings.Replace(hook(`, timeoutSeconds: 5`), "None", "Unknown", 1)},
		{Name: "generation", Row: row, Old: hook(``), New: hook(`, timeoutSeconds: 5`), Then: func(t *testing.T, o store.Object) {
			if o.GetGeneration() != 1 {
				t.Errorf("generation %d", o.GetGeneration())
			}
		}},
		{Name: "same", Row: row, Old: hook(``), New: hook(``), Then: func(t *testing.T, o store.Object) {
			if o.GetGeneration() != 0 {
				t.Errorf("generation %d", o.GetGeneration())
			}
		}},
	})
}

type allow func(authorizer.Attributes) bool

func (f allow) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if f(a) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// TestParameters: nobody writes a policy about parameters that he cannot read.
func TestParameters(t *testing.T) {
	var asked string
	deps := registry.Deps{
		Authorizer: allow(func(a authorizer.Attributes) bool {
			asked = a.GetVerb() + " " + a.GetAPIGroup() + "/" + a.GetAPIVersion() + "/" + a.GetResource() + " " + a.GetName()
			return a.GetUser().GetName() == "reader"
		}),
		ResourceOf: func(k schema.GroupVersionKind) (string, bool) { return "configmaps", k.Kind == "ConfigMap" },
	}
	as := func(name string, groups ...string) registry.Deps {
		deps.User = func(context.Context) (user.Info, bool) { return &user.DefaultInfo{Name: name, Groups: groups}, true }
		return deps
	}
	manifest := policy(`paramKind: {apiVersion: v1, kind: ConfigMap}, validations: [{expression: "true"}]`)
	registrytest.Run(t, []registrytest.Case{
		{Name: "reader", Row: ValidatingAdmissionPolicy(as("reader")), New: manifest},
		{Name: "stranger", Row: ValidatingAdmissionPolicy(as("stranger")), New: manifest, Want: `must have "get" permission on all objects of the referenced paramKind (kind=ConfigMap, apiVersion=v1)`},
		{Name: "master", Row: ValidatingAdmissionPolicy(as("m", user.SystemPrivilegedGroup)), New: manifest},
		{Name: "unchanged", Row: ValidatingAdmissionPolicy(as("stranger")), Old: manifest, New: manifest},
	})
	if asked != "get /v1/configmaps *" {
		t.Errorf("asked for %q", asked)
	}
}
