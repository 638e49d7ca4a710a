// Package resource holds the rows of resource.k8s.io, dynamic resource allocation (KEP-4381): DeviceClass, ResourceClaim,
// ResourceClaimTemplate and ResourceSlice.
//
// Behaviour follows pkg/apis/resource and pkg/registry/resource of Kubernetes, with the feature gates of 1.36 at their
// defaults; selectors are compiled by upstream's compiler (k8s.io/dynamic-resource-allocation/cel). Everything here is a
// function of the objects handed in, except that a claim for admin access asks for its namespace. Nothing allocates devices:
// that would be the scheduler's.
package resource
