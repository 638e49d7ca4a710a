package garbage

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ownerState is what became of an owner.
type ownerState int

const (
	solid    ownerState = iota // there
	dangling                   // gone, or never was
	waiting                    // being deleted in the foreground
)

// action is what to do with an object.
type action struct {
	keep bool
	// drop are the owners to take out of its references, when others are left to keep it.
	drop []types.UID
	// unblock says that its references must stop blocking, because it waits for dependents of its own that wait for it.
	unblock bool
	// propagation is how to delete it when it is not kept.
	propagation metav1.DeletionPropagation
}

// decide judges an object by the state of each of its owners. inCycle says that a dependent of the object is being deleted in
// the foreground too; hasDependents that it has any.
func decide(owners []metav1.OwnerReference, states map[types.UID]ownerState, finalizers []string, hasDependents, inCycle bool) action {
	var lost, held []types.UID
	anySolid := false
	for _, ref := range owners {
		switch states[ref.UID] {
		case solid:
			anySolid = true
		case dangling:
			lost = append(lost, ref.UID)
		case waiting:
			held = append(held, ref.UID)
		}
	}
	switch {
	case len(owners) == 0:
		return action{keep: true}
	case anySolid:
		return action{keep: true, drop: append(lost, held...)}
	case len(held) > 0 && hasDependents:
		// The owner wants to see everything below it gone before it goes itself.
		return action{propagation: metav1.DeletePropagationForeground, unblock: inCycle}
	}
	// An earlier request may have said how the object is to go.
	switch {
	case slices.Contains(finalizers, metav1.FinalizerOrphanDependents):
		return action{propagation: metav1.DeletePropagationOrphan}
	case slices.Contains(finalizers, metav1.FinalizerDeleteDependents):
		return action{propagation: metav1.DeletePropagationForeground}
	}
	return action{propagation: metav1.DeletePropagationBackground}
}
