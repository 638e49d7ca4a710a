// SPDX-License-Identifier: Apache-2.0

// Package object keeps the Secrets and ConfigMaps that the pods of this node use, each watched by itself and only while a pod
// uses it, because that is all a node is allowed to read. Pods share the watch of a shared object. Every change
// is told to one callback, absence included, so that a volume follows its source and a pod that waits for an object goes
// on the moment it appears.
//
// One goroutine per watched object while it is used; an immutable object is read once and needs none.
package object
