package roundtrip

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// newer are fields of release 1.37, whose types mini has, that 1.36 does not know and forgets. Each stands for every path
// that ends so.
var newer = []string{
	"CSINode.status",
	"HorizontalPodAutoscaler.status.conditions[].observedGeneration",
	"Node.spec.podPreemptionPolicy",
	"Pod.status.volumeHealth",
	"ResourceSlice.spec.partitionTypeAttribute",
	"ResourceSlice.spec.skipNodeOperations",
	"bindMountOptions",
	"clusterTrustBundle.user",
	"configMap.defaultUser",
	"consumesCounters[].compatibilityGroups",
	"derivedAttributes",
	"devices[].nodeAllocatableResources",
	"downwardAPI.defaultUser",
	"emptyDir.mode",
	"evictionResponders",
	"grpc.mode",
	"httpGet.protocol",
	"items[].user",
	"nodeAllocatableResourceClaimStatuses[].mapping",
	"nodeAllocatableResourceClaimStatuses[].overhead",
	"nodeInfo.runningInUserNamespace",
	"podCertificate.user",
	"projected.defaultUser",
	"results[].skipNodeOperations",
	"secret.defaultUser",
	"serviceAccountToken.user",
	"spec.scheduling",
	"status.healthStatus",
}

// older are fields of 1.36 that 1.37 does not know any more, of an alpha feature, and those that it writes where 1.36 has none.
var older = []string{
	"CSINode.status",
	"devices[].nodeAllocatableResourceMappings",
	"nodeAllocatableResourceClaimStatuses[].resources",
}

// difference is where two objects are not the same; a field is "Kind.a.b[].c" wherever it is in its lists.
type difference struct {
	field string
	text  string
}

// differences compares two objects in JSON, of which the second is what became of the first. In lists and messages of
// protobuf nothing and empty are the same.
func differences(kind string, before, after []byte) ([]difference, error) {
	var a, b any
	for _, side := range []struct {
		data []byte
		into *any
	}{{before, &a}, {after, &b}} {
		d := json.NewDecoder(bytes.NewReader(side.data))
		d.UseNumber()
		if err := d.Decode(side.into); err != nil {
			return nil, err
		}
	}
	var found []difference
	compare(kind, a, b, func(d difference) { found = append(found, d) })
	return found, nil
}

func compare(field string, a, b any, report func(difference)) {
	if empty(a) && empty(b) {
		return
	}
	different := func() { report(difference{field, fmt.Sprintf("%s: %s became %s", field, show(a), show(b))}) }
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok {
			different()
			return
		}
		for _, key := range keys(x, y) {
			compare(field+"."+key, x[key], y[key], report)
		}
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			different()
			return
		}
		for i := range x {
			compare(field+"[]", x[i], y[i], report)
		}
	default:
		if !reflect.DeepEqual(a, b) {
			different()
		}
	}
}

func keys(a, b map[string]any) []string {
	var all []string
	for k := range a {
		all = append(all, k)
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			all = append(all, k)
		}
	}
	slices.Sort(all)
	return all
}

func empty(v any) bool {
	list, ok := v.([]any)
	return v == nil || ok && len(list) == 0
}

func show(v any) string {
	if v == nil {
		return "nothing"
	}
	b, _ := json.Marshal(v) // it came from JSON
	if len(b) > 200 {
		return string(b[:200]) + "…"
	}
	return string(b)
}

// ledger takes the fields of a list off differences and remembers which were met.
type ledger struct {
	fields []string
	met    map[string]bool
}

func (l *ledger) remove(all []difference) (unknown []difference, known bool) {
	for _, d := range all {
		i := slices.IndexFunc(l.fields, func(f string) bool { return d.field == f || strings.HasSuffix(d.field, "."+f) })
		if i < 0 {
			unknown = append(unknown, d)
			continue
		}
		l.met[l.fields[i]], known = true, true
	}
	return unknown, known
}

// check wants every field of the list to have been met: what is known by both sides now should not be forgiven.
func (l *ledger) check(t *testing.T) {
	for _, f := range l.fields {
		if !l.met[f] {
			t.Errorf("%s is listed as a field that gets lost, and was not lost", f)
		}
	}
}

func TestDifferences(t *testing.T) {
	found, err := differences("Kind", []byte(`{"a":[],"b":[{"c":1,"d":2}],"e":{"f":{}},"g":1}`), []byte(`{"b":[{"c":1}],"e":{},"g":1.0,"h":null}`))
	if err != nil {
		t.Fatal(err)
	}
	var fields []string
	for _, d := range found {
		fields = append(fields, d.field)
	}
	if !slices.Equal(fields, []string{"Kind.b[].d", "Kind.e.f", "Kind.g"}) {
		t.Errorf("%v", found)
	}
	l := ledger{fields: []string{"f", "d"}, met: map[string]bool{}}
	if unknown, known := l.remove(found); len(unknown) != 1 || unknown[0].field != "Kind.g" || !known || !l.met["f"] || !l.met["d"] {
		t.Errorf("%v of which unknown %v", found, unknown)
	}
}
