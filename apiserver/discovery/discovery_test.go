package discovery

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/mini-k8s/mini/apiserver/negotiate"
	"github.com/mini-k8s/mini/apiserver/registry"
)

func row(group, version, kind, name string, change ...func(*registry.Resource)) registry.Resource {
	r := registry.Resource{GVK: schema.GroupVersionKind{Group: group, Version: version, Kind: kind}, Name: name, Singular: name[:len(name)-1]}
	for _, f := range change {
		f(&r)
	}
	return r
}

func serve(t *testing.T, rows []registry.Resource) func(path, accept string, into any) *http.Response {
	t.Helper()
	h := &Handler{
		Write: func(w http.ResponseWriter, _ *http.Request, f negotiate.Format, body []byte) {
			w.Header().Set("Content-Type", f.ContentType())
			w.Write(body) //nolint:errcheck // a recorder
		},
		NotFound: http.NotFound,
	}
	if err := h.Set(rows, "192.0.2.1:6443"); err != nil {
		t.Fatal(err)
	}
	return func(path, accept string, into any) *http.Response {
		t.Helper()
		r := httptest.NewRequest("GET", path, nil)
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if into != nil {
			if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
				t.Fatalf("%s: %v in %s", path, err, w.Body)
			}
		}
		return w.Result()
	}
}

// TestDocuments checks both forms against rows with several versions, scopes and subresources.
func TestDocuments(t *testing.T) {
	get := serve(t, []registry.Resource{
		row("", "v1", "Pod", "pods", func(r *registry.Resource) {
			r.Namespaced, r.ShortNames, r.Categories = true, []string{"po"}, []string{"all"}
			r.Status = &registry.Strategy{}
			r.Subresources = []registry.Subresource{{Name: "eviction", Kind: schema.GroupVersionKind{Group: "policy", Version: "v1", Kind: "Eviction"}, Verbs: []string{"create"}}}
		}),
		row("g.io", "v2", "Thing", "things", func(r *registry.Resource) { r.Scale = &registry.Scale{} }),
		row("g.io", "v1", "Thing", "things", func(r *registry.Resource) { r.Verbs = []string{"get"} }),
	})

	var groups metav1.APIGroupList
	get("/apis", "", &groups)
	if len(groups.Groups) != 1 || groups.Groups[0].PreferredVersion.Version != "v2" || len(groups.Groups[0].Versions) != 2 {
		t.Errorf("%+v", groups)
	}
	var list metav1.APIResourceList
	get("/api/v1/", "", &list)
	all := metav1.Verbs{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	want := []metav1.APIResource{
		{Name: "pods", SingularName: "pod", Namespaced: true, Kind: "Pod", Verbs: all, ShortNames: []string{"po"}, Categories: []string{"all"}},
		{Name: "pods/eviction", Namespaced: true, Group: "policy", Version: "v1", Kind: "Eviction", Verbs: metav1.Verbs{"create"}},
		{Name: "pods/status", Namespaced: true, Kind: "Pod", Verbs: metav1.Verbs{"get", "patch", "update"}},
	}
	if diff := cmp.Diff(want, list.APIResources); diff != "" {
		t.Error(diff)
	}

	const v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	var fresh apidiscovery.APIGroupDiscoveryList
	if r := get("/apis", v2, &fresh); r.Header.Get("Content-Type") != v2 {
		t.Errorf("%v", r.Header)
	}
	versions := fresh.Items[0].Versions
	if len(fresh.Items) != 1 || fresh.Items[0].Name != "g.io" || versions[0].Version != "v2" || versions[1].Version != "v1" {
		t.Fatalf("%+v", fresh)
	}
	if r := versions[0].Resources[0]; r.Scope != apidiscovery.ScopeCluster || r.Subresources[0].Subresource != "scale" || r.Subresources[0].ResponseKind.Group != "autoscaling" {
		t.Errorf("%+v", r)
	}
	if diff := cmp.Diff([]string{"get"}, versions[1].Resources[0].Verbs); diff != "" {
		t.Error(diff)
	}
	var core apidiscovery.APIGroupDiscoveryList
	get("/api", v2, &core)
	if len(core.Items) != 1 || core.Items[0].Name != "" || core.Items[0].Versions[0].Resources[0].Scope != apidiscovery.ScopeNamespace {
		t.Errorf("%+v", core)
	}
	if r := get("/apis/none", "", nil); r.StatusCode != http.StatusNotFound {
		t.Errorf("%d", r.StatusCode)
	}
}

// TestSetReplaces checks that another set of rows is another state with another tag.
func TestSetReplaces(t *testing.T) {
	const v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	one := serve(t, []registry.Resource{row("a.io", "v1", "A", "as")})("/apis", v2, nil).Header.Get("ETag")
	two := serve(t, []registry.Resource{row("a.io", "v1", "B", "bs")})("/apis", v2, nil).Header.Get("ETag")
	if one == "" || one == two {
		t.Errorf("%s %s", one, two)
	}
}
