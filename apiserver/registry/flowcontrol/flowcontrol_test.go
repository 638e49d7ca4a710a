package flowcontrol

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"github.com/mini-k8s/mini/apiserver/registry/registrytest"
	"github.com/mini-k8s/mini/store"
)

// TestBootstrap: the objects that every cluster has are accepted as they are.
func TestBootstrap(t *testing.T) {
	check := func(row interface{ GetName() string }, o, defaulted store.Object, errs int) {
		t.Helper()
		if errs > 0 || !apiequality.Semantic.DeepEqual(o, defaulted) {
			t.Errorf("%s: %d errors, %s", row.GetName(), errs, cmp.Diff(o, defaulted))
		}
	}
	schemas, levels := FlowSchema(), PriorityLevelConfiguration()
	for _, s := range append(bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas...) {
		d := s.DeepCopy()
		schemas.Default(d)
		check(s, s, d, len(schemas.Strategy.Validate(t.Context(), d)))
	}
	for _, l := range append(bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations...) {
		d := l.DeepCopy()
		levels.Default(d)
		check(l, l, d, len(levels.Strategy.Validate(t.Context(), d)))
	}
}

func TestValidation(t *testing.T) {
	schema, level := FlowSchema(), PriorityLevelConfiguration()
	rule := func(rule string) string {
		return `{metadata: {name: a}, spec: {priorityLevelConfiguration: {name: l}, rules: [` + rule + `]}}`
	}
	resources := `resourceRules: [{verbs: ["*"], apiGroups: ["*"], resources: ["*"], namespaces: ["*"]}]`
	limited := func(spec string) string {
		return `{metadata: {name: a}, spec: {type: Limited, limited: ` + spec + `}}`
	}
	registrytest.Run(t, []registrytest.Case{
		{Name: "good", Row: schema, New: rule(`{subjects: [{kind: User, user: {name: "*"}}], ` + resources + `}`), Then: func(t *testing.T, o store.Object) {
			if o.(*flowcontrolv1.FlowSchema).Spec.MatchingPrecedence != 1000 || o.GetGeneration() != 1 {
				t.Errorf("%+v", o)
			}
		}},
		{Name: "level", Row: schema, New: `{metadata: {name: a}}`, Want: "spec.priorityLevelConfiguration.name: Required value: must reference a priority level"},
		{Name: "precedence", Row: schema, New: `{metadata: {name: a}, spec: {matchingPrecedence: 10001, priorityLevelConfiguration: {name: l}}}`, Want: "must not be greater than 10000"},
		{Name: "exempt", Row: schema, New: `{metadata: {name: a}, spec: {matchingPrecedence: 1, priorityLevelConfiguration: {name: l}}}`, Want: "only the schema named 'exempt' may have matchingPrecedence 1"},
		{Name: "fixed", Row: schema, New: `{metadata: {name: catch-all}, spec: {priorityLevelConfiguration: {name: l}}}`, Want: "spec of 'catch-all' must equal the fixed value"},
		{Name: "no_subject", Row: schema, New: rule(`{` + resources + `}`), Want: "spec.rules[0].subjects: Required value: subjects must contain at least one value"},
		{Name: "kind", Row: schema, New: rule(`{subjects: [{kind: Robot}], ` + resources + `}`), Want: `spec.rules[0].subjects[0].kind: Unsupported value: "Robot": supported values: "Group", "ServiceAccount", "User"`},
		{Name: "other_kind", Row: schema, New: rule(`{subjects: [{kind: User, group: {name: g}}], ` + resources + `}`), Want: "user is required when subject kind is 'User', spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'"},
		{Name: "no_rules", Row: schema, New: rule(`{subjects: [{kind: User, user: {name: a}}]}`), Want: "at least one of resourceRules and nonResourceRules has to be non-empty"},
		{Name: "verbs", Row: schema, New: rule(`{subjects: [{kind: User, user: {name: a}}], nonResourceRules: [{verbs: [get, fly], nonResourceURLs: ["/a//b", "/a*", "*"]}]}`), Want: "if '*' is present, must not specify other non-resource URLs"},
		{Name: "url", Row: schema, New: rule(`{subjects: [{kind: User, user: {name: a}}], nonResourceRules: [{verbs: [get], nonResourceURLs: ["/a*"]}]}`), Want: "wildcard can only do suffix matching"},
		{Name: "namespace", Row: schema, New: rule(`{subjects: [{kind: User, user: {name: a}}], resourceRules: [{verbs: ["*"], apiGroups: ["*"], resources: ["*"], namespaces: [A]}]}`), Want: "each member of this list must be '*' or a DNS-1123 label; "},
		{Name: "status", Row: schema, View: "status", Old: `{metadata: {name: a}, spec: {priorityLevelConfiguration: {name: l}}}`, New: `{metadata: {name: a}, status: {conditions: [{type: a}, {type: a}]}}`, Want: "status.conditions[1].type: Duplicate value"},

		{Name: "good", Row: level, New: limited(`{limitResponse: {type: Queue, queuing: {}}}`), Then: func(t *testing.T, o store.Object) {
			if q := o.(*flowcontrolv1.PriorityLevelConfiguration).Spec.Limited.LimitResponse.Queuing; q.Queues != 64 || q.HandSize != 8 || q.QueueLengthLimit != 50 {
				t.Errorf("%+v", q)
			}
		}},
		{Name: "type", Row: level, New: `{metadata: {name: a}}`, Want: "spec.type: Required value"},
		{Name: "exempt", Row: level, New: `{metadata: {name: a}, spec: {type: Exempt}}`, Want: "must be 'Exempt' if and only if `name` is 'exempt'"},
		{Name: "no_queue", Row: level, New: limited(`{limitResponse: {type: Queue}}`), Want: "spec.limited.limitResponse.queuing: Required value: must not be empty if limited.limitResponse.type is Limited"},
		{Name: "hand", Row: level, New: limited(`{limitResponse: {type: Queue, queuing: {queues: 100000, handSize: 50}}}`), Want: "required entropy bits of deckSize 100000 and handSize 50 should not be greater than 60"},
		{Name: "percent", Row: level, New: limited(`{lendablePercent: 101, limitResponse: {type: Reject}}`), Want: "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive"},
		{Name: "shares", Row: level, New: limited(`{nominalConcurrencyShares: -1, limitResponse: {type: Reject}}`), Want: "spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer"},
	})
}
