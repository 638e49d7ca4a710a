package customresource

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/mini-k8s/mini/apiserver/request"
	"github.com/mini-k8s/mini/store"
)

// cleanupPatience is how long objects may take to go, for instance for their finalizers, before the definition says so.
const cleanupPatience = time.Minute

// clean sees to it that a definition that is being deleted loses its objects and then its finalizer.
func (m *Manager) clean(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) {
	if crd.DeletionTimestamp == nil || !apihelpers.CRDHasFinalizer(crd, apiextensionsv1.CustomResourceCleanupFinalizer) || m.cleaning[crd.UID] {
		return
	}
	m.cleaning[crd.UID] = true
	d := m.definition[crd.Name]
	m.group.Go(func() error {
		for pause := time.Second; ; pause = min(2*pause, time.Minute) {
			err := m.cleanup(ctx, crd, d)
			if err == nil || ctx.Err() != nil {
				return nil
			}
			m.config.Logger.Warn("the objects of a custom resource that is being deleted are not all gone; trying again", "definition", crd.Name, "error", err)
			wait(ctx, pause)
		}
	})
}

// cleanup deletes all objects and waits for them to be gone. d is nil if the definition was never served.
func (m *Manager) cleanup(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition, d *definition) error {
	outcome := apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionFalse,
		Reason: "InstanceDeletionCompleted", Message: "removed all instances",
	}
	switch {
	case m.config.Reserved(schema.GroupResource{Group: crd.Spec.Group, Resource: crd.Spec.Names.Plural}):
		outcome.Reason, outcome.Message = "OverlappingBuiltInResource", "instances overlap with built-in resources in storage"
	case d == nil:
		outcome.Reason, outcome.Message = "NeverEstablished", "resource was never established"
	default:
		if err := m.terminating(ctx, crd, "InstanceDeletionInProgress", "CustomResource deletion is in progress"); err != nil {
			return err
		}
		if err := m.deleteObjects(ctx, d); err != nil {
			text := fmt.Sprintf("could not issue all deletes: %v", err)
			return errors.Join(err, m.terminating(ctx, crd, "InstanceDeletionFailed", text))
		}
		if err := m.waitForNone(ctx, crd, d.collection); err != nil {
			return err
		}
	}
	return m.change(ctx, crd, func(crd *apiextensionsv1.CustomResourceDefinition) {
		setCondition(&crd.Status, outcome, metav1.NewTime(time.Now().Truncate(time.Second)))
		crd.Finalizers = slices.DeleteFunc(crd.Finalizers, func(f string) bool { return f == apiextensionsv1.CustomResourceCleanupFinalizer })
	})
}

func (m *Manager) deleteObjects(ctx context.Context, d *definition) error {
	endpoint, err := d.versions[d.storage].endpoint()
	if err != nil {
		return err
	}
	state := &request.State{User: m.config.User, Info: request.Info{
		IsResource: true, Verb: "deletecollection", Prefix: "apis", Group: d.crd.Spec.Group, Version: d.storage, Resource: d.crd.Spec.Names.Plural,
	}}
	return endpoint.DeleteAll(request.With(ctx, state))
}

// waitForNone returns when the collection is empty.
func (m *Manager) waitForNone(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition, c store.Collection) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	patience := time.NewTimer(cleanupPatience)
	defer patience.Stop()
	watching, err := c.Watch(ctx, store.WatchOptions{InitialEvents: true})
	if err != nil {
		return err
	}
	left, complete := map[string]bool{}, false
	for !complete || len(left) > 0 {
		select {
		case e, ok := <-watching.Events():
			switch {
			case !ok:
				return errors.Join(errors.New("the watch on the objects ended"), ctx.Err())
			case e.Type == store.Failed:
				return e.Err
			case e.Type == store.Bookmark:
				complete = complete || e.InitialEventsEnd
			case e.Type == store.Deleted:
				delete(left, e.Item.Key)
			default:
				left[e.Item.Key] = true
			}
		case <-patience.C:
			text := fmt.Sprintf("could not confirm zero CustomResources remaining: %d are left", len(left))
			if err := m.terminating(ctx, crd, "InstanceDeletionCheck", text); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *Manager) terminating(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition, reason, text string) error {
	return m.change(ctx, crd, func(crd *apiextensionsv1.CustomResourceDefinition) {
		setCondition(&crd.Status, apiextensionsv1.CustomResourceDefinitionCondition{
			Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue, Reason: reason, Message: text,
		}, metav1.NewTime(time.Now().Truncate(time.Second)))
	})
}

// change writes a definition that is being deleted, and removes it once nothing holds it. Another one that has taken its
// name meanwhile is left alone.
func (m *Manager) change(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition, f func(*apiextensionsv1.CustomResourceDefinition)) error {
	_, err := m.config.Definitions.Mutate(ctx, crd.Name, func(current *store.Item) (store.Change, error) {
		if current == nil || current.Object.GetUID() != crd.UID {
			return store.Change{}, nil
		}
		next := current.Object.DeepCopyObject().(*apiextensionsv1.CustomResourceDefinition)
		f(next)
		if len(next.Finalizers) == 0 {
			return store.Change{Delete: true}, nil
		}
		return store.Change{Put: next}, nil
	})
	return err
}
