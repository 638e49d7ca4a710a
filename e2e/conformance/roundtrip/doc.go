// Package roundtrip holds what mini writes to etcd against kube-apiserver's own storage codecs, kind by kind.
//
// Everything is in its tests. One side is command e2e/stored of the main module, which encodes and decodes with mini's
// rows: the two modules cannot share a process, as they need different versions of the API's types. The other side is
// built as kube-apiserver builds it: the storage factory with its overrides and the types of all groups, the JSON of the
// aggregator and of CustomResourceDefinitions, and the codec of custom resources.
//
// For every kind, in both directions: the etcd key, the stored version and media type, the object as it is served
// afterwards, and the very bytes that the reader would write back. Fields that only one of the two releases has are listed
// by name, and so cannot come or go unseen.
package roundtrip
