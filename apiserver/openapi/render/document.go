package render

import (
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	title2  = "Kubernetes"
	version = "v1.36.0"
)

var produces = []string{
	"application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "application/cbor",
}

var streams = []string{"application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch", "application/cbor-seq"}

// KindMark is a kind as the extension x-kubernetes-group-version-kind has it.
func KindMark(gvk schema.GroupVersionKind) map[string]any {
	return map[string]any{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind}
}

func tag(gvk schema.GroupVersion) string {
	group, _, _ := strings.Cut(gvk.Group, ".")
	if group == "" {
		group = "core"
	}
	return group + "_" + gvk.Version
}

// V3 is the OpenAPI v3 document of one group version: its paths and the definitions they need.
func V3(gv schema.GroupVersion, paths []Item, definitions map[string]Node) map[string]any {
	items, roots := V3Paths(gv, paths)
	return V3Document(items, V3Schemas(definitions, roots...))
}

// V3Document puts paths and schemas into a document.
func V3Document(paths, schemas map[string]any) map[string]any {
	return map[string]any{
		"openapi": "3.0.0",
		"info":    map[string]any{"title": title2, "version": version},
		"paths":   paths,
		"components": map[string]any{
			"schemas": schemas,
			"securitySchemes": map[string]any{"BearerToken": map[string]any{
				"type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication",
			}},
		},
	}
}

// V3Schemas are the definitions that roots refer to, themselves included.
func V3Schemas(definitions map[string]Node, roots ...string) map[string]any {
	schemas := map[string]any{}
	for _, name := range reachable(definitions, roots) {
		schemas[name] = asV3(definitions[name])
	}
	return schemas
}

// V3Paths are paths as version 3 has them, and the models they name.
func V3Paths(gv schema.GroupVersion, paths []Item) (items map[string]any, models []string) {
	return pathItems(paths, param.v3, func(o *operation) map[string]any { return o.v3(gv) })
}

// pathItems describes each path by its parameters and operations as one version of OpenAPI has them.
func pathItems(paths []Item, parameter func(param, string) map[string]any, describe func(*operation) map[string]any) (items map[string]any, models []string) {
	items = map[string]any{}
	roots := map[string]bool{}
	for _, p := range paths {
		item := map[string]any{}
		var params []any
		for _, param := range p.params {
			params = append(params, parameter(param, p.path))
		}
		if len(params) > 0 {
			item["parameters"] = params
		}
		for i := range p.ops {
			op := &p.ops[i]
			item[op.method] = describe(op)
			roots[op.body], roots[op.result] = true, true
		}
		items[p.path] = item
	}
	return items, slices.Collect(maps.Keys(roots))
}

func inPath(path, name string) bool { return strings.Contains(path, "{"+name+"}") }

func (p param) v3(path string) map[string]any {
	out := map[string]any{
		"name": p.name, "in": "query", "description": p.description, "schema": map[string]any{"type": p.kind, "uniqueItems": true},
	}
	if inPath(path, p.name) {
		out["in"], out["required"] = "path", true
	}
	return out
}

func (op *operation) codes() []string {
	codes := []string{"200"}
	if op.created {
		switch op.method {
		case "post":
			codes = append(codes, "201", "202")
		case "delete":
			codes = append(codes, "202")
		default:
			codes = append(codes, "201")
		}
	}
	return codes
}

var codeText = map[string]string{"200": "OK", "201": "Created", "202": "Accepted"}

