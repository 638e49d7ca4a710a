// Package node holds the row of node.k8s.io: RuntimeClass, a way of running containers that pods choose by name.
//
// Behaviour follows pkg/apis/node and pkg/registry/node of Kubernetes. Everything here is a pure function of the objects
// handed in and starts nothing.
package node
