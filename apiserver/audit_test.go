package apiserver_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"k8s.io/apiserver/pkg/authorization/authorizer"
	clientrest "k8s.io/client-go/rest"

	"github.com/mini-k8s/mini/apiserver"
	"github.com/mini-k8s/mini/apiserver/request"
)

// overhears keeps what the audit events of requests are told, by path.
type overhears struct {
	masters
	audits sync.Map
}

func (o *overhears) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if state := request.From(ctx); state != nil {
		o.audits.Store(a.GetPath(), state.Audit)
	}
	return o.masters.Authorize(ctx, a)
}

// TestDeprecationsAreAudited: requests for deprecated kinds and versions say so in their audit events, others do not.
func TestDeprecationsAreAudited(t *testing.T) {
	o := &overhears{}
	c := start(t, withOpenAPI(t), func(config *apiserver.Config) {
		config.Plugins = func(*clientrest.Config) (*apiserver.Plugins, error) {
			return &apiserver.Plugins{Authenticator: tokens{}, Authorizer: o}, nil
		}
	})
	definition := strings.Replace(widgetDefinition, "    storage: true\n", "    storage: true\n    deprecated: true\n", 1)
	c.run(t, []step{
		{args: "apply -f -", stdin: definition, want: []string{"created"}},
		{args: "wait --for=condition=Established crd/widgets.example.com --timeout=30s", want: []string{"condition met"}},
	})
	for path, deprecated := range map[string]bool{
		"/api/v1/endpoints": true, "/api/v1/namespaces/default/endpoints/kubernetes": true, "/apis/example.com/v1/widgets": true,
		"/api/v1/configmaps": false, "/apis/discovery.k8s.io/v1/endpointslices": false,
	} {
		got := c.do(t, "GET", path, "")
		if got.code != 200 && got.code != 404 {
			t.Errorf("%s: %d %s", path, got.code, got.body)
		}
		audit, ok := o.audits.Load(path)
		if !ok {
			t.Fatalf("%s: nobody asked whether it may be", path)
		}
		said := audit.(*request.Audit).Annotations()
		if _, release := said["k8s.io/removed-release"]; (said["k8s.io/deprecated"] == "true") != deprecated || release {
			t.Errorf("%s: %v", path, said)
		}
		if strings.Contains(path, "widgets") && !strings.Contains(got.header.Get("Warning"), "example.com/v1 Widget is deprecated") {
			t.Errorf("%s: %v", path, got.header)
		}
	}
}
