package request

import (
	"net/http"
	"strings"
)

// Info is what a request asks for, read from its method and URL.
type Info struct {
	IsResource bool // below /api/VERSION or /apis/GROUP/VERSION
	Path       string
	// Verb is a Kubernetes verb for resource requests (get, list, watch, create, update, patch, delete,
	// deletecollection), else the HTTP method in lower case.
	Verb        string
	Prefix      string // "api" or "apis"
	Group       string
	Version     string
	Namespace   string // "" for cluster-scoped requests; for a Namespace object its own name
	Resource    string
	Subresource string
	Name        string
	Rest        string // what follows the subresource, with its leading slash
}

// Parse reads method, path and the query's watch and fieldSelector.
func Parse(r *http.Request) Info {
	info := Info{Path: r.URL.Path, Verb: strings.ToLower(r.Method)}
	path := strings.TrimPrefix(r.URL.Path, "/")
	var ok bool
	switch {
	case strings.HasPrefix(path, "api/"):
		info.Prefix, path = "api", path[len("api/"):]
	case strings.HasPrefix(path, "apis/"):
		info.Prefix, path = "apis", path[len("apis/"):]
		if info.Group, path, ok = strings.Cut(path, "/"); !ok || info.Group == "" {
			return Info{Path: info.Path, Verb: info.Verb}
		}
	default:
		return info
	}
	if info.Version, path, ok = strings.Cut(path, "/"); !ok || info.Version == "" || strings.Trim(path, "/") == "" {
		return Info{Path: info.Path, Verb: info.Verb}
	}
	info.IsResource = true

	forcedWatch := false
	segment, rest := cut(path)
	if segment == "watch" { // the old form /api/v1/watch/…
		forcedWatch = true
		segment, rest = cut(rest)
	}
	if segment == "namespaces" {
		var name string
		name, after := cut(rest)
		next, _ := cut(after)
		if name != "" && next != "" && next != "status" && next != "finalize" {
			info.Namespace = name
			segment, rest = cut(after)
		} else {
			info.Namespace = name
		}
	}
	info.Resource = segment
	info.Name, rest = cut(rest)
	sub, after, found := strings.Cut(rest, "/")
	info.Subresource = sub
	if found {
		info.Rest = "/" + after
	}
	if info.Resource == "" || info.Name == "" && (info.Subresource != "" || found) {
		return Info{Path: info.Path, Verb: strings.ToLower(r.Method)} // empty segments: no resource has such a path
	}
	info.verb(r, forcedWatch)
	return info
}

func (info *Info) verb(r *http.Request, forcedWatch bool) {
	switch r.Method {
	case http.MethodPost:
		info.Verb = "create"
	case http.MethodPut:
		info.Verb = "update"
	case http.MethodPatch:
		info.Verb = "patch"
	case http.MethodDelete:
		info.Verb = "delete"
		if info.Name == "" {
			info.Verb = "deletecollection"
		}
	case http.MethodGet, http.MethodHead:
		info.Verb = "get"
		if info.Name == "" || forcedWatch {
			info.Verb = "list"
			if forcedWatch || isWatch(r.URL.RawQuery) {
				info.Verb = "watch"
			}
			// A selector for one name makes the request one for that object, so that RBAC's resourceNames apply.
			if info.Name == "" && info.Subresource == "" && strings.Contains(r.URL.RawQuery, "fieldSelector=") {
				info.Name = selectedName(r)
			}
		}
	}
}

// IsCollection tells whether the request is for a collection though a name is known (from a field selector).
func (info Info) IsCollection() bool {
	return info.Verb == "list" || info.Verb == "watch" || info.Verb == "deletecollection"
}

func isWatch(query string) bool {
	for query != "" {
		var part string
		part, query, _ = strings.Cut(query, "&")
		key, value, _ := strings.Cut(part, "=")
		if key == "watch" {
			return value != "0" && !strings.EqualFold(value, "false")
		}
	}
	return false
}

func selectedName(r *http.Request) string {
	for _, term := range strings.Split(r.URL.Query().Get("fieldSelector"), ",") {
		for _, op := range []string{"metadata.name==", "metadata.name="} {
			if name, ok := strings.CutPrefix(term, op); ok {
				if strings.ContainsAny(name, "/%\\=!") || name == "." || name == ".." {
					return ""
				}
				return name
			}
		}
	}
	return ""
}

func cut(path string) (segment, rest string) {
	segment, rest, _ = strings.Cut(path, "/")
	return segment, rest
}
