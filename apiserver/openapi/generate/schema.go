package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/mini-k8s/mini/apiserver/openapi/render"
)

type node = render.Node

// schemas makes definitions of Go types, with those they need.
type schemas struct {
	sources     *sources
	definitions map[string]node
}

// model is a type's name in OpenAPI documents: k8s.io/api/apps/v1.Deployment is io.k8s.api.apps.v1.Deployment.
func model(path, name string) string {
	domain, rest, _ := strings.Cut(path, "/")
	parts := strings.Split(domain, ".")
	slices.Reverse(parts)
	return strings.Join(parts, ".") + "." + strings.ReplaceAll(rest, "/", ".") + "." + name
}

// opaque are the types whose JSON is not what their Go fields say.
var opaque = map[string]node{
	"io.k8s.apimachinery.pkg.apis.meta.v1.Time":          {"type": "string", "format": "date-time"},
	"io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime":     {"type": "string", "format": "date-time"},
	"io.k8s.apimachinery.pkg.apis.meta.v1.Duration":      {"type": "string"},
	"io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1":      {"type": "object"},
	"io.k8s.apimachinery.pkg.apis.meta.v1.Patch":         {"type": "object"},
	"io.k8s.apimachinery.pkg.runtime.RawExtension":       {"type": "object"},
	"io.k8s.apimachinery.pkg.api.resource.Quantity":      {"type": "string", "x-one-of": []string{"string", "number"}},
	"io.k8s.apimachinery.pkg.util.intstr.IntOrString":    {"type": "string", "format": "int-or-string", "x-one-of": []string{"integer", "string"}},
	"io.k8s.apimachinery.pkg.apis.meta.v1.InternalEvent": {"type": "object"},
	// Any JSON, or one of two shapes: OpenAPI v2 has no way to say it.
	"io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON":                         {},
	"io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray":       {},
	"io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool":        {},
	"io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray": {},
}

// define makes the definition of a Go type and returns its model name.
func (s *schemas) define(path, name string) (string, error) {
	p, err := s.sources.load(path)
	if err != nil {
		return "", err
	}
	t := p.types[name]
	if t == nil {
		return "", fmt.Errorf("type %s.%s is not declared", path, name)
	}
	m := model(path, name)
	if s.definitions[m] != nil {
		return m, nil
	}
	def := node{}
	s.definitions[m] = def // before its fields: types refer to themselves
	if d := describe(t.comment); d != "" {
		def["description"] = d
	}
	if fixed, ok := opaque[m]; ok {
		for k, v := range fixed {
			def[k] = v
		}
		return m, nil
	}
	fields, ok := t.expr.(*ast.StructType)
	if !ok {
		return "", fmt.Errorf("%s is not a struct", m)
	}
	def["type"] = "object"
	if v := append(marker(t.comment, "structType"), marker(t.comment, "mapType")...); len(v) > 0 {
		def["x-kubernetes-map-type"] = v[0]
	}
	properties := map[string]node{}
	var required []string
	if err := s.fields(t, fields, properties, &required); err != nil {
		return "", fmt.Errorf("%s: %w", m, err)
	}
	if len(properties) > 0 {
		def["properties"] = properties
	}
	if len(required) > 0 {
		sort.Strings(required)
		def["required"] = required
	}
	return m, nil
}

