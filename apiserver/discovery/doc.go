// Package discovery tells clients which groups, versions, resources and verbs the server has, in both forms: the older one
// (/api, /apis, /apis/GROUP, /apis/GROUP/VERSION) and the aggregated one (apidiscovery.k8s.io v2 and v2beta1, negotiated on
// /api and /apis, with an ETag).
//
// Documents are made from the rows once, whenever Set is called, and are served as bytes from then on. Set may be called at
// any time, from any goroutine: a request sees either the old or the new state as a whole.
package discovery
