package apiextensions

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

const widgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  names: {plural: widgets, kind: Widget, shortNames: [wd]}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {size: {type: integer, default: 1}}}
`

// parse reads a definition as a request brings it, with its defaults.
func parse(t testing.TB, text string) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict([]byte(text), crd); err != nil {
		t.Fatal(err)
	}
	CustomResourceDefinition().Default(crd)
	return crd
}

func TestDefaults(t *testing.T) {
	crd := parse(t, widgets)
	if n := crd.Spec.Names; n.Singular != "widget" || n.ListKind != "WidgetList" || crd.Spec.Conversion.Strategy != "None" {
		t.Errorf("%+v", crd.Spec)
	}
}

// TestValidation changes the good definition and wants to be told.
func TestValidation(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{name: "good"},
		{"name", "name: widgets.example.com", "name: gadgets.example.com", `metadata.name: Invalid value: "gadgets.example.com": must be spec.names.plural+"."+spec.group`},
		{"no_storage", "storage: true", "storage: false", "spec.versions: Invalid value"},
		{"no_schema", "type: object, properties: {size: {type: integer, default: 1}}", "properties: {size: {type: integer}}", "spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields"},
		{"bad_default", "default: 1", "default: one", `must be of type integer: "string"`},
		{"rule", "default: 1", "x-kubernetes-validations: [{rule: self.foo > 1}]", "compilation failed: ERROR: <input>:1:5"},
		{"cost", "{type: integer, default: 1}", "{type: array, items: {type: array, items: {type: string}}, x-kubernetes-validations: [{rule: 'self.all(x, x.all(y, self.all(z, z.all(w, w == y))))'}]}", "estimated rule cost exceeds budget"},
		{"protected_group", "example.com", "example.k8s.io", "protected groups must have approval annotation"},
	} {
		t.Run(c.name, func(t *testing.T) {
			row := CustomResourceDefinition()
			crd := parse(t, strings.ReplaceAll(widgets, c.old, c.new))
			row.Strategy.PrepareForCreate(t.Context(), crd)
			errs := row.Strategy.Validate(t.Context(), crd)
			text := ""
			if err := errs.ToAggregate(); err != nil {
				text = err.Error()
			}
			if c.want == "" && text != "" || !strings.Contains(text, c.want) {
				t.Errorf("%q, want %q", text, c.want)
			}
		})
	}
}

// TestUpdate: the status is the server's, the generation counts changes of the spec, and versions that may hold objects
// are remembered.
func TestUpdate(t *testing.T) {
	row := CustomResourceDefinition()
	old := parse(t, widgets)
	row.Strategy.PrepareForCreate(t.Context(), old)
	old.ResourceVersion = "1"
	if data, err := (Codec{}).Encode(old); err != nil || !strings.Contains(string(data), `"conditions":[]`) {
		t.Errorf("a new definition is %s %v", data, err)
	}
	next := old.DeepCopy()
	next.Status.StoredVersions = nil
	next.Labels = map[string]string{"a": "b"}
	row.Strategy.PrepareForUpdate(t.Context(), next, old)
	if next.Generation != 1 || len(next.Status.StoredVersions) != 1 {
		t.Errorf("%d %+v", next.Generation, next.Status)
	}
	next.Spec.Versions[0].Storage = false
	second := *next.Spec.Versions[0].DeepCopy()
	second.Name, second.Storage = "v2", true
	next.Spec.Versions = append(next.Spec.Versions, second)
	row.Strategy.PrepareForUpdate(t.Context(), next, old)
	if diff := cmp.Diff([]string{"v1", "v2"}, next.Status.StoredVersions); diff != "" || next.Generation != 2 {
		t.Error(diff, next.Generation)
	}
	if len(old.Status.StoredVersions) != 1 {
		t.Error("the old object has changed")
	}
	if errs := row.Strategy.ValidateUpdate(t.Context(), next, old); len(errs) > 0 {
		t.Error(errs)
	}
	next.Spec.Scope = "Cluster"
	if errs := row.Strategy.ValidateUpdate(t.Context(), next, old); len(errs) > 0 {
		t.Errorf("a definition that was never established may change: %v", errs)
	}
}

// TestDelete: the first delete waits for the objects.
func TestDelete(t *testing.T) {
	row := CustomResourceDefinition()
	crd := parse(t, widgets)
	if !row.Strategy.Held(crd) {
		t.Error("the first delete would remove it")
	}
	row.Strategy.PrepareForDelete(t.Context(), crd)
	if !apihelpers.CRDHasFinalizer(crd, apiextensionsv1.CustomResourceCleanupFinalizer) || !apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Terminating) {
		t.Errorf("%+v", crd)
	}
}

func TestWarnings(t *testing.T) {
	old := parse(t, widgets)
	crd := parse(t, strings.Replace(widgets, "{type: integer, default: 1}", "{type: string, format: color}", 1))
	if diff := cmp.Diff([]string{`unrecognized format "color"`}, warnings(crd, nil)); diff != "" {
		t.Error(diff)
	}
	if got := warnings(crd, crd); len(got) > 0 || len(warnings(old, nil)) > 0 {
		t.Error(got)
	}
}

// TestStorage reads what upstream writes, v1beta1, and writes the same; v1, which mini wrote before, is read too.
func TestStorage(t *testing.T) {
	beta := `{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1beta1","metadata":{"name":"widgets.example.com"},
		"spec":{"group":"example.com","version":"v1","names":{"plural":"widgets","singular":"widget","shortNames":["wd"],"kind":"Widget","listKind":"WidgetList"},
		"scope":"Namespaced","validation":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","properties":{"size":{"type":"integer","default":1}}}}}},
		"versions":[{"name":"v1","served":true,"storage":true}],"conversion":{"strategy":"None"},"preserveUnknownFields":false},
		"status":{"conditions":null,"acceptedNames":{"plural":"","kind":""},"storedVersions":["v1"]}}`
	want := parse(t, widgets)
	want.Status.StoredVersions = []string{"v1"}
	fromBeta, err := Codec{}.Decode([]byte(beta))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Spec, fromBeta.(*apiextensionsv1.CustomResourceDefinition).Spec); diff != "" {
		t.Error(diff)
	}
	want.ResourceVersion = "7"
	data, err := Codec{}.Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(beta)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(compact.String()+"\n", string(data)); diff != "" || want.ResourceVersion != "7" {
		t.Error(diff)
	}
	back, err := Codec{}.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	want.ResourceVersion = ""
	if diff := cmp.Diff(want, back); diff != "" {
		t.Error(diff)
	}
	v1, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if back, err = (Codec{}).Decode(v1); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, back); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{`{}`, `[`, `{"kind":"Pod","apiVersion":"v1"}`} {
		if _, err := (Codec{}).Decode([]byte(bad)); err == nil {
			t.Errorf("%s is read", bad)
		}
	}
}

// FuzzValidate: no schema, however strange, makes validation panic.
func FuzzValidate(f *testing.F) {
	data, err := json.Marshal(parse(f, widgets))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"spec":{"versions":[{"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-validations":[{"rule":"self.a"}]}}}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		row := CustomResourceDefinition()
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if json.Unmarshal(data, crd) != nil {
			return
		}
		row.Default(crd)
		row.Strategy.PrepareForCreate(t.Context(), crd)
		row.Strategy.Validate(t.Context(), crd)
		row.Strategy.Warnings(t.Context(), crd, nil)
		row.Table.Cells(crd)
	})
}
