package garbage

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mini-k8s/mini/controller/resource"
)

// object is what the graph learns of an object.
type object struct {
	resource   *resource.Resource
	namespace  string
	name       string
	uid        types.UID
	owners     []metav1.OwnerReference
	deleting   bool
	foreground bool // has the finalizer foregroundDeletion
	orphan     bool // has the finalizer orphan
}

func objectOf(res *resource.Resource, m metav1.Object) object {
	f := m.GetFinalizers()
	return object{
		resource: res, namespace: m.GetNamespace(), name: m.GetName(), uid: m.GetUID(), owners: m.GetOwnerReferences(),
		deleting:   m.GetDeletionTimestamp() != nil,
		foreground: slices.Contains(f, metav1.FinalizerDeleteDependents),
		orphan:     slices.Contains(f, metav1.FinalizerOrphanDependents),
	}
}

// same says whether nothing that matters differs.
func (o *object) same(p *object) bool {
	return o.deleting == p.deleting && o.foreground == p.foreground && o.orphan == p.orphan &&
		slices.EqualFunc(o.owners, p.owners, func(a, b metav1.OwnerReference) bool {
			return a.UID == b.UID && a.Name == b.Name && a.Kind == b.Kind && a.APIVersion == b.APIVersion &&
				(a.BlockOwnerDeletion != nil && *a.BlockOwnerDeletion) == (b.BlockOwnerDeletion != nil && *b.BlockOwnerDeletion)
		})
}

// node is an object in the graph. A virtual node stands for an owner that has not been seen: resource is nil, and name and
// namespace are what a reference said.
type node struct {
	object
	virtual    bool
	claimed    claimed // of a virtual node: where the owner is said to be
	dependents map[types.UID]*node
}

// claimed is an owner's place according to a reference to it.
type claimed struct {
	kind      schema.GroupVersionKind
	namespace string // of the dependent: an owner is there or cluster-wide
	name      string
}

func claim(ref *metav1.OwnerReference, namespace string) claimed {
	return claimed{schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind), namespace, ref.Name}
}

// at says whether the object is where a reference says it is.
func (o *object) at(c claimed) bool {
	return o.resource != nil && o.resource.GroupKind() == c.kind.GroupKind() && o.name == c.name && (o.namespace == c.namespace || o.namespace == "")
}

// waitsForDependents says whether the object is being deleted in the foreground.
func (n *node) waitsForDependents() bool { return n.deleting && n.foreground }

// graph holds objects and who owns whom. Its methods return the UIDs of nodes that need a look. It is not safe for concurrent
// use.
type graph struct {
	nodes map[types.UID]*node
}

func newGraph() *graph { return &graph{nodes: map[types.UID]*node{}} }

// needed says whether a node tells anything that could not be forgotten.
func (n *node) needed() bool {
	return len(n.owners) > 0 || len(n.dependents) > 0 || (n.deleting && (n.foreground || n.orphan))
}

func (g *graph) forgetIfUnneeded(n *node) {
	if !n.needed() {
		delete(g.nodes, n.uid)
	}
}

// observe takes in an object as it is now.
func (g *graph) observe(o object) (look []types.UID) {
	n := g.nodes[o.uid]
	if n == nil {
		n = &node{object: object{uid: o.uid}}
		g.nodes[o.uid] = n
	}
	was := *n
	if !n.virtual && was.resource != nil && was.same(&o) {
		return nil // most changes of an object are of no concern here
	}
	n.object, n.virtual, n.claimed = o, false, claimed{}
	look = append(look, g.relink(n, was.owners)...)
	if was.virtual {
		// Those that look for it elsewhere have a wrong reference.
		for uid, dep := range n.dependents {
			if !dep.refersWell(n) {
				look = append(look, uid)
			}
		}
	}
	if n.waitsForDependents() && !was.waitsForDependents() {
		for uid := range n.dependents {
			look = append(look, uid)
		}
	}
	if n.deleting && (n.foreground || n.orphan) {
		look = append(look, n.uid)
	}
	g.forgetIfUnneeded(n)
	return look
}

// relink makes the edges of n's owners, and takes away those of owners it no longer has.
func (g *graph) relink(n *node, before []metav1.OwnerReference) (look []types.UID) {
	for i := range n.owners {
		ref := &n.owners[i]
		owner := g.nodes[ref.UID]
		if owner == nil {
			owner = &node{object: object{uid: ref.UID}, virtual: true, claimed: claim(ref, n.namespace)}
			g.nodes[ref.UID] = owner
			look = append(look, ref.UID)
		}
		if owner.dependents == nil {
			owner.dependents = map[types.UID]*node{}
		}
		_, linked := owner.dependents[n.uid]
		owner.dependents[n.uid] = n
		switch {
		case !linked && !owner.virtual && !owner.at(claim(ref, n.namespace)):
			look = append(look, n.uid)
		case !linked && owner.virtual && owner.claimed != claim(ref, n.namespace):
			look = append(look, n.uid)
		case owner.waitsForDependents() && !linked:
			look = append(look, n.uid)
		case owner.waitsForDependents() && blocks(before, ref.UID) && !blocks(n.owners, ref.UID):
			look = append(look, ref.UID)
		}
	}
	for i := range before {
		uid := before[i].UID
		if slices.ContainsFunc(n.owners, func(r metav1.OwnerReference) bool { return r.UID == uid }) {
			continue
		}
		look = append(look, g.unlink(n, uid)...)
		if len(n.owners) > 0 && !slices.Contains(look, n.uid) {
			look = append(look, n.uid) // what it has left may be gone
		}
	}
	return look
}

func (g *graph) unlink(n *node, uid types.UID) (look []types.UID) {
	owner := g.nodes[uid]
	if owner == nil {
		return nil
	}
	delete(owner.dependents, n.uid)
	if owner.waitsForDependents() {
		look = append(look, uid)
	}
	if owner.virtual && len(owner.dependents) == 0 {
		delete(g.nodes, uid)
	} else {
		g.forgetIfUnneeded(owner)
	}
	return look
}

// gone takes an object out.
func (g *graph) gone(uid types.UID) (look []types.UID) {
	n := g.nodes[uid]
	if n == nil {
		return nil
	}
	delete(g.nodes, uid)
	for i := range n.owners {
		look = append(look, g.unlink(n, n.owners[i].UID)...)
	}
	for dep := range n.dependents {
		look = append(look, dep)
	}
	return look
}

// refersWell says whether n's reference to owner says where it is.
func (n *node) refersWell(owner *node) bool {
	for i := range n.owners {
		if n.owners[i].UID == owner.uid {
			return owner.at(claim(&n.owners[i], n.namespace))
		}
	}
	return true
}

// blocks says whether one of the references keeps the owner from going in the foreground.
func blocks(owners []metav1.OwnerReference, uid types.UID) bool {
	return slices.ContainsFunc(owners, func(r metav1.OwnerReference) bool {
		return r.UID == uid && r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion
	})
}

// blocking are the dependents that owner has to wait for.
func (n *node) blocking() (out []*node) {
	for _, dep := range n.dependents {
		if blocks(dep.owners, n.uid) {
			out = append(out, dep)
		}
	}
	return out
}

// listed takes in the UIDs of all objects of a resource: others of it that the graph knows are gone.
func (g *graph) listed(res *resource.Resource, present map[types.UID]bool) (look []types.UID) {
	var missing []types.UID
	for uid, n := range g.nodes {
		if !n.virtual && n.resource == res && !present[uid] {
			missing = append(missing, uid)
		}
	}
	for _, uid := range missing {
		look = append(look, g.gone(uid)...)
	}
	return look
}
