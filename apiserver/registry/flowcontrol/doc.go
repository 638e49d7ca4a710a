// Package flowcontrol holds the rows of flowcontrol.apiserver.k8s.io: FlowSchema, which sorts requests into priority
// levels, and PriorityLevelConfiguration, which says how many of a level are served at once.
//
// Behaviour follows pkg/apis/flowcontrol and pkg/registry/flowcontrol of Kubernetes. Everything here is a pure function of
// the objects handed in and starts nothing. The objects that every cluster has are upstream's
// (k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap); the server makes them and keeps the mandatory ones.
package flowcontrol
