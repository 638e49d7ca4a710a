package scheduling

import (
	"testing"

	schedulingv1 "k8s.io/api/scheduling/v1"

	"github.com/mini-k8s/mini/apiserver/registry/registrytest"
	"github.com/mini-k8s/mini/store"
)

func TestPriorityClass(t *testing.T) {
	row := PriorityClass()
	registrytest.Run(t, []registrytest.Case{
		{Name: "good", Row: row, New: `{metadata: {name: a}, value: 7}`, Then: func(t *testing.T, o store.Object) {
			if pc := o.(*schedulingv1.PriorityClass); *pc.PreemptionPolicy != "PreemptLowerPriority" || pc.Generation != 1 {
				t.Errorf("%+v", pc)
			}
		}},
		{Name: "too_high", Row: row, New: `{metadata: {name: a}, value: 1000000001}`, Want: "value: Forbidden: maximum allowed value of a user defined priority is 1000000000"},
		{Name: "reserved", Row: row, New: `{metadata: {name: system-x}, value: 7}`, Want: "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-x is not a known system priority class"},
		{Name: "system_value", Row: row, New: `{metadata: {name: system-node-critical}, value: 7}`, Want: "value of system-node-critical PriorityClass must be 2000001000"},
		{Name: "system", Row: row, New: `{metadata: {name: system-node-critical}, value: 2000001000}`},
		{Name: "policy", Row: row, New: `{metadata: {name: a}, preemptionPolicy: Sometimes}`, Want: `preemptionPolicy: Unsupported value: "Sometimes": supported values: "PreemptLowerPriority", "Never"`},
		{Name: "value_stays", Row: row, Old: `{metadata: {name: a}, value: 7}`, New: `{metadata: {name: a}, value: 8}`, Want: "value: Forbidden: may not be changed in an update."},
		{Name: "policy_stays", Row: row, Old: `{metadata: {name: a}}`, New: `{metadata: {name: a}, preemptionPolicy: Never}`, Want: "preemptionPolicy: Invalid value: \"Never\": field is immutable"},
		{Name: "description_changes", Row: row, Old: `{metadata: {name: a}, value: 7}`, New: `{metadata: {name: a}, value: 7, description: d, globalDefault: true}`},
	})
}
