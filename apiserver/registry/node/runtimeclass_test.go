package node

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mini-k8s/mini/apiserver/registry/registrytest"
)

func TestRuntimeClass(t *testing.T) {
	row := RuntimeClass()
	registrytest.Run(t, []registrytest.Case{
		{Name: "good", Row: row, New: `{metadata: {name: a}, handler: runc, overhead: {podFixed: {cpu: 10m}}, scheduling: {nodeSelector: {a: b}, tolerations: [{operator: Exists}]}}`},
		{Name: "no_handler", Row: row, New: `{metadata: {name: a}}`, Want: "handler: Required value"},
		{Name: "bad_handler", Row: row, New: `{metadata: {name: a}, handler: a.b}`, Want: `handler: Invalid value: "a.b": must not contain dots`},
		{Name: "twice", Row: row, New: `{metadata: {name: a}, handler: a, scheduling: {tolerations: [{operator: Exists}, {operator: Exists}]}}`, Want: "scheduling.tolerations[1]: Duplicate value"},
		{Name: "selector", Row: row, New: `{metadata: {name: a}, handler: a, scheduling: {nodeSelector: {"a b": c}}}`, Want: "scheduling.nodeSelector: Invalid value"},
		{Name: "overhead", Row: row, New: `{metadata: {name: a}, handler: a, overhead: {podFixed: {cpu: -1}}}`, Want: "overhead.limits[cpu]: Invalid value"},
		{Name: "handler_stays", Row: row, Old: `{metadata: {name: a}, handler: a}`, New: `{metadata: {name: a}, handler: b}`, Want: "handler: Invalid value: \"b\": field is immutable"},
	})
	o := registrytest.Decode(t, row, `{metadata: {name: a}, handler: a, scheduling: {nodeSelector: {beta.kubernetes.io/os: linux}}}`)
	want := []string{`scheduling.nodeSelector: deprecated since v1.14; use "kubernetes.io/os" instead`}
	if diff := cmp.Diff(want, row.Strategy.Warnings(t.Context(), o, nil)); diff != "" {
		t.Error(diff)
	}
}
