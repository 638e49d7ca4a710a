// SPDX-License-Identifier: Apache-2.0

// Package runtimetest holds a runtime and an image store that live in memory and behave: containers have states, exit when
// told to, are killed after their grace, and everything can be made to fail at the n-th call. Tests of the pod layer run
// on it. It starts one goroutine per Events call and one per running StopContainer, and keeps no state outside itself, so a
// second kubelet can be started on the same Runtime to test recovery.
package runtimetest
