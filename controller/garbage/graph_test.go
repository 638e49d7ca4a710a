package garbage

import (
	"fmt"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/mini-k8s/mini/controller/resource"
)

var things = &resource.Resource{GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "things"}, Kind: "Thing", Namespaced: true}

func ref(uid string, block bool) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: "v1", Kind: "Thing", Name: "name-" + uid, UID: types.UID(uid), BlockOwnerDeletion: &block}
}

func thing(uid string, owners ...metav1.OwnerReference) object {
	return object{resource: things, namespace: "ns", name: "name-" + uid, uid: types.UID(uid), owners: owners}
}

func sorted(uids []types.UID) string {
	uids = slices.Clone(uids)
	slices.Sort(uids)
	return fmt.Sprint(slices.Compact(uids))
}

func TestGraph(t *testing.T) {
	deleting := func(o object, foreground, orphan bool) object {
		o.deleting, o.foreground, o.orphan = true, foreground, orphan
		return o
	}
	misplaced := ref("a", false)
	misplaced.Name = "elsewhere"
	for name, tc := range map[string]struct {
		steps func(*graph) []types.UID // the look of the last step counts
		look  string
		nodes int
	}{
		"alone_is_forgotten": {func(g *graph) []types.UID { return g.observe(thing("a")) }, "[]", 0},
		"unknown_owner":      {func(g *graph) []types.UID { return g.observe(thing("b", ref("a", false))) }, "[a]", 2},
		"owner_seen_then":    {func(g *graph) []types.UID { g.observe(thing("b", ref("a", false))); return g.observe(thing("a")) }, "[]", 2},
		"owner_is_elsewhere": {func(g *graph) []types.UID { g.observe(thing("b", misplaced)); return g.observe(thing("a")) }, "[b]", 2},
		"second_is_elsewhere": {func(g *graph) []types.UID {
			g.observe(thing("b", ref("a", false)))
			return g.observe(thing("c", misplaced))
		}, "[c]", 3},
		"owner_gone": {func(g *graph) []types.UID {
			g.observe(thing("b", ref("a", false)))
			g.observe(thing("c", ref("a", false)))
			return g.gone("a")
		}, "[b c]", 2},
		"dependent_gone": {func(g *graph) []types.UID {
			g.observe(thing("b", ref("a", false)))
			g.observe(thing("a"))
			return g.gone("b")
		}, "[]", 0},
		"virtual_owner_forgotten": {func(g *graph) []types.UID {
			g.observe(thing("b", ref("a", false)))
			return g.observe(thing("b"))
		}, "[]", 0},
		"foreground": {func(g *graph) []types.UID {
			g.observe(thing("b", ref("a", true)))
			return g.observe(deleting(thing("a"), true, false))
		}, "[a b]", 2},
		"foreground_dependent_gone": {func(g *graph) []types.UID {
			g.observe(thing("b", ref("a", true)))
			g.observe(deleting(thing("a"), true, false))
			return g.gone("b")
		}, "[a]", 1},
		"foreground_unblocked": {func(g *graph) []types.UID {
			g.observe(thing("b", ref("a", true)))
			g.observe(deleting(thing("a"), true, false))
			return g.observe(thing("b", ref("a", false)))
		}, "[a]", 2},
		"foreground_late_dependent": {func(g *graph) []types.UID {
			g.observe(deleting(thing("a"), true, false))
			return g.observe(thing("b", ref("a", true)))
		}, "[b]", 2},
		"foreground_released": {func(g *graph) []types.UID {
			g.observe(thing("b", ref("a", true)))
			g.observe(deleting(thing("a"), true, false))
			return g.observe(thing("b"))
		}, "[a]", 1},
		"orphan": {func(g *graph) []types.UID {
			g.observe(thing("b", ref("a", true)))
			return g.observe(deleting(thing("a"), false, true))
		}, "[a]", 2},
		"plain_deletion": {func(g *graph) []types.UID {
			g.observe(thing("b", ref("a", true)))
			return g.observe(deleting(thing("a"), false, false))
		}, "[]", 2},
		"one_reference_less": {func(g *graph) []types.UID {
			g.observe(thing("b", ref("a", false), ref("c", false)))
			return g.observe(thing("b", ref("c", false)))
		}, "[b]", 2},
		"relisted": {func(g *graph) []types.UID {
			g.observe(thing("b", ref("a", false)))
			g.observe(thing("a"))
			return g.listed(things, map[types.UID]bool{"b": true})
		}, "[b]", 1},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGraph()
			if got := sorted(tc.steps(g)); got != tc.look {
				t.Errorf("look at %s, want %s", got, tc.look)
			}
			if len(g.nodes) != tc.nodes {
				t.Errorf("%d nodes, want %d", len(g.nodes), tc.nodes)
			}
		})
	}
}

