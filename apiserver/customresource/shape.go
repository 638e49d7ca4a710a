package customresource

import (
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
)

// shape is what of a schema decides whether reading an object would change it: far less than the schema, so that the
// common case, an object that is as it should be, is found out quickly and without a copy.
type shape struct {
	fields   map[string]*shape
	rest     *shape // of the values under other names; nil if they have no schema
	open     bool   // there may be other names
	items    *shape
	defaults []string // names of fields with a default
	nullable bool
	keep     bool // x-kubernetes-preserve-unknown-fields
	embedded bool // x-kubernetes-embedded-resource
}

func shapeOf(s *structuralschema.Structural) *shape {
	if s == nil {
		return nil
	}
	out := &shape{nullable: s.Nullable, keep: s.XPreserveUnknownFields, embedded: s.XEmbeddedResource, items: shapeOf(s.Items)}
	if a := s.AdditionalProperties; a != nil {
		out.open, out.rest = true, shapeOf(a.Structural)
	}
	for name, property := range s.Properties {
		if out.fields == nil {
			out.fields = make(map[string]*shape, len(s.Properties))
		}
		out.fields[name] = shapeOf(&property)
		if property.Default.Object != nil {
			out.defaults = append(out.defaults, name)
		}
	}
	return out
}

// settled says that neither pruning nor defaulting would change x. It may say no where nothing would change.
func (s *shape) settled(x any) bool {
	switch x := x.(type) {
	case map[string]any:
		return s != nil && !s.embedded && s.settledFields(x, false)
	case []any:
		if s == nil {
			return len(x) == 0
		}
		for _, v := range x {
			if v == nil && (s.items == nil || !s.items.nullable) || !(s.keep && s.items == nil) && !s.items.settled(v) {
				return false
			}
		}
	}
	return true
}

// settledFields looks at the fields of an object; at the root of a resource its type and metadata are not the schema's.
func (s *shape) settledFields(x map[string]any, root bool) bool {
	for _, name := range s.defaults {
		if v, ok := x[name]; !ok || v == nil && !s.fields[name].nullable {
			return false
		}
	}
	for name, v := range x {
		if root && (name == "apiVersion" || name == "kind" || name == "metadata") {
			continue
		}
		field, known := s.fields[name]
		if !known {
			switch {
			case s.open:
				field = s.rest
			case s.keep:
				continue
			default:
				return false
			}
		}
		if v == nil && (field == nil || !field.nullable) || !field.settled(v) {
			return false
		}
	}
	return true
}

// metaFields are the fields of metav1.ObjectMeta; others do not survive being read.
var metaFields = map[string]bool{
	"name": true, "generateName": true, "namespace": true, "uid": true, "resourceVersion": true, "generation": true,
	"creationTimestamp": true, "deletionTimestamp": true, "deletionGracePeriodSeconds": true, "labels": true,
	"annotations": true, "ownerReferences": true, "finalizers": true, "managedFields": true,
}

// settledMeta says that the metadata is as this server writes it.
func settledMeta(object map[string]any) bool {
	meta, ok := object["metadata"].(map[string]any)
	if !ok {
		return false
	}
	for name, v := range meta {
		if !metaFields[name] || v == nil {
			return false
		}
	}
	generation, ok := meta["generation"].(int64)
	return ok && generation != 0
}
