package render

import (
	"slices"
	"sort"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/mini-k8s/mini/apiserver/registry"
)

// MetaV1 begins the names of the models of package meta/v1.
const MetaV1 = "io.k8s.apimachinery.pkg.apis.meta.v1."

// param is a query or path parameter.
type param struct{ name, kind, description string }

// operation is one method of one path.
type operation struct {
	method, id, description, action string
	gvk                             schema.GroupVersionKind
	query                           []param
	body, result                    string // model names; "" for none, "string" for plain text
	accepts                         []string
	textOnly                        bool // no protobuf
	created                         bool // also answers 201 (and 202 where it deletes)
}

// Item is one path of a group version.
type Item struct {
	path   string
	params []param
	ops    []operation
}

func str(name, description string) param     { return param{name, "string", description} }
func boolean(name, description string) param { return param{name, "boolean", description} }
func num(name, description string) param     { return param{name, "integer", description} }

var (
	pretty       = str("pretty", "If 'true', then the output is pretty printed.")
	dryRun       = str("dryRun", "'All' runs every step of the request but the last: nothing is persisted.")
	fieldManager = str("fieldManager", "The name of the actor that is making these changes, at most 128 printable characters.")
	validation   = str("fieldValidation", "What to do about unknown or duplicate fields: Ignore, Warn (the default) or Strict, which fails the request.")
	resource     = str("resourceVersion", "Which versions of the resource may be returned; see https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions.")
	match        = str("resourceVersionMatch", "How resourceVersion is applied to a list: Exact or NotOlderThan.")
	selectFields = str("fieldSelector", "Restricts the objects to those whose fields match.")
	selectLabels = str("labelSelector", "Restricts the objects to those whose labels match.")
	limit        = num("limit", "The most objects to return in one answer; the rest follow with continue.")
	cont         = str("continue", "Continues a list from where the previous answer ended.")
	timeout      = num("timeoutSeconds", "Ends the call after this time, whatever it is doing.")
	watch        = boolean("watch", "Streams changes of the objects as add, update and remove events.")
	bookmarks    = boolean("allowWatchBookmarks", "Asks for watch events of type BOOKMARK.")
	initial      = boolean("sendInitialEvents", "Starts a watch with the objects that exist, followed by a bookmark.")
	grace        = num("gracePeriodSeconds", "Seconds before the object should be deleted; zero is at once.")
	orphan       = boolean("orphanDependents", "Deprecated: use propagationPolicy.")
	propagation  = str("propagationPolicy", "What becomes of dependents: Orphan, Background or Foreground.")
	force        = boolean("force", "Takes fields over from other managers on conflict; apply patches only.")
	namespace    = str("namespace", "object name and auth scope, such as for teams and projects")
)

func listParams() []param {
	return []param{bookmarks, cont, selectFields, selectLabels, limit, pretty, resource, match, initial, timeout, watch}
}

// title is how operation ids write a group version: apps/v1 is AppsV1, v1 is CoreV1.
func title(gv schema.GroupVersion) string {
	group, _, _ := strings.Cut(strings.TrimSuffix(gv.Group, ".k8s.io"), ".k8s.io")
	if group == "" {
		group = "core"
	}
	var b strings.Builder
	for part := range strings.SplitSeq(group, ".") {
		b.WriteString(upper(part))
	}
	return b.String() + upper(gv.Version)
}

func upper(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// Base is the path below which a group version is served.
func Base(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "/api/" + gv.Version
	}
	return "/apis/" + gv.String()
}

