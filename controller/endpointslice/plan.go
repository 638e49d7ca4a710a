package endpointslice

import (
	"maps"
	"slices"
	"strings"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// MaxEndpoints is how many endpoints a slice holds at most: the default of kube-controller-manager's
// --max-endpoints-per-slice.
const MaxEndpoints = 100

// changes are the writes that lead from what is to what should be.
type changes struct {
	create, update, delete []*discoveryv1.EndpointSlice
}

func (c changes) empty() bool { return len(c.create)+len(c.update)+len(c.delete) == 0 }

func (c *changes) add(o changes) {
	c.create = append(c.create, o.create...)
	c.update = append(c.update, o.update...)
	c.delete = append(c.delete, o.delete...)
}

// template is what all slices of one owner have in common.
type template struct {
	namespace, name string // of the Service or Endpoints
	labels          map[string]string
	annotations     map[string]string
	owner           metav1.OwnerReference
	// placeholder says that an owner without endpoints has one empty slice.
	placeholder bool
}

func (t *template) slice(family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) *discoveryv1.EndpointSlice {
	prefix := t.name + "-"
	if len(validation.NameIsDNSSubdomain(prefix, true)) > 0 {
		prefix = t.name
	}
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: t.namespace, GenerateName: prefix},
		AddressType: family, Ports: ports, Endpoints: []discoveryv1.Endpoint{},
	}
	t.dress(s)
	return s
}

// dress puts the owner's labels, annotations and reference on s and says whether that changed it.
func (t *template) dress(s *discoveryv1.EndpointSlice) bool {
	owned := len(s.OwnerReferences) == 1 && equality.Semantic.DeepEqual(s.OwnerReferences[0], t.owner)
	if owned && maps.Equal(s.Labels, t.labels) && (t.annotations == nil || maps.Equal(s.Annotations, t.annotations)) {
		return false
	}
	s.Labels = maps.Clone(t.labels)
	s.OwnerReferences = []metav1.OwnerReference{t.owner}
	if t.annotations != nil {
		s.Annotations = maps.Clone(t.annotations)
	}
	return true
}

// plan returns the changes that make existing hold what want says. existing are all slices that this controller manages for
// the owner; want has an entry for each address type the owner should have. Objects of existing are not modified.
func plan(t *template, want map[discoveryv1.AddressType][]group, existing []*discoveryv1.EndpointSlice) changes {
	byType := map[discoveryv1.AddressType][]*discoveryv1.EndpointSlice{}
	var out changes
	for _, s := range existing {
		if _, ok := want[s.AddressType]; !ok {
			out.delete = append(out.delete, s)
			continue
		}
		byType[s.AddressType] = append(byType[s.AddressType], s)
	}
	for _, family := range slices.Sorted(maps.Keys(want)) {
		out.add(planFamily(t, family, want[family], byType[family]))
	}
	return out
}

func planFamily(t *template, family discoveryv1.AddressType, want []group, existing []*discoveryv1.EndpointSlice) changes {
	byPorts := map[string][]*discoveryv1.EndpointSlice{}
	for _, s := range existing {
		k := portsKey(s.Ports)
		byPorts[k] = append(byPorts[k], s)
	}
	var out changes
	kept := 0
	for _, g := range want {
		k := portsKey(g.ports)
		c, n := pack(t, family, g, byPorts[k])
		out.add(c)
		kept += n
		delete(byPorts, k)
	}
	for _, k := range slices.Sorted(maps.Keys(byPorts)) {
		out.delete = append(out.delete, byPorts[k]...)
	}
	if kept == 0 && len(out.create) == 0 && t.placeholder {
		// The empty slice has no ports either: without a pod it is not known what named ports mean.
		for i, s := range out.delete {
			if len(s.Endpoints) == 0 && len(s.Ports) == 0 {
				out.delete = slices.Delete(out.delete, i, i+1)
				if s = s.DeepCopy(); t.dress(s) {
					out.update = append(out.update, s)
				}
				kept++
				break
			}
		}
		if kept == 0 {
			out.create = append(out.create, t.slice(family, []discoveryv1.EndpointPort{}))
		}
	}
	return recycle(out)
}

