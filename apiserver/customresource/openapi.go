package customresource

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	openapiv2 "k8s.io/apiextensions-apiserver/pkg/controller/openapi/v2"
	metav1beta1 "k8s.io/apimachinery/pkg/apis/meta/v1beta1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

const (
	kindExtension = "x-kubernetes-group-version-kind"
	metaTypes     = "io.k8s.apimachinery.pkg.apis.meta.v1."
)

// The words for what every object has are upstream's: clients compare them.
const (
	apiVersionText = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources"
	kindText       = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"

	embeddedVersionText = "apiVersion defines the versioned schema of this representation of an object. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources"
	embeddedKindText    = "kind is a string value representing the type of this object. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"
)

// ModelName is what a kind is called in OpenAPI documents: com.example.v1.Widget.
func ModelName(gvk schema.GroupVersionKind) string {
	parts := strings.Split(gvk.Group, ".")
	slices.Reverse(parts)
	return strings.Join(parts, ".") + "." + gvk.Version + "." + gvk.Kind
}

// Dialect is what a schema is written for.
type Dialect struct {
	V2     bool // of OpenAPI, which cannot say everything, and whose readers trip over some of what it can
	Fields bool // with the selectable fields
}

func (d Dialect) reference(model string) *spec.Schema {
	if d.V2 {
		return spec.RefSchema("#/definitions/" + model)
	}
	return spec.RefSchema("#/components/schemas/" + model)
}

// described refers to a type of package meta/v1 with a description of its own: beside a reference, version 3 ignores it.
func (d Dialect) described(name, text string) spec.Schema {
	ref := d.reference(metaTypes + name)
	if d.V2 {
		return *ref.WithDescription(text)
	}
	return spec.Schema{SchemaProps: spec.SchemaProps{Description: text, AllOf: []spec.Schema{*ref}}}
}

// objectSchema is the OpenAPI schema of a version of a definition: its own schema and what every object has.
func objectSchema(crd *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion, d Dialect) (*spec.Schema, error) {
	props, err := internalSchema(v)
	if err != nil {
		return nil, err
	}
	out := &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
	s := publishable(props)
	// Without any property everything is allowed. With those that all objects have, kubectl would refuse all others.
	if s != nil && !(d.V2 && (s.XPreserveUnknownFields || crd.Spec.PreserveUnknownFields)) {
		if d.V2 {
			s = openapiv2.ToStructuralOpenAPIV2(s)
		}
		out = s.ToKubeOpenAPI()
		out.SetProperty("metadata", d.described("ObjectMeta", metav1beta1.PartialObjectMetadata{}.SwaggerDoc()["metadata"]))
		out.SetProperty("apiVersion", *spec.StringProperty().WithDescription(apiVersionText))
		out.SetProperty("kind", *spec.StringProperty().WithDescription(kindText))
		d.embed(out)
	}
	kind := gvkOf(crd, v)
	out.AddExtension(kindExtension, []any{map[string]any{"group": kind.Group, "version": kind.Version, "kind": kind.Kind}})
	if fields := selectableExtension(v); d.Fields && fields != nil {
		out.AddExtension("x-kubernetes-selectable-fields", fields)
	}
	return out, nil
}

// schemas returns the schemas of a version and its list by model name.
func (v *servedVersion) schemas(v2 bool) (map[string]any, error) {
	d := Dialect{V2: v2, Fields: !v2}
	one, err := objectSchema(v.def.crd, v.spec, d)
	if err != nil {
		return nil, err
	}
	kind := gvkOf(v.def.crd, v.spec)
	list := kind
	list.Kind = v.def.crd.Spec.Names.ListKind
	return map[string]any{ModelName(kind): one, ModelName(list): listSchema(v.def.crd, v.spec, d)}, nil
}

// id names this state of the version: it is part of URLs that clients keep for ever.
func (v *servedVersion) id() string {
	crd := v.def.crd
	return fmt.Sprintf("%s/%d/%s/%q", crd.UID, crd.Generation, v.spec.Name, crd.Status.AcceptedNames)
}

func gvkOf(crd *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: crd.Spec.Group, Version: v.Name, Kind: crd.Spec.Names.Kind}
}

func selectableExtension(v *apiextensionsv1.CustomResourceDefinitionVersion) (out []any) {
	for _, f := range v.SelectableFields {
		out = append(out, map[string]any{"fieldPath": strings.TrimPrefix(f.JSONPath, ".")})
	}
	return out
}

// publishable is a schema as clients can be told; nil where it is none, or one of the old days that is not structural.
func publishable(props *apiextensions.JSONSchemaProps) *structuralschema.Structural {
	if props == nil || validation.SchemaHasInvalidTypes(props) {
		return nil
	}
	s, err := structuralschema.NewStructural(props)
	if err != nil || len(structuralschema.ValidateStructural(nil, s)) > 0 {
		return nil
	}
	return s.Unfold()
}

// embed adds what every object has to the embedded ones.
func (d Dialect) embed(s *spec.Schema) {
	if s == nil {
		return
	}
	for name, property := range s.Properties {
		d.embed(&property)
		s.Properties[name] = property
	}
	if s.Items != nil {
		d.embed(s.Items.Schema)
	}
	if s.AdditionalProperties != nil {
		d.embed(s.AdditionalProperties.Schema)
	}
	if keep, _ := s.Extensions.GetBool("x-kubernetes-preserve-unknown-fields"); keep && d.V2 {
		return
	}
	if embedded, _ := s.Extensions.GetBool("x-kubernetes-embedded-resource"); !embedded {
		return
	}
	s.SetProperty("apiVersion", *spec.StringProperty().WithDescription(embeddedVersionText))
	s.SetProperty("kind", *spec.StringProperty().WithDescription(embeddedKindText))
	s.SetProperty("metadata", d.described("ObjectMeta", metav1beta1.PartialObjectMetadata{}.SwaggerDoc()["metadata"]))
	for _, name := range []string{"kind", "apiVersion"} {
		if !slices.Contains(s.Required, name) {
			s.Required = append(s.Required, name)
		}
	}
}

// listSchema is the OpenAPI schema of a version's list.
func listSchema(crd *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion, d Dialect) *spec.Schema {
	names := &crd.Spec.Names
	items := d.reference(ModelName(gvkOf(crd, v)))
	out := new(spec.Schema).Typed("object", "").
		WithDescription(fmt.Sprintf("%s is a list of %s", names.ListKind, names.Kind)).WithRequired("items").
		SetProperty("items", *spec.ArrayProperty(items).WithDescription(fmt.Sprintf(
			"List of %s. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md", names.Plural))).
		SetProperty("metadata", d.described("ListMeta", metav1beta1.PartialObjectMetadataList{}.SwaggerDoc()["metadata"])).
		SetProperty("apiVersion", *spec.StringProperty().WithDescription(apiVersionText)).
		SetProperty("kind", *spec.StringProperty().WithDescription(kindText))
	out.AddExtension(kindExtension, []any{map[string]any{"group": crd.Spec.Group, "version": v.Name, "kind": names.ListKind}})
	if fields := selectableExtension(v); d.Fields && fields != nil {
		out.AddExtension("x-kubernetes-selectable-fields", fields)
	}
	return out
}