// fields adds a struct's fields, with those of the structs inlined in it.
func (s *schemas) fields(t *typeDecl, st *ast.StructType, properties map[string]node, required *[]string) error {
	for _, f := range st.Fields.List {
		tag := reflect.StructTag("")
		if f.Tag != nil {
			raw, err := strconv.Unquote(f.Tag.Value)
			if err != nil {
				return err
			}
			tag = reflect.StructTag(raw)
		}
		name, options, _ := strings.Cut(tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		if name == "" && (len(f.Names) == 0 || strings.Contains(options, "inline")) {
			inner, err := s.resolve(t, f.Type)
			if err != nil {
				return err
			}
			if inner == nil {
				return fmt.Errorf("embedded field is not a named type")
			}
			st, ok := inner.expr.(*ast.StructType)
			if !ok {
				return fmt.Errorf("embedded %s is not a struct", inner.name)
			}
			if err := s.fields(inner, st, properties, required); err != nil {
				return err
			}
			continue
		}
		if name == "" {
			if len(f.Names) == 0 || !f.Names[0].IsExported() {
				continue
			}
			name = f.Names[0].Name
		}
		comment := lines(f.Doc)
		omit := strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")
		property, err := s.property(t, f.Type, comment, tag, omit)
		if err != nil {
			return fmt.Errorf("field %s: %w", name, err)
		}
		properties[name] = property
		if len(marker(comment, "optional")) == 0 && !omit {
			*required = append(*required, name)
		}
	}
	return nil
}

func (s *schemas) property(t *typeDecl, expr ast.Expr, comment []string, tag reflect.StructTag, omit bool) (node, error) {
	p, err := s.of(t, expr, omit)
	if err != nil {
		return nil, err
	}
	description := describe(comment)
	if enum, ok := p["x-enum-description"].(string); ok {
		delete(p, "x-enum-description")
		description = strings.TrimSpace(description + enum)
	}
	if description != "" {
		p["description"] = description
	}
	if v := marker(comment, "default"); len(v) > 0 {
		var value any
		if err := json.Unmarshal([]byte(v[len(v)-1]), &value); err == nil {
			p["default"] = value
		}
	}
	if v := marker(comment, "listType"); len(v) > 0 {
		p["x-kubernetes-list-type"] = v[0]
	}
	if v := marker(comment, "listMapKey"); len(v) > 0 {
		p["x-kubernetes-list-map-keys"] = v
	}
	if v := append(marker(comment, "structType"), marker(comment, "mapType")...); len(v) > 0 {
		p["x-kubernetes-map-type"] = v[0]
	}
	if v := tag.Get("patchStrategy"); v != "" {
		p["x-kubernetes-patch-strategy"] = v
	}
	if v := tag.Get("patchMergeKey"); v != "" {
		p["x-kubernetes-patch-merge-key"] = v
	}
	return p, nil
}

var builtins = map[string]node{
	"string":  {"type": "string", "default": ""},
	"bool":    {"type": "boolean", "default": false},
	"int":     {"type": "integer", "format": "int32", "default": 0},
	"int32":   {"type": "integer", "format": "int32", "default": 0},
	"uint32":  {"type": "integer", "format": "int64", "default": 0},
	"int64":   {"type": "integer", "format": "int64", "default": 0},
	"uint64":  {"type": "integer", "format": "int64", "default": 0},
	"byte":    {"type": "integer", "format": "byte", "default": 0},
	"uint8":   {"type": "integer", "format": "byte", "default": 0},
	"uint16":  {"type": "integer", "format": "int32", "default": 0},
	"int16":   {"type": "integer", "format": "int32", "default": 0},
	"float64": {"type": "number", "format": "double", "default": 0},
	"any":     {"type": "object"},
}

// of is the schema of an expression that stands for a type. A zero default is noted unless omit, as the API's own
// generator does: such a field is never absent in what the server sends.
func (s *schemas) of(t *typeDecl, expr ast.Expr, omit bool) (node, error) {
	switch e := expr.(type) {
	case *ast.StarExpr:
		p, err := s.of(t, e.X, true)
		if err == nil {
			delete(p, "default")
		}
		return p, err
	case *ast.ArrayType:
		if id, ok := e.Elt.(*ast.Ident); ok && (id.Name == "byte" || id.Name == "uint8") {
			return node{"type": "string", "format": "byte"}, nil
		}
		items, err := s.of(t, e.Elt, false)
		delete(items, "x-enum-description")
		return node{"type": "array", "items": items}, err
	case *ast.MapType:
		values, err := s.of(t, e.Value, false)
		delete(values, "x-enum-description")
		return node{"type": "object", "additionalProperties": values}, err
	case *ast.InterfaceType:
		return node{"type": "object"}, nil
	case *ast.Ident:
		if b, ok := builtins[e.Name]; ok && t.pkg.types[e.Name] == nil {
			p := node{}
			for k, v := range b {
				if k != "default" || !omit {
					p[k] = v
				}
			}
			return p, nil
		}
	}
	named, err := s.resolve(t, expr)
	if err != nil {
		return nil, err
	}
	if named == nil {
		return nil, fmt.Errorf("cannot make a schema of %T", expr)
	}
	return s.named(named, omit)
}

func (s *schemas) named(t *typeDecl, omit bool) (node, error) {
	m := model(t.pkg.path, t.name)
	_, isOpaque := opaque[m]
	_, isStruct := t.expr.(*ast.StructType)
	if isOpaque || isStruct {
		if _, err := s.define(t.pkg.path, t.name); err != nil {
			return nil, err
		}
		p := node{"$ref": render.RefPrefix + m}
		if !isOpaque {
			p["default"] = map[string]any{}
		}
		return p, nil
	}
	p, err := s.of(t, t.expr, omit)
	if err != nil {
		return nil, err
	}
	values := t.pkg.values[t.name]
	if len(marker(t.comment, "enum")) == 0 || len(values) == 0 {
		return p, nil
	}
	var enum []string
	var b strings.Builder
	b.WriteString("\n\nPossible enum values:")
	for _, v := range values {
		if slices.Contains(enum, v.value) {
			continue
		}
		enum = append(enum, v.value)
		fmt.Fprintf(&b, "\n - `%s`", strconv.Quote(v.value))
		if d := describe(v.comment); d != "" {
			b.WriteString(" " + d)
		}
	}
	p["enum"] = enum
	p["x-enum-description"] = b.String()
	return p, nil
}

// resolve finds the declaration an expression names; nil if it names none.
func (s *schemas) resolve(t *typeDecl, expr ast.Expr) (*typeDecl, error) {
	switch e := expr.(type) {
	case *ast.StarExpr:
		return s.resolve(t, e.X)
	case *ast.Ident:
		if d := t.pkg.types[e.Name]; d != nil {
			return d, nil
		}
		return nil, fmt.Errorf("%s does not declare %s", t.pkg.path, e.Name)
	case *ast.SelectorExpr:
		name, ok := e.X.(*ast.Ident)
		if !ok {
			return nil, nil
		}
		p, err := s.sources.load(t.imports[name.Name])
		if err != nil {
			return nil, err
		}
		if d := p.types[e.Sel.Name]; d != nil {
			return d, nil
		}
		return nil, fmt.Errorf("%s does not declare %s", p.path, e.Sel.Name)
	}
	return nil, nil
}
