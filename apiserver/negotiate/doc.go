// Package negotiate reads what a client accepts: the Accept header with Kubernetes's parameters (as, v, g, stream), the
// pretty query parameter, and Accept-Encoding.
//
// Clauses are tried by falling quality, then in the order they stand, and the first that the caller can serve wins; a client
// such as kubectl sends "application/json;as=Table;v=v1;g=meta.k8s.io,application/json" to get a table where there is one and
// the object elsewhere. No header accepts anything and gets JSON. It makes no answers itself.
package negotiate
