// Package policy holds the row of the policy group: PodDisruptionBudgets. Evictions, which spend them, are a subresource of
// pods (package core).
//
// Behaviour follows pkg/apis/policy and pkg/registry/policy of Kubernetes. Everything here is a pure function of the objects
// handed in and starts nothing.
package policy
