package discovery

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/mini-k8s/mini/apiserver/codec"
	"github.com/mini-k8s/mini/apiserver/registry"
)

// document is one answer in its encodings.
type document struct {
	json, proto []byte
	etag        string
}

// documents are all answers of one state of the server.
type documents struct {
	paths      map[string]document // the older form, by path without a final slash
	aggregated map[string]aggregate
}

// aggregate is the aggregated form of /api or /apis.
type aggregate struct{ v2, v2beta1 document }

func encode(obj runtime.Object) (document, error) {
	j, err := json.Marshal(obj)
	if err != nil {
		return document{}, fmt.Errorf("discovery: %w", err)
	}
	p, err := codec.EncodeProto(obj)
	if err != nil {
		return document{}, fmt.Errorf("discovery: %w", err)
	}
	return document{json: append(j, '\n'), proto: p, etag: fmt.Sprintf("\"%X\"", sha256.Sum256(j))}, nil
}

// group is what the documents say about one API group.
type group struct {
	rows  []registry.Resource
	paths map[string]document // /apis/GROUP and /apis/GROUP/VERSION
	found metav1.APIGroup     // its entry in /apis; none for the core group
	item  apidiscovery.APIGroupDiscovery
}

// build makes the documents; rows decide the order of groups, of versions in a group (the first is preferred) and of kinds.
// What was made of a group before is used again if old says that nothing in it has changed.
func build(rows []registry.Resource, address string, old map[string]*group) (*documents, map[string]*group, error) {
	d := &documents{paths: map[string]document{}, aggregated: map[string]aggregate{}}
	core, named := apidiscovery.APIGroupDiscoveryList{}, apidiscovery.APIGroupDiscoveryList{}
	groups := metav1.APIGroupList{TypeMeta: typeMeta("v1", "APIGroupList"), Groups: []metav1.APIGroup{}}
	made := map[string]*group{}
	for _, rows := range split(rows, func(r registry.Resource) string { return r.GVK.Group }) {
		name := rows[0].GVK.Group
		g := old[name]
		if g == nil || !slices.EqualFunc(g.rows, rows, alike) {
			var err error
			if g, err = newGroup(rows); err != nil {
				return nil, nil, err
			}
		}
		made[name] = g
		list := &named
		if name == "" {
			list = &core
		} else {
			groups.Groups = append(groups.Groups, g.found)
		}
		list.Items = append(list.Items, g.item)
		maps.Copy(d.paths, g.paths)
	}
	err := d.put("/apis", &groups)
	if err == nil {
		err = d.put("/api", &metav1.APIVersions{
			TypeMeta: typeMeta("", "APIVersions"), Versions: []string{"v1"},
			ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: address}},
		})
	}
	if err == nil {
		err = d.putAggregated("/api", &core)
	}
	if err == nil {
		err = d.putAggregated("/apis", &named)
	}
	return d, made, err
}

// alike says that discovery tells the same about two rows.
func alike(a, b registry.Resource) bool {
	return a.GVK == b.GVK && a.Name == b.Name && a.State == b.State && a.Unstructured == b.Unstructured
}

// newGroup makes the documents of one group and its entries in both lists; the core group has no entry in /apis.
func newGroup(rows []registry.Resource) (*group, error) {
	name := rows[0].GVK.Group
	d := &documents{paths: map[string]document{}}
	found := metav1.APIGroup{Name: name}
	item := apidiscovery.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, version := range split(rows, func(r registry.Resource) string { return r.GVK.Version }) {
		gv := version[0].GVK.GroupVersion()
		legacy := metav1.APIResourceList{TypeMeta: typeMeta("v1", "APIResourceList"), GroupVersion: gv.String()}
		fresh := apidiscovery.APIVersionDiscovery{Version: gv.Version, Freshness: apidiscovery.DiscoveryFreshnessCurrent}
		for _, row := range version {
			r := describe(row)
			legacy.APIResources = append(legacy.APIResources, r.legacy()...)
			fresh.Resources = append(fresh.Resources, r.aggregated())
		}
		slices.SortStableFunc(legacy.APIResources, func(a, b metav1.APIResource) int { return compare(a.Name, b.Name) })
		path := "/apis/" + gv.String()
		if name == "" {
			path = "/api/" + gv.Version
		}
		if err := d.put(path, &legacy); err != nil {
			return nil, err
		}
		item.Versions = append(item.Versions, fresh)
		found.Versions = append(found.Versions, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version})
	}
	found.PreferredVersion = found.Versions[0]
	g := &group{rows: rows, paths: d.paths, found: found, item: item}
	if name == "" {
		return g, nil
	}
	single := found
	single.TypeMeta = typeMeta("v1", "APIGroup")
	return g, d.put("/apis/"+name, &single)
}

