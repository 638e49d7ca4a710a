// Package registrytest runs tables of manifests through a row's hooks, for the tests of the packages of rows.
//
// A Case is what a client sends and, in upstream's words, what is wrong with it. It is decoded strictly, defaulted and
// prepared as the generic handlers do it, so that a table shows what a user sees.
package registrytest

import (
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/yaml"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

// Case is a manifest, without apiVersion and kind, and what is to become of it.
type Case struct {
	Name string
	Row  registry.Resource
	Old  string // what is there already; empty for a create
	View string // the subresource that the update is of: "status" or another one's name
	New  string
	// Want is part of the errors' text; empty accepts the manifest.
	Want string
	// Then checks an accepted object.
	Then func(t *testing.T, o store.Object)
}

// types are those of all rows.
var types = sync.OnceValue(func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiregistrationv1.AddToScheme} {
		if err := add(s); err != nil {
			panic(err)
		}
	}
	return s
})

// Decode makes an object of the row's kind.
func Decode(t testing.TB, row registry.Resource, manifest string) store.Object {
	t.Helper()
	o, err := types().New(row.GVK)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict([]byte(manifest), o); err != nil {
		t.Fatalf("%v in\n%s", err, manifest)
	}
	if row.Default != nil {
		row.Default(o.(store.Object))
	}
	return o.(store.Object)
}

// Run runs each case as a subtest.
func Run(t *testing.T, cases []Case) {
	for _, c := range cases {
		t.Run(c.Row.GVK.Kind+"/"+c.Name, func(t *testing.T) {
			o := Decode(t, c.Row, c.New)
			s := &c.Row.Strategy
			switch {
			case c.View == "status":
				s = c.Row.Status
			case c.View != "":
				for _, sub := range c.Row.Subresources {
					if sub.Name == c.View {
						s = sub.Strategy
					}
				}
			}
			var got string
			if c.Old == "" {
				if s.PrepareForCreate != nil {
					s.PrepareForCreate(t.Context(), o)
				}
				if errs := s.Validate(t.Context(), o); len(errs) > 0 {
					got = errs.ToAggregate().Error()
				}
			} else {
				old := Decode(t, c.Row, c.Old)
				old.SetResourceVersion("1")
				o.SetResourceVersion("1")
				o.SetGeneration(old.GetGeneration())
				if s.PrepareForUpdate != nil {
					s.PrepareForUpdate(t.Context(), o, old)
				}
				if errs := s.ValidateUpdate(t.Context(), o, old); len(errs) > 0 {
					got = errs.ToAggregate().Error()
				}
			}
			if c.Want == "" && got != "" || !strings.Contains(got, c.Want) {
				t.Errorf("want %q, got %q", c.Want, got)
			}
			if c.Then != nil {
				c.Then(t, o)
			}
		})
	}
}
