package builtin_test

import (
	"encoding/json"
	"math/rand"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/randfill"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

// exercise runs every hook that decides from objects alone. Defaults must be stable: objects read from etcd go through
// them again, and what was written back would otherwise never be the same bytes.
func exercise(t *testing.T, row registry.Resource, obj, old store.Object) {
	if row.Default != nil {
		row.Default(obj)
		row.Default(old)
		again := obj.DeepCopyObject()
		row.Default(again.(store.Object))
		if !apiequality.Semantic.DeepEqual(obj, again) {
			t.Errorf("defaulting a %s twice changes it", row.GVK.Kind)
		}
	}
	if row.Create != nil {
		return
	}
	s := row.Strategy
	fresh := obj.DeepCopyObject().(store.Object)
	if s.PrepareForCreate != nil {
		s.PrepareForCreate(t.Context(), fresh)
	}
	s.Validate(t.Context(), fresh)
	row.Table.Cells(fresh)
	if row.Fields != nil {
		row.Fields(fresh)
	}
	views := []*registry.Strategy{&s, row.Status}
	for _, sub := range row.Subresources {
		views = append(views, sub.Strategy)
	}
	before := old.DeepCopyObject()
	for _, v := range views {
		if v == nil {
			continue
		}
		next := obj.DeepCopyObject().(store.Object)
		if v.PrepareForUpdate != nil {
			v.PrepareForUpdate(t.Context(), next, old)
		}
		v.ValidateUpdate(t.Context(), next, old)
		if v.Warnings != nil {
			v.Warnings(t.Context(), next, old)
		}
	}
	if !apiequality.Semantic.DeepEqual(old, before) {
		t.Errorf("an update of a %s changed the old object, which readers share", row.GVK.Kind)
	}
}

// flatSchemas keeps the schemas in random CustomResourceDefinitions from growing without end.
func flatSchemas(serializer.CodecFactory) []any {
	return []any{func(s *apiextensionsv1.JSONSchemaProps, c randfill.Continue) {
		s.Type, s.Format, s.Nullable = c.String(10), c.String(5), c.Bool()
		if c.Bool() {
			s.Properties = map[string]apiextensionsv1.JSONSchemaProps{c.String(5): {Type: "string"}}
		}
	}}
}

// TestRandomObjects: no object, however strange, makes a hook panic, defaulting unstable or an old object change.
func TestRandomObjects(t *testing.T) {
	fill := fuzzer.FuzzerFor(fuzzer.MergeFuzzerFuncs(metafuzzer.Funcs, flatSchemas), rand.NewSource(7), serializer.NewCodecFactory(types))
	for _, row := range rows(t) {
		t.Run(row.GVK.Group+"_"+row.Name, func(t *testing.T) {
			for range 30 {
				obj, old := newObject(t, row), newObject(t, row)
				fill.Fill(obj)
				fill.Fill(old)
				exercise(t, row, obj, old)
			}
		})
	}
}

// FuzzRows does the same with whatever JSON decodes.
func FuzzRows(f *testing.F) {
	all := rows(f)
	for i := range all {
		f.Add(uint(i), []byte(`{"metadata":{"name":"a","namespace":"b"},"spec":{}}`), []byte(`{}`))
	}
	f.Fuzz(func(t *testing.T, n uint, data, oldData []byte) {
		row := all[n%uint(len(all))]
		obj, old := newObject(t, row), newObject(t, row)
		if json.Unmarshal(data, obj) != nil || json.Unmarshal(oldData, old) != nil {
			return
		}
		exercise(t, row, obj, old)
	})
}
