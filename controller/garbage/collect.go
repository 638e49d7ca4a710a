package garbage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"

	"github.com/mini-k8s/mini/controller/resource"
)

// view is what sync reads of a node while it holds the lock.
type view struct {
	object
	virtual       bool
	claimed       claimed
	hasDependents bool
	inCycle       bool
	blocking      []types.UID
	dependents    []object
}

func (c *Controller) view(uid types.UID) (view, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.graph.nodes[uid]
	if n == nil {
		return view{}, false
	}
	v := view{object: n.object, virtual: n.virtual, claimed: n.claimed, hasDependents: len(n.dependents) > 0}
	for _, dep := range n.dependents {
		v.inCycle = v.inCycle || dep.waitsForDependents()
		if n.deleting && n.orphan {
			v.dependents = append(v.dependents, dep.object)
		}
	}
	for _, dep := range n.blocking() {
		v.blocking = append(v.blocking, dep.uid)
	}
	return v, true
}

func (c *Controller) client(res *resource.Resource, namespace string) metadata.ResourceInterface {
	if res.Namespaced {
		return c.cfg.Metadata.Resource(res.GroupVersionResource).Namespace(namespace)
	}
	return c.cfg.Metadata.Resource(res.GroupVersionResource)
}

// get returns the live object, nil if it is gone or another one of its name.
func (c *Controller) get(ctx context.Context, res *resource.Resource, namespace, name string, uid types.UID) (*metav1.PartialObjectMetadata, error) {
	obj, err := c.client(res, namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("get %s %s/%s: %w", res.GroupResource(), namespace, name, err)
	case obj.UID != uid:
		return nil, nil
	}
	return obj, nil
}

// sync looks at one node.
func (c *Controller) sync(ctx context.Context, uid types.UID) error {
	v, ok := c.view(uid)
	switch {
	case !ok:
		return nil
	case v.virtual:
		return c.verify(ctx, v)
	case v.deleting && v.orphan:
		return c.orphan(ctx, v)
	case v.deleting && v.foreground:
		return c.finish(ctx, v)
	case v.deleting:
		return nil
	}
	return c.judge(ctx, v)
}

// verify looks for an owner that nothing but a reference has told of.
func (c *Controller) verify(ctx context.Context, v view) error {
	res, err := c.find(v.claimed.kind)
	if err != nil {
		return err
	}
	obj, err := c.get(ctx, res, v.claimed.namespace, v.claimed.name, v.uid)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.graph.nodes[v.uid]; n == nil || !n.virtual {
		return nil // seen meanwhile
	}
	if obj == nil {
		c.goneLocked(v.uid)
		return nil
	}
	c.look(c.graph.observe(objectOf(res, obj)))
	return nil
}

