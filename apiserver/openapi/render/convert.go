package render

import (
	"sort"
	"strings"
)

// reachable names the definitions that roots refer to, directly or not, themselves included.
func reachable(definitions map[string]Node, roots []string) []string {
	seen := map[string]bool{}
	var visit func(name string)
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, inner := range v {
				if ref, ok := inner.(string); ok && k == "$ref" {
					visit(strings.TrimPrefix(ref, RefPrefix))
				} else {
					walk(inner)
				}
			}
		case map[string]map[string]any:
			for _, inner := range v {
				walk(inner)
			}
		}
	}
	visit = func(name string) {
		if seen[name] || definitions[name] == nil {
			return
		}
		seen[name] = true
		walk(definitions[name])
	}
	for _, r := range roots {
		visit(r)
	}
	names := make([]string, 0, len(seen))
	for name := range seen {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// asV3: a reference cannot have siblings in version 3, so that one with a description is wrapped in allOf.
func asV3(v map[string]any) map[string]any {
	out := map[string]any{}
	ref := ""
	for k, inner := range v {
		switch k {
		case "$ref":
			ref = "#/components/schemas/" + strings.TrimPrefix(inner.(string), RefPrefix)
		case "x-one-of":
			var options []any
			for _, t := range inner.([]string) {
				options = append(options, map[string]any{"type": t})
			}
			out["oneOf"] = options
		default:
			out[k] = convert(inner, asV3)
		}
	}
	if out["oneOf"] != nil {
		delete(out, "type")
	}
	if ref != "" {
		if len(out) == 0 {
			return map[string]any{"$ref": ref}
		}
		out["allOf"] = []any{map[string]any{"$ref": ref}}
	}
	return out
}

// asV2: defaults are left out, as upstream does; clients of version 2 do not expect them.
func asV2(v map[string]any) map[string]any {
	out := map[string]any{}
	for k, inner := range v {
		switch k {
		case "$ref":
			out[k] = "#/definitions/" + strings.TrimPrefix(inner.(string), RefPrefix)
		case "x-one-of", "default":
		default:
			out[k] = convert(inner, asV2)
		}
	}
	return out
}

func convert(v any, f func(map[string]any) map[string]any) any {
	switch v := v.(type) {
	case map[string]any:
		return f(v)
	case map[string]map[string]any: // properties
		out := make(map[string]any, len(v))
		for name, p := range v {
			out[name] = f(p)
		}
		return out
	}
	return v
}