// Row are the paths of one resource with its subresources. models names the model of a kind.
func Row(row *registry.Resource, models func(schema.GroupVersionKind) string) []Item {
	gv := row.GVK.GroupVersion()
	b := &pathBuilder{row: row, models: models, gv: title(gv)}
	collection := Base(gv)
	if row.Namespaced {
		collection += "/namespaces/{namespace}"
		b.scope = "Namespaced"
		b.params = []param{namespace}
	}
	collection += "/" + row.Name
	verbs := row.Verbs
	if verbs == nil {
		verbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	}
	items := []Item{b.collection(collection, verbs)}
	if slices.Contains(verbs, "get") {
		items = append(items, b.item(collection+"/{name}", verbs))
	}
	if row.Namespaced && slices.Contains(verbs, "list") {
		items = append(items, Item{path: Base(gv) + "/" + row.Name, ops: []operation{{
			method: "get", id: "list" + b.gv + row.GVK.Kind + "ForAllNamespaces", description: "list or watch objects of kind " + row.GVK.Kind,
			action: "list", gvk: row.GVK, query: listParams(), result: b.models(listOf(row.GVK)),
		}}})
	}
	items = append(items, b.subresources(collection+"/{name}/")...)
	if row.Unstructured {
		for i := range items {
			items[i].textOnly()
		}
	}
	return items
}

// textOnly takes away what kinds without a Go type do not have.
func (p *Item) textOnly() {
	for i := range p.ops {
		op := &p.ops[i]
		op.textOnly = true
		op.accepts = slices.DeleteFunc(slices.Clone(op.accepts), func(t string) bool {
			return t == "application/strategic-merge-patch+json" || t == "application/apply-patch+cbor"
		})
		if len(op.accepts) == 0 {
			op.accepts = nil
		}
	}
}

// Discovery is the path of a group version's own document.
func Discovery(gv schema.GroupVersion) Item {
	return Item{path: Base(gv) + "/", ops: []operation{{
		method: "get", id: "get" + title(gv) + "APIResources", description: "get available resources", action: "get",
		gvk: schema.GroupVersionKind{Version: "v1", Kind: "APIResourceList"}, result: MetaV1 + "APIResourceList",
	}}}
}

func listOf(gvk schema.GroupVersionKind) schema.GroupVersionKind {
	gvk.Kind += "List"
	return gvk
}

type pathBuilder struct {
	row    *registry.Resource
	models func(schema.GroupVersionKind) string
	gv     string
	scope  string
	params []param
}

// id is an operation id: "read" + AppsV1 + Namespaced + Deployment + Status.
func (b *pathBuilder) id(verb, suffix string) string {
	return verb + b.gv + b.scope + b.row.GVK.Kind + suffix
}

func (b *pathBuilder) collection(path string, verbs []string) Item {
	kind, m := b.row.GVK.Kind, b.models(b.row.GVK)
	item := Item{path: path, params: append(slices.Clone(b.params), pretty)}
	for _, verb := range verbs {
		switch verb {
		case "list":
			item.ops = append(item.ops, operation{
				method: "get", id: b.id("list", ""), description: "list or watch objects of kind " + kind, action: "list", gvk: b.row.GVK,
				query: listParams(), result: b.models(listOf(b.row.GVK)),
			})
		case "create":
			item.ops = append(item.ops, operation{
				method: "post", id: b.id("create", ""), description: "create " + article(kind), action: "post", gvk: b.row.GVK,
				query: []param{dryRun, fieldManager, validation}, body: m, result: m, created: true,
			})
		case "deletecollection":
			item.ops = append(item.ops, operation{
				method: "delete", id: "delete" + b.gv + "Collection" + b.scope + kind, description: "delete collection of " + kind,
				action: "deletecollection", gvk: b.row.GVK, body: MetaV1 + "DeleteOptions", result: MetaV1 + "Status",
				query: []param{cont, dryRun, selectFields, grace, selectLabels, limit, orphan, propagation, resource, match, timeout},
			})
		}
	}
	return item
}

func article(kind string) string {
	if strings.ContainsAny(kind[:1], "AEIOU") {
		return "an " + kind
	}
	return "a " + kind
}

func (b *pathBuilder) item(path string, verbs []string) Item {
	kind, m := b.row.GVK.Kind, b.models(b.row.GVK)
	item := Item{path: path, params: b.named()}
	item.ops = b.view("", kind, m, b.row.GVK, verbs)
	if slices.Contains(verbs, "delete") {
		item.ops = append(item.ops, operation{
			method: "delete", id: b.id("delete", ""), description: "delete " + article(kind), action: "delete", gvk: b.row.GVK,
			query: []param{dryRun, grace, orphan, propagation}, body: MetaV1 + "DeleteOptions", result: MetaV1 + "Status", created: true,
		})
	}
	return item
}

