// Package rbac holds the rows of rbac.authorization.k8s.io: Roles, ClusterRoles and their bindings.
//
// Names here are any path segment ("system:node"), a binding's roleRef never changes, and all four kinds may be created
// by PUT. Behaviour follows pkg/apis/rbac and pkg/registry/rbac of Kubernetes; that nobody grants more than they have
// is for admission to check. Everything here is a pure function of the objects handed in and starts nothing.
package rbac
