// Package discovery holds the row of EndpointSlices, the parts in which the addresses behind a Service are kept.
//
// Behaviour follows pkg/apis/discovery and pkg/registry/discovery of Kubernetes: a slice has one address type for life,
// at most 1000 endpoints of at most 100 addresses, and counts changes of its content in metadata.generation. Everything
// here is a pure function of the objects handed in and starts nothing.
package discovery