func (b *pathBuilder) named() []param {
	params := []param{str("name", "name of the "+b.row.GVK.Kind)}
	return append(append(params, b.params...), pretty)
}

// view are get, put and patch of an object or of a view on it.
func (b *pathBuilder) view(suffix, what, m string, gvk schema.GroupVersionKind, verbs []string) []operation {
	var ops []operation
	if slices.Contains(verbs, "get") {
		ops = append(ops, operation{method: "get", id: b.id("read", suffix), description: "read the specified " + what, action: "get", gvk: gvk, result: m})
	}
	if slices.Contains(verbs, "update") {
		ops = append(ops, operation{
			method: "put", id: b.id("replace", suffix), description: "replace the specified " + what, action: "put", gvk: gvk,
			query: []param{dryRun, fieldManager, validation}, body: m, result: m, created: true,
		})
	}
	if slices.Contains(verbs, "patch") {
		ops = append(ops, operation{
			method: "patch", id: b.id("patch", suffix), description: "partially update the specified " + what, action: "patch", gvk: gvk,
			query: []param{dryRun, fieldManager, validation, force}, body: MetaV1 + "Patch", result: m, created: true,
			accepts: []string{
				"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json",
				"application/apply-patch+yaml", "application/apply-patch+cbor",
			},
		})
	}
	return ops
}

func (b *pathBuilder) subresources(prefix string) []Item {
	var items []Item
	whole := []string{"get", "patch", "update"}
	kind := b.row.GVK.Kind
	if b.row.Status != nil {
		items = append(items, Item{path: prefix + "status", params: b.named(), ops: b.view("Status", "status of "+kind, b.models(b.row.GVK), b.row.GVK, whole)})
	}
	if b.row.Scale != nil {
		gvk := schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}
		items = append(items, Item{path: prefix + "scale", params: b.named(), ops: b.view("Scale", "scale of "+kind, b.models(gvk), gvk, whole)})
	}
	for _, sub := range b.row.Subresources {
		suffix := upper(sub.Name)
		item := Item{path: prefix + sub.Name, params: b.named()}
		switch {
		case sub.Name == "log":
			item.ops = []operation{{method: "get", id: b.id("read", "Log"), description: "read log of the specified " + kind, action: "get", gvk: sub.Kind, result: "string"}}
		case sub.Strategy != nil:
			item.ops = b.view(suffix, sub.Name+" of "+kind, b.models(sub.Kind), sub.Kind, sub.Verbs)
		case sub.Change != nil, sub.Evict != nil, sub.Create != nil:
			item.ops = []operation{{
				method: "post", id: b.id("create", suffix), description: "create " + sub.Name + " of " + article(kind), action: "post", gvk: sub.Kind,
				query: []param{dryRun, fieldManager, validation}, body: b.models(sub.Kind), result: b.models(sub.Kind), created: true,
			}}
		default:
			for _, method := range connectMethods(sub.Verbs) {
				item.ops = append(item.ops, operation{
					method: method, id: "connect" + b.gv + upper(method) + b.scope + kind + suffix, action: "connect",
					description: "connect " + strings.ToUpper(method) + " requests to " + sub.Name + " of " + kind, gvk: sub.Kind, result: "string",
				})
			}
		}
		items = append(items, item)
	}
	return items
}

// connectMethods are the HTTP methods by which a streaming subresource is reached.
func connectMethods(verbs []string) []string {
	var methods []string
	for _, v := range verbs {
		if m := map[string]string{"create": "post", "delete": "delete", "get": "get", "patch": "patch", "update": "put"}[v]; m != "" {
			methods = append(methods, m)
		}
	}
	sort.Strings(methods)
	return methods
}
