// Package namespace empties namespaces that are being deleted and lets them go.
//
// Every namespaced resource that discovery finds and that can be deleted is emptied: Pods first, and alone until they are
// gone, so that nothing a running pod relies on (a NetworkPolicy, say) goes before it (KEP 5080); then everything else. What
// stays behind, and whose finalizers keep it, is told in the namespace's conditions. When nothing is left, the finalizer
// kubernetes is taken away, and the API server removes the namespace.
//
// It acts when a namespace changes and when its last pod has gone. What waits for finalizers of others gives no event here,
// so that is looked at again after a quarter of the time that the deletion has taken, at most every 30 s. One queue of
// namespaces.
package namespace
