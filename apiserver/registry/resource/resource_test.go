package resource

import (
	"testing"

	resourcev1 "k8s.io/api/resource/v1"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/registry/registrytest"
	"github.com/mini-k8s/mini/store"
)

func TestClasses(t *testing.T) {
	row := DeviceClass()
	registrytest.Run(t, []registrytest.Case{
		{Name: "good", Row: row, New: `{metadata: {name: a}, spec: {selectors: [{cel: {expression: "device.driver == 'x'"}}], config: [{opaque: {driver: d, parameters: {a: b}}}]}}`},
		{Name: "selector", Row: row, New: `{metadata: {name: a}, spec: {selectors: [{cel: {expression: "device.colour"}}]}}`, Want: "spec.selectors[0].cel.expression: Invalid value: \"device.colour\": compilation failed"},
		{Name: "no_cel", Row: row, New: `{metadata: {name: a}, spec: {selectors: [{}]}}`, Want: "spec.selectors[0].cel: Required value"},
		{Name: "parameters", Row: row, New: `{metadata: {name: a}, spec: {config: [{opaque: {driver: d, parameters: 1}}]}}`, Want: "must be a valid JSON object"},
		{Name: "generation", Row: row, Old: `{metadata: {name: a, generation: 1}}`, New: `{metadata: {name: a}, spec: {config: [{opaque: {driver: d, parameters: {}}}]}}`, Then: func(t *testing.T, o store.Object) {
			if o.GetGeneration() != 2 {
				t.Errorf("generation %d", o.GetGeneration())
			}
		}},
	})
}

func TestClaims(t *testing.T) {
	row, template := ResourceClaim(registry.Deps{}), ResourceClaimTemplate(registry.Deps{})
	claim := func(devices string) string {
		return `{metadata: {name: a, namespace: n}, spec: {devices: ` + devices + `}}`
	}
	good := claim(`{requests: [{name: r, exactly: {deviceClassName: c}}]}`)
	status := func(s string) string { return `{metadata: {name: a, namespace: n}, status: ` + s + `}` }
	registrytest.Run(t, []registrytest.Case{
		{Name: "good", Row: row, New: good, Then: func(t *testing.T, o store.Object) {
			if e := o.(*resourcev1.ResourceClaim).Spec.Devices.Requests[0].Exactly; e.AllocationMode != "ExactCount" || e.Count != 1 {
				t.Errorf("%+v", e)
			}
		}},
		{Name: "neither", Row: row, New: claim(`{requests: [{name: r}]}`), Want: "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required"},
		{Name: "class", Row: row, New: claim(`{requests: [{name: r, exactly: {}}]}`), Want: "spec.devices.requests[0].exactly.deviceClassName: Required value"},
		{Name: "mode", Row: row, New: claim(`{requests: [{name: r, exactly: {deviceClassName: c, allocationMode: Some}}]}`), Want: `allocationMode: Unsupported value: "Some": supported values: "All", "ExactCount"`},
		{Name: "twice", Row: row, New: claim(`{requests: [{name: r, exactly: {deviceClassName: c}}, {name: r, exactly: {deviceClassName: c}}]}`), Want: "spec.devices.requests[1]: Duplicate value: \"r\""},
		{Name: "constraint", Row: row, New: claim(`{requests: [{name: r, exactly: {deviceClassName: c}}], constraints: [{requests: [x], matchAttribute: a}]}`), Want: "must be the name of a request in the claim"},
		{Name: "toleration", Row: row, New: claim(`{requests: [{name: r, exactly: {deviceClassName: c, tolerations: [{operator: Exists, value: v}]}}]}`), Want: "must be empty for operator `Exists`"},
		{Name: "toleration_default", Row: row, New: claim(`{requests: [{name: r, exactly: {deviceClassName: c, tolerations: [{key: k}]}}, {name: s, firstAvailable: [{name: t, deviceClassName: c, tolerations: [{key: k}]}]}]}`), Then: func(t *testing.T, o store.Object) {
			r := o.(*resourcev1.ResourceClaim).Spec.Devices.Requests
			if a, b := r[0].Exactly.Tolerations[0].Operator, r[1].FirstAvailable[0].Tolerations[0].Operator; a != "Equal" || b != "Equal" {
				t.Errorf("%q %q", a, b)
			}
		}},
		{Name: "spec_stays", Row: row, Old: good, New: claim(`{requests: [{name: s, exactly: {deviceClassName: c}}]}`), Want: "field is immutable"},
		{Name: "allocate", Row: row, View: "status", Old: good, New: status(`{allocation: {devices: {results: [{request: r, driver: d, pool: p, device: x}]}}, reservedFor: [{resource: pods, name: p, uid: u}], devices: [{driver: d, pool: p, device: x}]}`)},
		{Name: "allocated_toleration", Row: row, View: "status", Old: good, New: status(`{allocation: {devices: {results: [{request: r, driver: d, pool: p, device: x, tolerations: [{key: k}]}]}}}`), Then: func(t *testing.T, o store.Object) {
			if op := o.(*resourcev1.ResourceClaim).Status.Allocation.Devices.Results[0].Tolerations[0].Operator; op != "Equal" {
				t.Errorf("%q", op)
			}
		}},
		{Name: "other_device", Row: row, View: "status", Old: good, New: status(`{devices: [{driver: d, pool: p, device: x}]}`), Want: "must be an allocated device in the claim"},
		{Name: "reserved", Row: row, View: "status", Old: good, New: status(`{reservedFor: [{resource: pods, name: p, uid: u}]}`), Want: "status.reservedFor: Forbidden: may not be specified when `allocated` is not set"},
		{Name: "good", Row: template, New: `{metadata: {name: a, namespace: n}, spec: {spec: {devices: {requests: [{name: r, firstAvailable: [{name: s, deviceClassName: c}]}]}}}}`},
		{Name: "stays", Row: template, Old: `{metadata: {name: a, namespace: n}}`, New: `{metadata: {name: a, namespace: n}, spec: {metadata: {labels: {a: b}}}}`, Want: "field is immutable"},
	})
}

