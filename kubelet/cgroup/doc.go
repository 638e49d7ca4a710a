// SPDX-License-Identifier: Apache-2.0

// Package cgroup keeps the cgroups of a node's pods: where they lie, what they may use, what they use, and that they go.
//
// The layout is upstream's with the cgroupfs driver, below a root of the node's own, so that several nodes fit on one
// machine:
//
//	ROOT/kubepods/podUID                Guaranteed
//	ROOT/kubepods/burstable/podUID      Burstable
//	ROOT/kubepods/besteffort/podUID     BestEffort
//
// runc makes each container's own cgroup below the pod's. The rules for the limits are upstream's pkg/kubelet/cm
// (helpers_linux.go, qos_container_manager_linux.go): a pod has the CPU shares of its requests, and a hard limit on CPU or
// memory only if all its containers have one; the Burstable pods together weigh as much as they request, the BestEffort
// pods together next to nothing.
//
// cgroup v1 and v2 are two implementations of one small interface, told apart by what is mounted. With v1 only the
// controllers that are limited or read get a cgroup from here; runc makes the rest, and all of them are removed.
//
// Removal kills what is still inside and waits for it by pidfd. Everything may be repeated; what is gone already is no
// error. What was set is remembered, so that a pod that did not change costs no system call. The package starts no
// goroutine.
package cgroup