// orphan takes the reference to the object out of its dependents, then lets it go.
func (c *Controller) orphan(ctx context.Context, v view) error {
	var errs []error
	for _, dep := range v.dependents {
		obj, err := c.get(ctx, dep.resource, dep.namespace, dep.name, dep.uid)
		if err == nil && obj != nil {
			err = c.dropOwners(ctx, dep.resource, obj, []types.UID{v.uid})
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return c.dropFinalizer(ctx, v, metav1.FinalizerOrphanDependents)
}

// finish lets go an object that is deleted in the foreground when nothing blocks it any more.
func (c *Controller) finish(ctx context.Context, v view) error {
	if len(v.blocking) == 0 {
		return c.dropFinalizer(ctx, v, metav1.FinalizerDeleteDependents)
	}
	c.look(v.blocking)
	return nil
}

func (c *Controller) dropFinalizer(ctx context.Context, v view, finalizer string) error {
	obj, err := c.get(ctx, v.resource, v.namespace, v.name, v.uid)
	if err != nil {
		return err
	}
	if obj == nil {
		c.gone(v.resource, v.uid)
		return nil
	}
	left := slices.DeleteFunc(slices.Clone(obj.Finalizers), func(f string) bool { return f == finalizer })
	if len(left) == len(obj.Finalizers) {
		return nil
	}
	return c.patch(ctx, v.resource, obj, map[string]any{"finalizers": left})
}

// judge decides about an object by its live owners.
func (c *Controller) judge(ctx context.Context, v view) error {
	obj, err := c.get(ctx, v.resource, v.namespace, v.name, v.uid)
	if err != nil {
		return err
	}
	if obj == nil {
		c.gone(v.resource, v.uid)
		return nil
	}
	if obj.DeletionTimestamp != nil {
		return nil // its event tells how
	}
	states := map[types.UID]ownerState{}
	for i := range obj.OwnerReferences {
		ref := &obj.OwnerReferences[i]
		if states[ref.UID], err = c.state(ctx, ref, obj.Namespace); err != nil {
			return err
		}
	}
	a := decide(obj.OwnerReferences, states, obj.Finalizers, v.hasDependents, v.inCycle)
	if a.keep {
		if len(a.drop) == 0 {
			return nil
		}
		return c.dropOwners(ctx, v.resource, obj, a.drop)
	}
	if a.unblock {
		refs := slices.Clone(obj.OwnerReferences)
		no := false
		for i := range refs {
			refs[i].BlockOwnerDeletion = &no
		}
		if err := c.patch(ctx, v.resource, obj, map[string]any{"ownerReferences": refs}); err != nil {
			return err
		}
		// The patch has given it a new version; the UID alone guards what follows.
		obj.ResourceVersion = ""
	}
	return c.delete(ctx, v.resource, obj, a.propagation)
}

// state tells what became of an owner: from the graph when it knows it in the place that the reference names, else from the
// API.
func (c *Controller) state(ctx context.Context, ref *metav1.OwnerReference, namespace string) (ownerState, error) {
	c.mu.Lock()
	if slices.Contains(c.absent, ref.UID) {
		c.mu.Unlock()
		return dangling, nil
	}
	if n := c.graph.nodes[ref.UID]; n != nil && !n.virtual && n.at(claim(ref, namespace)) && !n.deleting {
		c.mu.Unlock()
		return solid, nil
	}
	c.mu.Unlock()
	place := claim(ref, namespace)
	res, err := c.find(place.kind)
	if err != nil {
		return solid, err
	}
	if res.Namespaced && namespace == "" {
		// A cluster-scoped object cannot be owned by a namespaced one; that is not for the collector to punish.
		return solid, fmt.Errorf("owner %s %s of a cluster-scoped object is namespaced", place.kind.Kind, ref.Name)
	}
	owner, err := c.get(ctx, res, namespace, ref.Name, ref.UID)
	switch {
	case err != nil:
		return solid, err
	case owner == nil:
		return dangling, nil
	case owner.DeletionTimestamp != nil && slices.Contains(owner.Finalizers, metav1.FinalizerDeleteDependents):
		return waiting, nil
	}
	return solid, nil
}

func (c *Controller) dropOwners(ctx context.Context, res *resource.Resource, obj *metav1.PartialObjectMetadata, drop []types.UID) error {
	left := slices.DeleteFunc(slices.Clone(obj.OwnerReferences), func(r metav1.OwnerReference) bool { return slices.Contains(drop, r.UID) })
	if len(left) == len(obj.OwnerReferences) {
		return nil
	}
	return c.patch(ctx, res, obj, map[string]any{"ownerReferences": left})
}

// patch changes metadata of exactly the object that was read.
func (c *Controller) patch(ctx context.Context, res *resource.Resource, obj *metav1.PartialObjectMetadata, metadata map[string]any) error {
	metadata["uid"], metadata["resourceVersion"] = obj.UID, obj.ResourceVersion
	data, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	_, err = c.client(res, obj.Namespace).Patch(ctx, obj.Name, types.MergePatchType, data, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("patch %s %s/%s: %w", res.GroupResource(), obj.Namespace, obj.Name, err)
	}
	return nil
}

func (c *Controller) delete(ctx context.Context, res *resource.Resource, obj *metav1.PartialObjectMetadata, how metav1.DeletionPropagation) error {
	pre := metav1.NewUIDPreconditions(string(obj.UID))
	if obj.ResourceVersion != "" {
		pre.ResourceVersion = &obj.ResourceVersion // new owners meanwhile must be seen first
	}
	err := c.client(res, obj.Namespace).Delete(ctx, obj.Name, metav1.DeleteOptions{Preconditions: pre, PropagationPolicy: &how})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s %s/%s: %w", res.GroupResource(), obj.Namespace, obj.Name, err)
	}
	c.cfg.Logger.Debug("collected", "resource", res.GroupResource().String(), "namespace", obj.Namespace, "name", obj.Name)
	return nil
}