func TestSlices(t *testing.T) {
	row := ResourceSlice()
	slice := func(more string) string {
		return `{metadata: {name: a}, spec: {driver: d, pool: {name: p, resourceSliceCount: 1}, ` + more + `}}`
	}
	registrytest.Run(t, []registrytest.Case{
		{Name: "good", Row: row, New: slice(`nodeName: node, devices: [{name: x, attributes: {a: {string: s}, d.e/b: {version: 1.2.3}}, capacity: {m: {value: 1Gi}}}]`)},
		{Name: "nowhere", Row: row, New: slice(`devices: []`), Want: "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"},
		{Name: "twice", Row: row, New: slice(`nodeName: node, allNodes: true`), Want: "{`nodeName`, `allNodes`}"},
		{Name: "pool", Row: row, New: `{metadata: {name: a}, spec: {driver: d, pool: {name: P}, allNodes: true}}`, Want: "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero"},
		{Name: "attribute", Row: row, New: slice(`allNodes: true, devices: [{name: x, attributes: {a: {}}}]`), Want: "exactly one value must be specified"},
		{Name: "version", Row: row, New: slice(`allNodes: true, devices: [{name: x, attributes: {a: {version: "1"}}}]`), Want: "must be a string compatible with semver.org spec 2.0.0"},
		{Name: "taint", Row: row, New: slice(`allNodes: true, devices: [{name: x, taints: [{key: k, effect: Some}]}]`), Want: `effect: Unsupported value: "Some"`},
		{Name: "driver_stays", Row: row, Old: slice(`allNodes: true`), New: `{metadata: {name: a}, spec: {driver: e, pool: {name: p, resourceSliceCount: 1}, allNodes: true}}`, Want: "spec.driver: Invalid value: \"e\": field is immutable"},
	})
	o := registrytest.Decode(t, row, slice(`nodeName: node`))
	if f := row.Fields(o); f["spec.nodeName"] != "node" || f["spec.driver"] != "d" {
		t.Errorf("%v", f)
	}
}
