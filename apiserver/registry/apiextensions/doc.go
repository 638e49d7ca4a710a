// Package apiextensions describes CustomResourceDefinitions: one row of package registry.
//
// Defaults, validation (structural schemas, CEL rules and what they may cost, names, versions) and the messages are those of
// k8s.io/apiextensions-apiserver, whose types and validation this package uses. What a definition defines is made and
// served by package customresource, which also writes the conditions in its status; here the row only sees to it that a
// deleted definition stays until its objects are gone (the finalizer customresourcecleanup.apiextensions.k8s.io).
//
// In etcd a definition is JSON of version v1beta1, as upstream keeps it; v1 is read as well.
package apiextensions
