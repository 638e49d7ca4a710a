// SPDX-License-Identifier: Apache-2.0

// Package eviction decides which pod a node that runs out of memory, disk, inodes or process IDs gives up, and says so in the words that
// users know from upstream (pkg/kubelet/eviction). It is pure: a reading of the node and of what its pods use goes in, the
// conditions of the node and at most one pod to evict come out. It reads nothing, keeps no clock and starts no goroutines.
//
// Order, as upstream's: first those that use more than they asked for, then by priority from the lowest, then by how far what
// they use goes beyond what they asked for. Static pods and those of a system-critical priority are never given up.
package eviction
