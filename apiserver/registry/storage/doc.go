// Package storage holds the rows of storage.k8s.io: StorageClass and VolumeAttributesClass, which claims choose by name;
// VolumeAttachment; and CSIDriver, CSINode and CSIStorageCapacity, by which storage drivers say what they can do.
//
// Behaviour follows pkg/apis/storage and pkg/registry/storage of Kubernetes, with the feature gates of 1.36 at their
// defaults. Everything here is a pure function of the objects handed in and starts nothing.
package storage
