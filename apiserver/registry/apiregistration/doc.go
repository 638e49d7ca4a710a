// Package apiregistration holds the row of apiregistration.k8s.io: APIService, who serves a group and version.
//
// Behaviour follows pkg/apis/apiregistration and pkg/registry of k8s.io/kube-aggregator, whose types it uses. Local makes the
// objects that stand for what the server itself serves. Everything here is a pure function of the objects handed in and
// starts nothing; requests are not proxied to other servers.
package apiregistration
