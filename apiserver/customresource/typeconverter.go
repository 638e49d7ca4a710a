package customresource

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/schemaconv"
	"k8s.io/kube-openapi/pkg/validation/spec"
	smd "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/mini-k8s/mini/apiserver/fieldschema"
)

// typeConverter gives server-side apply the schemas of a definition's versions.
type typeConverter map[schema.GroupVersionKind]typed.ParseableType

var _ managedfields.TypeConverter = typeConverter(nil)

// newTypeConverter falls back to a converter that takes lists as a whole, where the schemas cannot be used.
func newTypeConverter(d *definition) managedfields.TypeConverter {
	models := map[string]*spec.Schema{}
	for i := range d.crd.Spec.Versions {
		v := &d.crd.Spec.Versions[i]
		model, err := objectSchema(d.crd, v, Dialect{})
		if err != nil {
			return d.deduced(err)
		}
		models[ModelName(gvkOf(d.crd, v))] = model
	}
	types, err := schemaconv.ToSchemaFromOpenAPI(models, d.crd.Spec.PreserveUnknownFields)
	if err != nil {
		return d.deduced(err)
	}
	meta, err := fieldschema.Definitions(metaTypes + "ObjectMeta")
	if err != nil {
		return d.deduced(err)
	}
	parser := &typed.Parser{Schema: smd.Schema{Types: types.Types}}
	for _, t := range meta {
		if _, known := types.FindNamedType(t.Name); !known { // both have the types of what has no schema
			parser.Schema.Types = append(parser.Schema.Types, t)
		}
	}
	out := typeConverter{}
	for i := range d.crd.Spec.Versions {
		gvk := gvkOf(d.crd, &d.crd.Spec.Versions[i])
		out[gvk] = parser.Type(ModelName(gvk))
	}
	return out
}

func (d *definition) deduced(err error) managedfields.TypeConverter {
	d.rest.Logger.Error("server-side apply does not know the schema of a custom resource", "definition", d.crd.Name, "error", err)
	return managedfields.NewDeducedTypeConverter()
}

// ObjectToTyped shows an object with the schema of its version.
func (c typeConverter) ObjectToTyped(obj runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("%T is no custom resource", obj)
	}
	t, ok := c[u.GroupVersionKind()]
	if !ok {
		return nil, fmt.Errorf("no corresponding type for %v", u.GroupVersionKind())
	}
	return t.FromUnstructured(u.Object, opts...)
}

// TypedToObject returns an unstructured object.
func (c typeConverter) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	object, ok := v.AsValue().Unstructured().(map[string]any)
	if !ok {
		return nil, fmt.Errorf("a value of %T is not an object", v.AsValue().Unstructured())
	}
	return &unstructured.Unstructured{Object: object}, nil
}
