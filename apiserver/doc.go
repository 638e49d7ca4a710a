// Package apiserver is the Kubernetes API over HTTP: it takes the rows of package registry, a store and the plugins that
// authenticate, authorize and admit, and serves them as kube-apiserver does.
//
// A request passes these handlers, outermost first (chain.go): recovery from panics, request info, metrics, authentication,
// impersonation, authorization, the limit of requests in flight, and then the path: API resources
// (package rest), discovery, OpenAPI, health, version, metrics.
//
// Run serves HTTPS on a listener, makes the objects that belong to the server (the first namespaces, the kubernetes Service
// with its endpoints) and keeps them, and ends within five seconds of its context: watches are ended first, then requests
// under way are waited for. Ready is closed when all of that is in place. LoopbackConfig is a client of the same handlers
// without a network, for the components in this process.
//
// It does not know how objects are stored (package store), what a kind means (package registry), or who may do what.
package apiserver