// recycle turns pairs of a deletion and a creation into an update: half the writes, and watchers see no gap.
func recycle(c changes) changes {
	n := min(len(c.create), len(c.delete))
	for i := range n {
		s := c.delete[i].DeepCopy()
		s.Ports, s.Endpoints, s.Labels, s.OwnerReferences = c.create[i].Ports, c.create[i].Endpoints, c.create[i].Labels, c.create[i].OwnerReferences
		if c.create[i].Annotations != nil {
			s.Annotations = c.create[i].Annotations
		}
		c.update = append(c.update, s)
	}
	c.create, c.delete = c.create[n:], c.delete[n:]
	return c
}

// bin is an existing slice while endpoints are packed into it.
type bin struct {
	slice   *discoveryv1.EndpointSlice
	keep    []discoveryv1.Endpoint
	changed bool
}

func (b *bin) room() int { return MaxEndpoints - len(b.keep) }

// pack fits the endpoints of one group into its slices; kept is how many of existing stay.
func pack(t *template, family discoveryv1.AddressType, g group, existing []*discoveryv1.EndpointSlice) (out changes, kept int) {
	bins, fresh := settle(g, existing)
	// Fullest first, so that few slices change and the emptier ones have a chance to become empty.
	slices.SortStableFunc(bins, func(a, b *bin) int {
		if d := len(b.keep) - len(a.keep); d != 0 {
			return d
		}
		return strings.Compare(a.slice.Name, b.slice.Name)
	})
	fill := func(b *bin) {
		n := min(b.room(), len(fresh))
		if n > 0 {
			b.keep, fresh, b.changed = append(b.keep, fresh[:n]...), fresh[n:], true
		}
	}
	for _, b := range bins {
		if b.changed && len(b.keep) > 0 {
			fill(b)
		}
	}
	if len(fresh) > 0 && len(fresh) < MaxEndpoints {
		for _, b := range bins { // the fullest that holds the rest
			if b.room() >= len(fresh) && len(b.keep) > 0 {
				fill(b)
				break
			}
		}
	}
	for _, b := range bins { // slices that would be deleted: better filled than replaced
		if len(b.keep) == 0 {
			fill(b)
		}
	}
	for _, b := range bins {
		if len(b.keep) == 0 {
			out.delete = append(out.delete, b.slice)
			continue
		}
		kept++
		next := b.slice.DeepCopy()
		dressed := t.dress(next)
		if b.changed {
			next.Endpoints = b.keep
		}
		if dressed || b.changed {
			out.update = append(out.update, next)
		}
	}
	for len(fresh) > 0 {
		n := min(MaxEndpoints, len(fresh))
		s := t.slice(family, g.ports)
		s.Endpoints, fresh = slices.Clone(fresh[:n]), fresh[n:]
		out.create = append(out.create, s)
	}
	return out, kept
}

// settle leaves in each slice the endpoints that are still wanted, in their present state, and returns those that are in none.
func settle(g group, existing []*discoveryv1.EndpointSlice) (bins []*bin, fresh []discoveryv1.Endpoint) {
	wanted := make(map[string]*discoveryv1.Endpoint, len(g.endpoints))
	for i := range g.endpoints {
		wanted[endpointKey(&g.endpoints[i])] = &g.endpoints[i]
	}
	placed := make(map[string]bool, len(g.endpoints))
	for _, s := range existing {
		b := &bin{slice: s}
		for i := range s.Endpoints {
			have := &s.Endpoints[i]
			k := endpointKey(have)
			w := wanted[k]
			if w == nil || placed[k] || len(b.keep) == MaxEndpoints {
				b.changed = true
				continue
			}
			placed[k] = true
			b.keep = append(b.keep, *w)
			b.changed = b.changed || !equality.Semantic.DeepEqual(have, w)
		}
		bins = append(bins, b)
	}
	for i := range g.endpoints {
		if k := endpointKey(&g.endpoints[i]); !placed[k] {
			placed[k] = true
			fresh = append(fresh, g.endpoints[i])
		}
	}
	return bins, fresh
}
