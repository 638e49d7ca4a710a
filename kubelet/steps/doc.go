// SPDX-License-Identifier: Apache-2.0

// Package steps notes where the time of something goes that is done in several steps by several packages, such as the start
// of a pod. Who begins it puts a Record into the context; who does a step of it says so:
//
//	defer steps.Begin(ctx, "network")()
//
// Without a Record in the context that costs a look into the context and nothing else. Steps may overlap and may be nested.
// Nothing here logs, measures for metrics or decides: that is for whoever owns the Record.
//
// The package starts no goroutine and keeps nothing outside of its Records. A Record holds at most some hundred steps, so that
// something which never comes to its end, such as a pod whose image is nowhere to be had, does not grow.
package steps
