// Package apps holds the rows of the apps group: Deployments, ReplicaSets, StatefulSets, DaemonSets and ControllerRevisions.
//
// Behaviour follows pkg/apis/apps and pkg/registry/apps of Kubernetes; the pod template's defaults and validation are
// those of package core. Selectors are immutable, a change of the spec counts in metadata.generation, and status is only
// written through its subresource. Everything here is a pure function of the objects handed in and starts nothing.
package apps
