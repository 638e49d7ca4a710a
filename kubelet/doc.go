// SPDX-License-Identifier: Apache-2.0

// Package kubelet runs the pods of one node: it starts what the API binds to the node, keeps it as its spec says, reports
// what happens, and answers logs, exec, attach and port-forward.
//
// Every pod is a state (podState) that is brought forward by events: a change in the API, an exit in the runtime, the end of
// an operation, a timer, a probe's verdict. Each event ends in the same step: plan, a pure function, compares what is wanted with
// what is there and names the next actions; each action runs in a goroutine of its own and reports back. A pod in
// which nothing happens owns no goroutine and no running timer. The status that the API should show is computed from the
// same state, and written only when it changed.
//
// Nothing that matters is kept on disk besides volumes and logs: after a restart, or kill -9, the state is read back from
// the runtime (recover.go) and the API, and what runs is taken over as it is.
//
// Static pods come from the files of a folder (static.go) and are shown in the API by mirror pods (mirror.go).
//
// Sub-packages: container and cgroup touch the machine; volume makes volumes; probe asks containers how they are; eviction
// decides what a node in need gives up; logs reads, follows and rotates container logs; object
// watches the Secrets and ConfigMaps that pods use.
//
// Kubelet does not decide where pods run, and never talks to anything but the API client, the runtime and the pods themselves.
// Run owns all goroutines and leaves the containers running when it returns.
package kubelet
