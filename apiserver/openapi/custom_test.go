package openapi

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	openapiv3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/mini-k8s/mini/apiserver/registry"
)

func widget(id, version string) Kind {
	gvk := schema.GroupVersionKind{Group: "example.com", Version: version, Kind: "Widget"}
	model := func(gvk schema.GroupVersionKind) string {
		if gvk.Kind == "Scale" {
			return "io.k8s.api.autoscaling.v1.Scale"
		}
		return "com.example." + gvk.Version + "." + gvk.Kind
	}
	return Kind{
		ID: id, Row: registry.Resource{GVK: gvk, Name: "widgets", Singular: "widget", Namespaced: true, Unstructured: true, Scale: &registry.Scale{}},
		Model: model,
		Schemas: func(v2 bool) (map[string]any, error) {
			meta := "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
			if v2 {
				meta = "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
			}
			list := gvk
			list.Kind += "List"
			return map[string]any{
				model(gvk):  map[string]any{"type": "object", "description": id, "properties": map[string]any{"metadata": map[string]any{"$ref": meta}}},
				model(list): map[string]any{"type": "object"},
			}, nil
		},
	}
}

func fetch(t *testing.T, h *Handler, path, accept string, zipped bool) (*http.Response, []byte) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Header.Set("Accept", accept)
	if zipped {
		r.Header.Set("Accept-Encoding", "gzip")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var body io.Reader = w.Body
	if zipped && w.Code == http.StatusOK {
		var err error
		if body, err = gzip.NewReader(w.Body); err != nil {
			t.Fatal(err)
		}
	}
	data, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Result(), data
}

// TestCustomResources puts custom resources into the documents and takes them out again, in all encodings.
func TestCustomResources(t *testing.T) {
	h := NewHandler()
	if h.err != nil {
		t.Skip("needs `make openapi`")
	}
	before, _ := fetch(t, h, "/openapi/v2", jsonType, false)
	h.Extend([]Kind{widget("one", "v2"), widget("two", "v1"), {ID: "x", Row: registry.Resource{GVK: schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Fake"}}}})

	for _, zipped := range []bool{false, true} {
		r, data := fetch(t, h, "/openapi/v2", jsonType, zipped)
		if r.Header.Get("Etag") == before.Header.Get("Etag") {
			t.Error("another document has the same tag")
		}
		var doc struct {
			Swagger            string
			Definitions, Paths map[string]any
			Security           []any
		}
		if err := json.Unmarshal(data, &doc); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"com.example.v1.Widget", "com.example.v2.WidgetList", "io.k8s.api.core.v1.Pod"} {
			if doc.Definitions[name] == nil {
				t.Errorf("no definition of %s", name)
			}
		}
		for _, path := range []string{"/apis/example.com/v1/namespaces/{namespace}/widgets/{name}/scale", "/apis/example.com/v2/", "/api/v1/pods"} {
			if doc.Paths[path] == nil {
				t.Errorf("no path %s", path)
			}
		}
		if doc.Swagger != "2.0" || len(doc.Security) == 0 {
			t.Errorf("%+v", doc)
		}
	}
	_, data := fetch(t, h, "/openapi/v2", v2Proto, true)
	var doc openapiv2.Document
	if err := proto.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, d := range doc.Definitions.AdditionalProperties {
		found[d.Name] = true
	}
	if !found["com.example.v1.Widget"] || !found["io.k8s.api.core.v1.Pod"] || doc.Swagger != "2.0" || doc.Info.Title != "Kubernetes" {
		t.Errorf("%q %v %d definitions", doc.Swagger, doc.Info, len(found))
	}

	var index struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	if _, data = fetch(t, h, "/openapi/v3", jsonType, false); json.Unmarshal(data, &index) != nil || index.Paths["api/v1"].ServerRelativeURL == "" {
		t.Fatalf("%s", data)
	}
	url := index.Paths["apis/example.com/v1"].ServerRelativeURL
	r, data := fetch(t, h, url, jsonType, true)
	if r.StatusCode != http.StatusOK || !strings.Contains(r.Header.Get("Cache-Control"), "immutable") {
		t.Errorf("%s: %v", url, r)
	}
	var doc3 struct {
		Openapi    string
		Paths      map[string]any
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(data, &doc3); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	if s := doc3.Components.Schemas; doc3.Openapi != "3.0.0" || s["com.example.v1.Widget"] == nil || s["com.example.v2.Widget"] != nil ||
		s["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"] == nil || doc3.Paths["/apis/example.com/v1/widgets"] == nil || doc3.Paths["/apis/example.com/v1/"] == nil {
		t.Errorf("%s", data)
	}
	_, data = fetch(t, h, url, v3Proto, true)
	var message openapiv3.Document
	if err := proto.Unmarshal(data, &message); err != nil || message.Openapi != "3.0.0" || len(message.Paths.Path) == 0 {
		t.Errorf("%v %+v", err, message.Paths)
	}

	h.Extend([]Kind{widget("three", "v1")})
	if r, _ := fetch(t, h, url, jsonType, false); r.StatusCode != http.StatusMovedPermanently {
		t.Errorf("an old URL: %d", r.StatusCode)
	}
	h.Extend(nil)
	after, _ := fetch(t, h, "/openapi/v2", jsonType, false)
	if after.Header.Get("Etag") != before.Header.Get("Etag") {
		t.Error("the document is not what it was")
	}
	if r, _ := fetch(t, h, "/openapi/v3/apis/example.com/v1", jsonType, false); r.StatusCode != http.StatusNotFound {
		t.Errorf("what is gone: %d", r.StatusCode)
	}
}