func TestDecide(t *testing.T) {
	refs := []metav1.OwnerReference{ref("a", true), ref("b", true)}
	const bg, fg, orphan = metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan
	for name, tc := range map[string]struct {
		a, b       ownerState
		finalizers []string
		deps, loop bool
		want       action
	}{
		"both_there":         {solid, solid, nil, false, false, action{keep: true}},
		"one_gone":           {solid, dangling, nil, true, false, action{keep: true, drop: []types.UID{"b"}}},
		"one_waits":          {waiting, solid, nil, true, false, action{keep: true, drop: []types.UID{"a"}}},
		"all_gone":           {dangling, dangling, nil, true, false, action{propagation: bg}},
		"wait_no_dependents": {waiting, dangling, nil, false, false, action{propagation: bg}},
		"wait_dependents":    {waiting, waiting, nil, true, false, action{propagation: fg}},
		"wait_in_cycle":      {waiting, dangling, nil, true, true, action{propagation: fg, unblock: true}},
		"gone_orphan":        {dangling, dangling, []string{"orphan"}, true, false, action{propagation: orphan}},
		"gone_foreground":    {dangling, dangling, []string{"foregroundDeletion"}, true, false, action{propagation: fg}},
	} {
		t.Run(name, func(t *testing.T) {
			got := decide(refs, map[types.UID]ownerState{"a": tc.a, "b": tc.b}, tc.finalizers, tc.deps, tc.loop)
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("%+v, want %+v", got, tc.want)
			}
		})
	}
	if !decide(nil, nil, nil, true, false).keep {
		t.Error("an object without owners is deleted")
	}
}

// Whatever comes and goes in whatever order: an edge exists exactly where a known object has a reference, nothing is kept that
// tells nothing, and when an owner goes every object that refers to it is looked at.
func TestGraphProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newGraph()
		alive, dead := map[types.UID]object{}, map[string]bool{}
		uid := func(label string) string { return fmt.Sprint(rapid.IntRange(0, 9).Draw(t, label)) }
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			id := uid("object")
			if dead[id] {
				continue // a UID is never used again
			}
			if _, ok := alive[types.UID(id)]; ok && rapid.IntRange(0, 2).Draw(t, "gone") == 0 {
				look := g.gone(types.UID(id))
				delete(alive, types.UID(id))
				dead[id] = true
				for other, o := range alive {
					refers := slices.ContainsFunc(o.owners, func(r metav1.OwnerReference) bool { return r.UID == types.UID(id) })
					if refers && !slices.Contains(look, other) {
						t.Fatalf("%s is not looked at when its owner %s goes", other, id)
					}
				}
			} else {
				var owners []metav1.OwnerReference
				for range rapid.IntRange(0, 3).Draw(t, "owners") {
					o := uid("owner")
					if !slices.ContainsFunc(owners, func(r metav1.OwnerReference) bool { return r.UID == types.UID(o) }) && o != id {
						owners = append(owners, ref(o, rapid.Bool().Draw(t, "blocks")))
					}
				}
				o := thing(id, owners...)
				o.deleting, o.foreground = rapid.Bool().Draw(t, "deleting"), rapid.Bool().Draw(t, "foreground")
				was, known := alive[o.uid]
				alive[o.uid] = o
				look := g.observe(o)
				for _, r := range owners {
					_, lives := alive[r.UID]
					before := known && slices.ContainsFunc(was.owners, func(b metav1.OwnerReference) bool { return b.UID == r.UID })
					if before {
						continue // its owner may have gone meanwhile, and it was looked at then
					}
					if g.nodes[r.UID] == nil {
						t.Fatalf("the new reference to %s is not known", r.UID)
					}
					if !lives && g.nodes[r.UID].virtual && !slices.Contains(look, r.UID) && !slices.ContainsFunc(values(alive), func(x object) bool {
						return x.uid != o.uid && slices.ContainsFunc(x.owners, func(b metav1.OwnerReference) bool { return b.UID == r.UID })
					}) {
						t.Fatalf("nobody looks for the unknown owner %s", r.UID)
					}
				}
			}
			edges := map[string]bool{}
			for _, o := range alive {
				for _, r := range o.owners {
					edges[string(r.UID)+">"+string(o.uid)] = true
				}
			}
			n := 0
			for _, owner := range g.nodes {
				if !owner.needed() {
					t.Fatalf("node %s is kept for nothing", owner.uid)
				}
				for dep := range owner.dependents {
					n++
					if !edges[string(owner.uid)+">"+string(dep)] {
						t.Fatalf("edge %s>%s of nothing", owner.uid, dep)
					}
				}
			}
			// An owner that is gone from the graph has no edges; every other reference has one.
			for e := range edges {
				owner := types.UID(e[:1])
				if g.nodes[owner] != nil {
					n--
				}
			}
			if n > 0 {
				t.Fatalf("%d edges too many", n)
			}
		}
	})
}

func values(m map[types.UID]object) (out []object) {
	for _, o := range m {
		out = append(out, o)
	}
	return out
}
