// Package core holds the rows of the core API group: Namespaces, Nodes, Pods, Services and what they use.
//
// Each kind has its defaults, validation, write strategy, selectable fields and kubectl columns here, one file (or a few
// with the kind's name as prefix) a kind. Behaviour follows pkg/apis/core, pkg/registry/core and pkg/printers of
// Kubernetes; messages are upstream's wherever a user sees them.
//
// Defaults and validation of the pod template are exported, because every workload kind embeds one. Everything here is
// a pure function of the objects handed in, with two exceptions: the allocators of cluster addresses and node ports, and
// the subresources that act on another object (binding, eviction). Those reach the store through registry.Deps, and the
// allocators' repair is the only thing that runs in the background, while Allocators.Run does.
package core
