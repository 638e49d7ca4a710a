// Package customresource serves what CustomResourceDefinitions define: it makes rows of package registry out of them, and
// the generic handlers of package rest do the rest, with unstructured objects.
//
// Manager watches the definitions. At each change it decides what every definition's status should say (names accepted or
// in conflict, established, see plan), changes the set of resources that are served, and only then writes the status: who
// reads that a definition is established can use it at once. A request for a resource that is not in the set waits until
// the manager has seen the newest definitions, so that this holds behind several servers as well.
//
// Nothing is worked out before it is needed: a definition costs its names until somebody asks for its objects; schemas are
// compiled for the first object that is read, validators and CEL programs for the first that is written. One collection
// of the store, at /registry/GROUP/PLURAL/, holds the objects of all versions as etcd has them; versions differ in the
// apiVersion (conversion None), and in what their schemas default and prune, when objects are read and when they are written.
// A new state of a definition ends the watches of the old one.
//
// Deleting a definition deletes its objects: it stays, refusing new ones, until the last is gone, and then its collection
// is dropped.
//
// Schemas, pruning, defaulting, list types, CEL and validation are those of k8s.io/apiextensions-apiserver.
//
// Manager.Run owns the one goroutine that watches, and one more for each definition that is being deleted.
package customresource