func (d *documents) put(path string, obj runtime.Object) error {
	doc, err := encode(obj)
	d.paths[path] = doc
	return err
}

func (d *documents) putAggregated(path string, list *apidiscovery.APIGroupDiscoveryList) error {
	var a aggregate
	var err error
	list.TypeMeta = typeMeta("apidiscovery.k8s.io/v2", "APIGroupDiscoveryList")
	if a.v2, err = encode(list); err != nil {
		return err
	}
	list.TypeMeta.APIVersion = "apidiscovery.k8s.io/v2beta1" // the same shape under its older name
	a.v2beta1, err = encode(list)
	d.aggregated[path] = a
	return err
}

func typeMeta(apiVersion, kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: apiVersion, Kind: kind}
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// split groups rows by a key, in the order in which keys appear first.
func split(rows []registry.Resource, key func(registry.Resource) string) [][]registry.Resource {
	var out [][]registry.Resource
	at := map[string]int{}
	for _, r := range rows {
		k := key(r)
		i, ok := at[k]
		if !ok {
			i = len(out)
			at[k] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], r)
	}
	return out
}

// resource is a row as discovery sees it.
type resource struct {
	row   registry.Resource
	verbs []string
	subs  []sub
}

type sub struct {
	name  string
	kind  schema.GroupVersionKind
	verbs []string
}

func describe(row registry.Resource) resource {
	r := resource{row: row, verbs: row.Verbs}
	switch {
	case row.Create != nil:
		r.verbs = []string{"create"}
	case row.Verbs == nil:
		r.verbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	}
	if row.Status != nil {
		r.subs = append(r.subs, sub{"status", row.GVK, []string{"get", "patch", "update"}})
	}
	if row.Scale != nil {
		scale := schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}
		r.subs = append(r.subs, sub{"scale", scale, []string{"get", "patch", "update"}})
	}
	for _, s := range row.Subresources {
		r.subs = append(r.subs, sub{s.Name, s.Kind, s.Verbs})
	}
	slices.SortFunc(r.subs, func(a, b sub) int { return compare(a.name, b.name) })
	return r
}

func (r resource) legacy() []metav1.APIResource {
	list := []metav1.APIResource{{
		Name: r.row.Name, SingularName: r.row.Singular, Namespaced: r.row.Namespaced, Kind: r.row.GVK.Kind,
		Verbs: r.verbs, ShortNames: r.row.ShortNames, Categories: r.row.Categories,
	}}
	for _, s := range r.subs {
		entry := metav1.APIResource{Name: r.row.Name + "/" + s.name, Namespaced: r.row.Namespaced, Kind: s.kind.Kind, Verbs: s.verbs}
		if s.kind.GroupVersion() != r.row.GVK.GroupVersion() {
			entry.Group, entry.Version = s.kind.Group, s.kind.Version
		}
		list = append(list, entry)
	}
	return list
}

func (r resource) aggregated() apidiscovery.APIResourceDiscovery {
	out := apidiscovery.APIResourceDiscovery{
		Resource: r.row.Name, ResponseKind: kindOf(r.row.GVK), Scope: apidiscovery.ScopeCluster,
		SingularResource: r.row.Singular, Verbs: r.verbs, ShortNames: r.row.ShortNames, Categories: r.row.Categories,
	}
	if r.row.Namespaced {
		out.Scope = apidiscovery.ScopeNamespace
	}
	for _, s := range r.subs {
		out.Subresources = append(out.Subresources, apidiscovery.APISubresourceDiscovery{
			Subresource: s.name, ResponseKind: kindOf(s.kind), Verbs: s.verbs,
		})
	}
	return out
}

func kindOf(gvk schema.GroupVersionKind) *metav1.GroupVersionKind {
	return &metav1.GroupVersionKind{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}
}
