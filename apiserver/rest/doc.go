// Package rest serves the rows of the API: one Endpoint per registry.Resource answers get, list, watch, create, update,
// patch (JSON, merge, strategic, server-side apply), delete and deletecollection, the status and scale subresources, and
// hands the others to what their row names.
//
// A write runs in this order, upstream's: decode, default, managedFields, mutating admission, default, Prepare, Validate,
// validating admission, Allocate, store. Reads and watches never encode: they frame the bytes that the item keeps per
// encoding (package codec).
//
// Every error leaves through status.go, which is the one place that knows how an error becomes a metav1.Status. The chain
// in front has put a request.State into the context: who asks and what for; authorization has been done.
//
// No goroutine is started here; a watch runs in its request's own. Objects from the store are shared and are copied before
// a change.
package rest
