// Package coordination holds the rows of coordination.k8s.io: Leases, by which nodes say that they are alive and
// controllers elect a leader.
//
// Behaviour follows pkg/apis/coordination and pkg/registry/coordination of Kubernetes. A Lease has no status and no
// defaults; it may be created by PUT. Everything here is a pure function of the objects handed in and starts nothing.
package coordination
