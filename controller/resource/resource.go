package resource

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

// Resource is one resource in its preferred version.
type Resource struct {
	schema.GroupVersionResource
	Kind       string
	Namespaced bool
	Verbs      []string
}

// GroupKind is what owner references name, apart from the version.
func (r *Resource) GroupKind() schema.GroupKind {
	return schema.GroupKind{Group: r.Group, Kind: r.Kind}
}

// Can says whether the resource has all the verbs.
func (r *Resource) Can(verbs ...string) bool {
	return !slices.ContainsFunc(verbs, func(v string) bool { return !slices.Contains(r.Verbs, v) })
}

// List returns all resources, subresources left out, in a stable order. An error may come with the part that could be
// discovered: groups of aggregated servers fail one by one.
func List(client discovery.DiscoveryInterface) ([]*Resource, error) {
	lists, err := discovery.ServerPreferredResources(client)
	if err != nil {
		err = fmt.Errorf("discover resources: %w", err)
	}
	var out []*Resource
	for _, l := range lists {
		gv, parseErr := schema.ParseGroupVersion(l.GroupVersion)
		if parseErr != nil {
			continue
		}
		out = append(out, of(gv, l.APIResources)...)
	}
	slices.SortFunc(out, func(a, b *Resource) int { return strings.Compare(a.String(), b.String()) })
	return out, err
}

func of(gv schema.GroupVersion, list []metav1.APIResource) (out []*Resource) {
	for _, r := range list {
		if strings.Contains(r.Name, "/") {
			continue
		}
		g := gv
		if r.Group != "" {
			g.Group = r.Group
		}
		if r.Version != "" {
			g.Version = r.Version
		}
		out = append(out, &Resource{GroupVersionResource: g.WithResource(r.Name), Kind: r.Kind, Namespaced: r.Namespaced, Verbs: r.Verbs})
	}
	return out
}
