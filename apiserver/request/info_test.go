package request

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		method, url string
		want        Info
	}{
		{"GET", "/healthz", Info{Verb: "get"}},
		{"POST", "/anything/else", Info{Verb: "post"}},
		{"GET", "/api", Info{Verb: "get"}},
		{"GET", "/api/v1", Info{Verb: "get"}},
		{"GET", "/api/v1/", Info{Verb: "get"}},
		{"GET", "/apis/apps/", Info{Verb: "get"}},
		{"GET", "/apis/apps/v1", Info{Verb: "get"}},
		{"GET", "/api/v1/pods", Info{IsResource: true, Verb: "list", Prefix: "api", Version: "v1", Resource: "pods"}},
		{"GET", "/api/v1/namespaces/n/pods", Info{IsResource: true, Verb: "list", Prefix: "api", Version: "v1", Namespace: "n", Resource: "pods"}},
		{"GET", "/api/v1/namespaces/n/pods/p", Info{IsResource: true, Verb: "get", Prefix: "api", Version: "v1", Namespace: "n", Resource: "pods", Name: "p"}},
		{"GET", "/api/v1/namespaces/n/pods/p/log", Info{IsResource: true, Verb: "get", Prefix: "api", Version: "v1", Namespace: "n", Resource: "pods", Name: "p", Subresource: "log"}},
		{"POST", "/api/v1/namespaces/n/pods/p/exec?command=ls", Info{IsResource: true, Verb: "create", Prefix: "api", Version: "v1", Namespace: "n", Resource: "pods", Name: "p", Subresource: "exec"}},
		{"GET", "/api/v1/nodes/x/proxy/metrics/cadvisor", Info{IsResource: true, Verb: "get", Prefix: "api", Version: "v1", Resource: "nodes", Name: "x", Subresource: "proxy", Rest: "/metrics/cadvisor"}},
		{"GET", "/api/v1/nodes/x/proxy/", Info{IsResource: true, Verb: "get", Prefix: "api", Version: "v1", Resource: "nodes", Name: "x", Subresource: "proxy", Rest: "/"}},
		{"GET", "/api/v1/namespaces", Info{IsResource: true, Verb: "list", Prefix: "api", Version: "v1", Resource: "namespaces"}},
		{"GET", "/api/v1/namespaces/n", Info{IsResource: true, Verb: "get", Prefix: "api", Version: "v1", Namespace: "n", Resource: "namespaces", Name: "n"}},
		{"PUT", "/api/v1/namespaces/n/finalize", Info{IsResource: true, Verb: "update", Prefix: "api", Version: "v1", Namespace: "n", Resource: "namespaces", Name: "n", Subresource: "finalize"}},
		{"PATCH", "/api/v1/namespaces/n/status", Info{IsResource: true, Verb: "patch", Prefix: "api", Version: "v1", Namespace: "n", Resource: "namespaces", Name: "n", Subresource: "status"}},
		{"GET", "/apis/apps/v1/namespaces/n/deployments?watch=true", Info{IsResource: true, Verb: "watch", Prefix: "apis", Group: "apps", Version: "v1", Namespace: "n", Resource: "deployments"}},
		{"GET", "/apis/apps/v1/deployments?watch=0", Info{IsResource: true, Verb: "list", Prefix: "apis", Group: "apps", Version: "v1", Resource: "deployments"}},
		{"GET", "/api/v1/watch/namespaces/n/pods/p", Info{IsResource: true, Verb: "watch", Prefix: "api", Version: "v1", Namespace: "n", Resource: "pods", Name: "p"}},
		{"GET", "/api/v1/secrets?fieldSelector=metadata.name%3Ds", Info{IsResource: true, Verb: "list", Prefix: "api", Version: "v1", Resource: "secrets", Name: "s"}},
		{"DELETE", "/api/v1/namespaces/n/pods", Info{IsResource: true, Verb: "deletecollection", Prefix: "api", Version: "v1", Namespace: "n", Resource: "pods"}},
		{"DELETE", "/api/v1/namespaces/n/pods/p", Info{IsResource: true, Verb: "delete", Prefix: "api", Version: "v1", Namespace: "n", Resource: "pods", Name: "p"}},
		{"POST", "/api/v1/namespaces/n/pods", Info{IsResource: true, Verb: "create", Prefix: "api", Version: "v1", Namespace: "n", Resource: "pods"}},
	} {
		r := httptest.NewRequest(c.method, c.url, nil)
		c.want.Path = r.URL.Path
		if diff := cmp.Diff(c.want, Parse(r)); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", c.method, c.url, diff)
		}
	}
}

// FuzzParse checks what authorization relies on: a request for a resource never has a slash in its parts, and a path
// outside of the API's prefixes is never a resource.
func FuzzParse(f *testing.F) {
	f.Add("/api/v1/namespaces/n/pods/p/log", "watch=1")
	f.Add("/apis/a/b/watch/c", "fieldSelector=metadata.name=x")
	f.Fuzz(func(t *testing.T, path, query string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.URL.Path, r.URL.RawQuery = "/"+path, query
		info := Parse(r)
		if !info.IsResource {
			return
		}
		if !strings.HasPrefix(r.URL.Path, "/api/") && !strings.HasPrefix(r.URL.Path, "/apis/") {
			t.Fatalf("%q is a resource", r.URL.Path)
		}
		for _, part := range []string{info.Group, info.Version, info.Namespace, info.Resource, info.Name, info.Subresource} {
			if strings.Contains(part, "/") {
				t.Fatalf("%q: part %q", path, part)
			}
		}
		if info.Subresource != "" && info.Name == "" {
			t.Fatalf("%q: a subresource of nothing", path)
		}
	})
}
