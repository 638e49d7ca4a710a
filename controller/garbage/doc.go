// Package garbage deletes what lost its owners, and carries out deletions in the foreground and with orphans.
//
// An object whose ownerReferences all point to owners that are gone (absent, or another object of that name) is deleted. An
// owner deleted in the foreground waits (finalizer foregroundDeletion) until the dependents that block it are gone; one
// deleted with orphans (finalizer orphan) goes after its dependents have lost the reference. Rules are those of
// https://kubernetes.io/docs/concepts/architecture/garbage-collection.
//
// It watches the metadata of every resource that can be listed, watched and deleted, Events aside; where another controller
// has an informer already it shares that. It keeps little: only objects that have owners, are owners, or are being deleted in
// one of the two ways are in its graph, without labels, annotations or anything else. An owner it does not know is looked up
// in the API when something refers to it. Every deletion is decided on the live object and carries its UID and version.
//
// It acts on events alone. New resources are found when a CustomResourceDefinition or APIService changes, and when a
// reference names a kind that is not known. Nothing is deleted before all resources have been listed once (or have failed to
// be for 30 s). One queue of UIDs; one reflector's goroutine for each resource that nobody else watches.
package garbage
