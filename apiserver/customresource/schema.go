package customresource

import (
	"errors"
	"fmt"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

// errSchema is what a client sees of a schema that cannot be used; the reason is logged. Validation keeps such schemas
// out, so that it takes another writer's definition in etcd.
var errSchema = errors.New("the server could not properly serve the CR schema")

// internalSchema is the schema of a version in the form of upstream's libraries, nil if it has none.
func internalSchema(v *apiextensionsv1.CustomResourceDefinitionVersion) (*apiextensions.JSONSchemaProps, error) {
	if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
		return nil, nil
	}
	out := &apiextensions.CustomResourceValidation{}
	if err := apiextensionsv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(v.Schema.DeepCopy(), out, nil); err != nil {
		return nil, err
	}
	return out.OpenAPIV3Schema, nil
}

// structure is what decoding an object of one version needs.
type structure struct {
	keep   bool // the definition is of the old days and keeps what it does not know (spec.preserveUnknownFields)
	schema *structuralschema.Structural
	shape  *shape
}

func newStructure(crd *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) (*structure, error) {
	s := &structure{keep: crd.Spec.PreserveUnknownFields}
	props, err := internalSchema(v)
	if err != nil || props == nil {
		return s, err
	}
	s.schema, err = structuralschema.NewStructural(props)
	if s.keep { // whatever it is, nothing is pruned by it
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", v.Name, err)
	}
	s.schema = s.schema.DeepCopy() // defaults are still those of props
	if err := defaulting.PruneDefaults(s.schema); err != nil {
		return nil, fmt.Errorf("defaults of %s: %w", v.Name, err)
	}
	s.shape = shapeOf(s.schema)
	return s, nil
}

// settled says that an object from etcd is already as coerce and fill would make it.
func (s *structure) settled(object map[string]any) bool {
	return s.shape != nil && !s.keep && settledMeta(object) && s.shape.settledFields(object, true)
}

// fill sets defaults.
func (s *structure) fill(object map[string]any) {
	if s.schema != nil {
		defaulting.Default(object, s.schema)
	}
}

// coerce does what decoding into a Go type would: metadata has only the fields of metav1.ObjectMeta, other fields are
// those of the schema, and nulls that nothing allows are no values. It returns the paths of what it dropped. An object
// from etcd is repaired where a request's is refused.
func (s *structure) coerce(object map[string]any, stored bool) (unknown []string, err error) {
	meta, hasMeta, unknown, err := objectmeta.GetObjectMetaWithOptions(object, objectmeta.ObjectMetaOptions{
		DropMalformedFields: stored, ReturnUnknownFieldPaths: !stored,
	})
	if err != nil {
		return nil, err
	}
	kind, apiVersion := object["kind"], object["apiVersion"]
	if !s.keep {
		unknown = append(unknown, pruning.PruneWithOptions(object, s.schema, true, structuralschema.UnknownFieldPathOptions{
			TrackUnknownFieldPaths: !stored,
		})...)
		defaulting.PruneNonNullableNullsWithoutDefaults(object, s.schema)
	}
	fieldError, paths := objectmeta.CoerceWithOptions(nil, object, s.schema, false, objectmeta.CoerceOptions{
		DropInvalidFields: stored, ReturnUnknownFieldPaths: !stored,
	})
	if fieldError != nil {
		return nil, fieldError
	}
	if stored && hasMeta && meta.Generation == 0 {
		meta.Generation = 1
	}
	object["kind"], object["apiVersion"] = kind, apiVersion
	if hasMeta {
		err = objectmeta.SetObjectMeta(object, meta)
	}
	return append(unknown, paths...), err
}

// checks are what validating an object of one version needs.
type checks struct {
	schema *structuralschema.Structural
	object validation.SchemaValidator
	status validation.SchemaValidator // nil if the schema says nothing about the status
	rules  *cel.Validator             // nil without rules
}

func newChecks(s *structure, v *apiextensionsv1.CustomResourceDefinitionVersion) (*checks, error) {
	props, err := internalSchema(v)
	if err != nil {
		return nil, err
	}
	c := &checks{schema: s.schema}
	if c.object, _, err = validation.NewSchemaValidator(props); err != nil {
		return nil, err
	}
	if props != nil && v.Subresources != nil && v.Subresources.Status != nil {
		if status, ok := props.Properties["status"]; ok {
			if c.status, _, err = validation.NewSchemaValidator(&status); err != nil {
				return nil, err
			}
		}
	}
	c.rules = cel.NewValidator(s.schema, true, celconfig.PerCallLimit)
	return c, nil
}
