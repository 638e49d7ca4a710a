// SPDX-License-Identifier: Apache-2.0

// Package probe asks containers how they are: startup, liveness and readiness, by command, HTTP, TCP or gRPC.
//
// One Scheduler serves a node. It keeps what is due in a heap with one timer, and runs each probe in a goroutine that lives
// only for that probe; a node without probes has no timer at all. A verdict is told once, when it changes: after
// successThreshold or failureThreshold results in a row. A liveness or startup probe that gave up is told once and
// then rests until its container is replaced. Liveness and readiness wait for the startup probe.
//
// Probes that connect do so from the process's own network namespace, the node's.
package probe
