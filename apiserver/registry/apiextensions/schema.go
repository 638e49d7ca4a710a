package apiextensions

import (
	"maps"
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// eachSchema visits a schema and all schemas in it, the properties in the order of their names.
func eachSchema(s *apiextensionsv1.JSONSchemaProps, visit func(*apiextensionsv1.JSONSchemaProps)) {
	if s == nil {
		return
	}
	visit(s)
	if s.Items != nil {
		eachSchema(s.Items.Schema, visit)
		eachIn(s.Items.JSONSchemas, visit)
	}
	eachIn(s.AllOf, visit)
	eachIn(s.OneOf, visit)
	eachIn(s.AnyOf, visit)
	eachSchema(s.Not, visit)
	if s.AdditionalProperties != nil {
		eachSchema(s.AdditionalProperties.Schema, visit)
	}
	if s.AdditionalItems != nil {
		eachSchema(s.AdditionalItems.Schema, visit)
	}
	eachOf(s.Properties, visit)
	eachOf(s.PatternProperties, visit)
	eachOf(s.Definitions, visit)
	for _, name := range slices.Sorted(maps.Keys(s.Dependencies)) {
		eachSchema(s.Dependencies[name].Schema, visit)
	}
}

func eachIn(list []apiextensionsv1.JSONSchemaProps, visit func(*apiextensionsv1.JSONSchemaProps)) {
	for i := range list {
		eachSchema(&list[i], visit)
	}
}

func eachOf(schemas map[string]apiextensionsv1.JSONSchemaProps, visit func(*apiextensionsv1.JSONSchemaProps)) {
	for _, name := range slices.Sorted(maps.Keys(schemas)) {
		s := schemas[name]
		eachSchema(&s, visit)
	}
}

func unknownFormat(s *apiextensionsv1.JSONSchemaProps) bool {
	probe := &spec.Schema{SchemaProps: spec.SchemaProps{Format: s.Format, Type: []string{s.Type}}}
	return len(validation.GetUnrecognizedFormats(probe, environment.DefaultCompatibilityVersion())) > 0
}
