// SPDX-License-Identifier: Apache-2.0

// Package container runs a node's pods' sandboxes and containers on containerd and keeps its images.
//
// It owns containerd (inside this process, or one that runs already), the sandboxes' network namespaces, shared memory
// and pause processes, the containers' root file systems and log files, and the image store. It does not decide anything:
// what shall run, when to restart and what to pull is the pod layer's business, as are volumes and the pods' cgroups.
//
// A pod is a sandbox (pause holds its IPC, UTS and, where asked for, PID namespace) and its containers, all in one shim.
// Shim, runc, pause and the log writers are small programs of package helpers. None of them is a child whose life hangs on
// ours: when this process ends, by whatever means, containers run on and their output is still logged. On the next start
// everything is adopted under the same ids; what was half made is taken away (see recover).
//
// The truth is in containerd's namespace k8s.io, under the labels that CRI uses; what we must remember besides (exit codes,
// times, restart counts) is an extension of the same records. In memory is a copy of it, kept up to date by containerd's
// events and never by polling. Nothing is decided from files of our own.
//
// How containerd stores that is told at type stores: without waiting for the disk, which is most of what a pod costs on a
// busy machine, and with copies that let the images survive a power failure.
//
// Below DataDir/agent/containerd:
//
//	root/     containerd's: content, snapshots, metadata
//	state/    a tmpfs while anything runs: containerd's bundles; runc/ is runc's
//	s/        sockets: containerd.sock, .ttrpc for the shims' events, one per shim, log-ID of each log writer.
//	          A path that would be too long for a socket is reached by a link in /run/mini.
//	netns/    a bind mount per sandbox;  shm/ a tmpfs per sandbox;  fifo/ pipes of containers with stdin
//	volumes/  SANDBOX/ID, a mount of each image that the containers of a sandbox have as a volume
//	mounts/   of images, for as long as they are unpacked or their users are read
//
// The container's life: CreateContainer stores the record, then makes the snapshot it names; StartContainer has the shim
// mount it, start runc and a log writer. When the first process ends, its log is brought to an end, the exit is published
// and stored, and only then the task is deleted in the shim, in the background; RemoveContainer waits for that.
// Each step has its undo, with a context of its own, and each of Stop and Remove may be repeated at any time.
//
// Run owns one goroutine that follows containerd's events, one that cleans up where that failed at first, and one per exit
// while it is dealt with. A reader of Events has one until its context ends. Exec, Attach and PortForward have theirs while
// they last. containerd itself adds its garbage collector and two per shim.
package container
