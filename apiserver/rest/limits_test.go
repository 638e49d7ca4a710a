package rest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/mini-k8s/mini/apiserver/codec"
)

func repeated(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return strings.TrimSuffix(b.String(), ",")
}

// TestPatchLimits: patches that would cost far more than their size are refused before they are applied, and those that
// people write are not.
func TestPatchLimits(t *testing.T) {
	limitCopies()
	pods, err := codec.NewKind(scheme.Scheme, corev1.SchemeGroupVersion.WithKind("Pod"), nil)
	if err != nil {
		t.Fatal(err)
	}
	things := codec.NewUnstructuredKind(schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Thing"}, "", "", nil)
	const head = `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p"}`
	thing := func(spec string) string {
		return `{"kind":"Thing","apiVersion":"example.com/v1","metadata":{"name":"t"},"spec":` + spec + `}`
	}
	big := strings.Repeat("x", 1<<20)
	for _, c := range []struct {
		name     string
		kind     types.PatchType
		original string
		body     string
		code     int32 // 0 is good
		want     string
	}{
		{"operations", types.JSONPatchType, head + "}", "[" + repeated(10000, `{"op":"add","path":"/metadata/labels","value":{"a":"%d"}},`) + "]", 0, ""},
		{"too many operations", types.JSONPatchType, head + "}", "[" + repeated(10001, `{"op":"add","path":"/metadata/labels","value":{"a":"%d"}},`) + "]", 413,
			"Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001"},
		{"deep patch", types.JSONPatchType, head + "}", strings.Repeat("[", 600), 400, "exceeded max depth of 512"},
		{"deep merge patch", types.MergePatchType, head + "}", strings.Repeat(`{"a":`, 600) + "1" + strings.Repeat("}", 600), 400, "exceeded max depth of 512"},
		{"deep strategic patch", types.StrategicMergePatchType, head + "}", strings.Repeat(`{"a":`, 600) + "1" + strings.Repeat("}", 600), 400, "exceeded max depth of 512"},
		{"copies", types.JSONPatchType, head + `,"spec":{"nodeName":"` + big + `"}}`, "[" + repeated(4, `{"op":"copy","from":"/spec/nodeName","path":"/spec/hostname","a":%d},`) + "]", 422, ""},
		{"deep in a big one", types.MergePatchType, thing("{}"), `{"spec":` + strings.Repeat(`{"a":`, 400) + `"` + big + big + big[:1<<19] + `"` + strings.Repeat("}", 401), 413, "would take too long"},
		{"deep in a small one", types.MergePatchType, thing("{}"), `{"spec":` + strings.Repeat(`{"a":`, 400) + `1` + strings.Repeat("}", 401), 0, ""},
		{"moved ever deeper", types.JSONPatchType, thing("{}"),
			"[" + moves(300) + "]", 413, "would take too long"},
		{"one moved", types.JSONPatchType, thing(`{"a":1}`), `[{"op":"move","from":"/spec/a","path":"/spec/b"}]`, 0, ""},
		{"shifts beside a long text", types.JSONPatchType, thing(`{"b":"` + big + `","a":[` + repeated(5000, "%d,") + `]}`), "[" + repeated(10000, `{"op":"add","path":"/spec/a/0","value":%d},`) + "]", 0, ""},
		{"shifts in a long list", types.JSONPatchType, thing(`{"a":[` + repeated(100000, "%d,") + `]}`), "[" + repeated(9000, `{"op":"add","path":"/spec/a/0","value":%d},`) + "]", 413, "would take too long"},
		{"shifts in a list", types.JSONPatchType, thing(`{"a":[` + repeated(2000, "%d,") + `]}`), "[" + repeated(1000, `{"op":"add","path":"/spec/a/0","value":%d},`) + "]", 0, ""},
		{"tests of a long text", types.JSONPatchType, thing(`{"a":"` + big + `"}`), "[" + repeated(9000, `{"op":"test","path":"/spec/a","value":"%d"},`) + "]", 413, "would take too long"},
		{"tests of short ones", types.JSONPatchType, thing(`{"a":"b"}`), "[" + repeated(9000, `{"op":"test","path":"/spec/a","value":"b","x":%d},`) + "]", 0, ""},
		{"merged lists", types.StrategicMergePatchType, head + "}", `{"spec":{"containers":[` + repeated(20000, `{"name":"c%d"},`) + `]}}`, 413, "would take too long"},
		{"a merged list", types.StrategicMergePatchType, head + "}", `{"spec":{"containers":[` + repeated(5000, `{"name":"c%d"},`) + `]}}`, 0, ""},
		{"scalars", types.StrategicMergePatchType, head + "}", `{"metadata":{"finalizers":[` + repeated(20000, `"f%d",`) + `]}}`, 413, "would take too long"},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			kind := pods
			if strings.Contains(c.original, "Thing") {
				kind = things
			}
			start := time.Now()
			patch, err := newPatcher(kind, c.kind, []byte(c.body), false)
			if err == nil {
				err = patch.into(t.Context(), []byte(c.original), kind.New(), metav1.FieldValidationIgnore, nil)
			}
			t.Log(time.Since(start))
			if c.code == 0 {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil {
				t.Fatal("it is applied")
			}
			if s := statusOf(err, configMapResource, "").Status(); s.Code != c.code || !strings.Contains(s.Message, c.want) {
				t.Errorf("%d %s, want %d %s", s.Code, s.Message, c.code, c.want)
			}
		})
	}
}

// moves wraps what spec holds n times, by pointers that stay short for what they do.
func moves(n int) string {
	var ops []map[string]any
	for range n {
		var nested any = map[string]any{}
		for range 300 {
			nested = map[string]any{"a": nested}
		}
		ops = append(ops,
			map[string]any{"op": "add", "path": "/t", "value": nested},
			map[string]any{"op": "move", "from": "/spec", "path": "/t" + strings.Repeat("/a", 300) + "/b"},
			map[string]any{"op": "move", "from": "/t", "path": "/spec"})
	}
	b, err := json.Marshal(ops)
	if err != nil {
		panic(err)
	}
	return string(b[1 : len(b)-1])
}

// TestApplyLimits: a configuration that is nested too deep is refused, as JSON and as YAML.
func TestApplyLimits(t *testing.T) {
	e := endpointOf(t, "ConfigMap")
	for _, body := range []string{
		strings.Repeat("[", 600) + strings.Repeat("]", 600),
		strings.Repeat("- ", 600) + "a",
		"apiVersion: v1\nkind: ConfigMap\ndata: " + strings.Repeat("{a: ", 600) + strings.Repeat("}", 600),
		strings.Repeat("[", 20000),
	} {
		q := &write{e: e, ctx: t.Context(), view: e.main}
		_, err := q.applyPatch(types.ApplyYAMLPatchType, []byte(body))
		if err == nil {
			t.Fatalf("%.50s is applied", body)
		}
		if s := statusOf(err, configMapResource, "").Status(); s.Code != http.StatusBadRequest || !strings.Contains(s.Message, "exceeded max depth") {
			t.Errorf("%.50s: %d %s", body, s.Code, s.Message)
		}
	}
}
