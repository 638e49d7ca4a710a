// Package scheduling holds the row of scheduling.k8s.io: PriorityClass, a name for a pod's priority.
//
// Behaviour follows pkg/apis/scheduling and pkg/registry/scheduling of Kubernetes. Everything here is a pure function of
// the objects handed in and starts nothing; the classes that every cluster has (System) are made by the server.
package scheduling
