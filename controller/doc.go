// Package controller runs mini's controllers: the loops that bring the cluster's objects to where other objects say they should
// be. Each controller is a package below this one; Run starts them all.
//
// Each decides by a pure plan(snapshot) → changes and acts in a thin loop (package work). They know the cluster only through
// client-go, so they run beside the apiserver in one process or anywhere else. They share informers, and of each informer one
// subscription (package feed); there is no resync and no polling. An idle controller costs one goroutine that waits for ctx.
//
// Everything is safe to run twice at a time: writes carry resource versions or preconditions.
package controller
