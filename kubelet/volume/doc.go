// SPDX-License-Identifier: Apache-2.0

// Package volume makes the volumes of this node's pods and takes them away again: emptyDir, hostPath, configMap, secret,
// downwardAPI, projected with its ServiceAccount token, and claims that are bound to local or hostPath volumes, local block devices
// included. Of image
// volumes it only says which image to mount: pulling and mounting images is the runtime's.
//
// Layout, as upstream's so that habits and tools fit:
//
//	DIR/POD-UID/volumes/kubernetes.io~TYPE/NAME      the volume; a tmpfs for Secrets and emptyDir medium Memory
//	DIR/POD-UID/volume-subpaths/NAME/CONTAINER/I     a bind mount of one subPath
//
// Whatever holds objects is written by one atomic writer: a timestamped directory, and the symlink ..data that names it. A
// reader sees the old content or the new, never a mix, and a crash between any two steps leaves a volume that
// the next write repairs. Setup may be repeated at any time; Teardown works on whatever half of a pod exists.
//
// A subPath is resolved by the kernel inside the volume (openat2 with RESOLVE_IN_ROOT) and mounted by its file descriptor, so no
// symlink that a container plants can lead outside.
//
// The package starts no goroutines. When something must be renewed later (a token), Setup says when.
package volume
