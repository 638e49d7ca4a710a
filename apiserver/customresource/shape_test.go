package customresource

import (
	"encoding/json"
	"reflect"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"pgregory.net/rapid"
)

var _ managedfields.TypeConverter = typeConverter(nil)

// structural draws a schema.
func structural(depth int) *rapid.Generator[*structuralschema.Structural] {
	return rapid.Custom(func(t *rapid.T) *structuralschema.Structural {
		s := &structuralschema.Structural{}
		s.Nullable = rapid.Bool().Draw(t, "nullable")
		s.Type = rapid.SampledFrom([]string{"string", "object", "array"}).Draw(t, "type")
		if depth == 0 {
			s.Type = "string"
		}
		switch s.Type {
		case "string":
			if rapid.Bool().Draw(t, "default") {
				s.Default.Object = "d"
			}
		case "array":
			s.Items = structural(depth-1).Draw(t, "items")
		case "object":
			s.XPreserveUnknownFields = rapid.Bool().Draw(t, "keep")
			s.Properties = map[string]structuralschema.Structural{}
			for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 2, rapid.ID).Draw(t, "fields") {
				s.Properties[name] = *structural(depth-1).Draw(t, name)
			}
			if len(s.Properties) > 0 { // validation allows one of the two
				break
			}
			switch rapid.IntRange(0, 3).Draw(t, "additional") {
			case 1:
				s.AdditionalProperties = &structuralschema.StructuralOrBool{Bool: true}
			case 2:
				s.AdditionalProperties = &structuralschema.StructuralOrBool{Structural: structural(depth-1).Draw(t, "rest")}
			}
		}
		return s
	})
}

// value draws any JSON.
func value(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		switch n := rapid.IntRange(0, 5).Draw(t, "shape"); {
		case n == 0:
			return nil
		case n <= 2 || depth == 0:
			return "v"
		case n == 3:
			list := []any{}
			for range rapid.IntRange(0, 2).Draw(t, "length") {
				list = append(list, value(depth-1).Draw(t, "item"))
			}
			return list
		}
		object := map[string]any{}
		for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 3, rapid.ID).Draw(t, "names") {
			object[name] = value(depth-1).Draw(t, name)
		}
		return object
	})
}

// TestSettled: an object that is called settled is not changed by what reading does with the others.
func TestSettled(t *testing.T) {
	settled := 0
	rapid.Check(t, func(t *rapid.T) {
		root := structural(3).Draw(t, "schema")
		root.Type, root.Nullable, root.AdditionalProperties = "object", false, nil // as validation wants roots to be
		if root.Properties == nil {
			root.Properties = map[string]structuralschema.Structural{}
		}
		s := &structure{schema: root, shape: shapeOf(root)}
		object := map[string]any{
			"apiVersion": "example.com/v1", "kind": "Widget",
			"metadata": map[string]any{"name": "w", "generation": int64(1), "creationTimestamp": "2026-01-01T00:00:00Z"},
		}
		for _, name := range []string{"a", "b"} {
			if rapid.Bool().Draw(t, "has "+name) {
				object[name] = value(3).Draw(t, name)
			}
		}
		if !s.settled(object) {
			return
		}
		settled++
		after := runtime.DeepCopyJSON(object)
		if _, err := s.coerce(after, true); err != nil {
			t.Fatal(err)
		}
		s.fill(after)
		if !reflect.DeepEqual(object, after) {
			t.Fatalf("%v became %v", object, after)
		}
	})
	if settled == 0 {
		t.Error("nothing was ever settled")
	}
}

// FuzzDefinition: whatever the schema and the object, reading, validating and applying do not panic, and what has been
// read once is read again as it is.
func FuzzDefinition(f *testing.F) {
	f.Add([]byte(`{"type":"object","properties":{"spec":{"type":"object","x-kubernetes-preserve-unknown-fields":true,"properties":{"a":{"type":"integer","default":1}}}}}`), []byte(`{"spec":{"b":null}}`))
	f.Add([]byte(`{"type":"object","properties":{"a":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"],"items":{"type":"object","properties":{"k":{"type":"string"}}}}}}`), []byte(`{"a":[{"k":"x"},{"k":"x"}]}`))
	f.Fuzz(func(t *testing.T, schema, body []byte) {
		props := &apiextensionsv1.JSONSchemaProps{}
		object := map[string]any{}
		if json.Unmarshal(schema, props) != nil || json.Unmarshal(body, &object) != nil || object == nil {
			return
		}
		crd := named("widgets", "Widget", 1)
		crd.Spec.Versions = []apiextensionsv1.CustomResourceDefinitionVersion{{
			Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: props},
		}}
		s, err := newStructure(crd, &crd.Spec.Versions[0])
		if err != nil {
			return
		}
		object["apiVersion"], object["kind"] = "example.com/v1", "Widget"
		object["metadata"] = map[string]any{"name": "w", "generation": float64(1)}
		if _, err := s.coerce(object, true); err != nil {
			return
		}
		s.fill(object)
		again := runtime.DeepCopyJSON(object)
		if _, err := s.coerce(again, true); err != nil {
			t.Fatal(err)
		}
		if _, err := objectSchema(crd, &crd.Spec.Versions[0], Dialect{V2: true}); err != nil {
			return
		}
	})
}