func (op *operation) v3(gv schema.GroupVersion) map[string]any {
	out := map[string]any{
		"tags": []string{tag(gv)}, "operationId": op.id, "description": op.description,
		"x-kubernetes-action": op.action, "x-kubernetes-group-version-kind": KindMark(op.gvk),
	}
	var params []any
	for _, p := range op.query {
		params = append(params, p.v3(""))
	}
	if len(params) > 0 {
		out["parameters"] = params
	}
	if op.body != "" {
		content := map[string]any{}
		for _, t := range op.bodyTypes() {
			content[t] = map[string]any{"schema": map[string]any{"$ref": "#/components/schemas/" + op.body}}
		}
		out["requestBody"] = map[string]any{"content": content}
		if op.method != "delete" {
			out["requestBody"].(map[string]any)["required"] = true
		}
	}
	responses := map[string]any{"401": map[string]any{"description": "Unauthorized"}}
	for _, code := range op.codes() {
		content := map[string]any{}
		result := map[string]any{"$ref": "#/components/schemas/" + op.result}
		types := op.produces()
		switch {
		case op.result == "string":
			result, types = map[string]any{"type": "string"}, []string{"*/*"}
		case op.action == "list":
			types = slices.Concat(op.produces(), op.streams())
		}
		for _, t := range types {
			content[t] = map[string]any{"schema": result}
		}
		responses[code] = map[string]any{"description": codeText[code], "content": content}
	}
	out["responses"] = responses
	return out
}

// produces leaves out protobuf for kinds without a Go type, and CBOR as upstream does.
func (op *operation) produces() []string {
	if op.textOnly {
		return produces[:2]
	}
	return produces
}

func (op *operation) streams() []string {
	if op.textOnly {
		return streams[:1]
	}
	return streams
}

func (op *operation) bodyTypes() []string {
	if op.accepts != nil {
		return op.accepts
	}
	return []string{"*/*"}
}

// V2 is the one OpenAPI v2 document of everything.
func V2(groups map[schema.GroupVersion][]Item, definitions map[string]Node) map[string]any {
	items := map[string]any{}
	roots := map[string]bool{MetaV1 + "WatchEvent": true}
	for gv, paths := range groups {
		more, models := V2Paths(gv, paths)
		maps.Copy(items, more)
		for _, m := range models {
			roots[m] = true
		}
	}
	defs := map[string]any{}
	for _, name := range reachable(definitions, slices.Collect(maps.Keys(roots))) {
		defs[name] = asV2(definitions[name])
	}
	return map[string]any{
		"swagger": "2.0", "info": map[string]any{"title": title2, "version": version}, "paths": items, "definitions": defs,
		"securityDefinitions": map[string]any{"BearerToken": map[string]any{
			"type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication",
		}},
		"security": []any{map[string]any{"BearerToken": []any{}}},
	}
}

// V2Paths are paths as version 2 has them, and the models they name.
func V2Paths(gv schema.GroupVersion, paths []Item) (items map[string]any, models []string) {
	return pathItems(paths, param.v2, func(o *operation) map[string]any { return o.v2(gv) })
}

func (p param) v2(path string) map[string]any {
	out := map[string]any{"name": p.name, "in": "query", "type": p.kind, "uniqueItems": true, "description": p.description}
	if inPath(path, p.name) {
		out["in"], out["required"] = "path", true
	}
	return out
}

func (op *operation) v2(gv schema.GroupVersion) map[string]any {
	out := map[string]any{
		"tags": []string{tag(gv)}, "operationId": op.id, "description": op.description, "schemes": []string{"https"},
		"consumes": op.bodyTypes(), "produces": op.produces(),
		"x-kubernetes-action": op.action, "x-kubernetes-group-version-kind": KindMark(op.gvk),
	}
	var params []any
	if op.body != "" {
		body := map[string]any{"name": "body", "in": "body", "schema": map[string]any{"$ref": "#/definitions/" + op.body}}
		if op.method != "delete" {
			body["required"] = true
		}
		params = append(params, body)
	}
	for _, p := range op.query {
		params = append(params, p.v2(""))
	}
	if len(params) > 0 {
		out["parameters"] = params
	}
	result := map[string]any{"$ref": "#/definitions/" + op.result}
	if op.result == "string" {
		result = map[string]any{"type": "string"}
	}
	responses := map[string]any{"401": map[string]any{"description": "Unauthorized"}}
	for _, code := range op.codes() {
		responses[code] = map[string]any{"description": codeText[code], "schema": result}
	}
	out["responses"] = responses
	return out
}
