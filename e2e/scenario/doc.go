// Package scenario gives end-to-end tests clusters of their own and the means to drive them: kubectl, client-go, commands
// inside a node's network.
//
// Main wraps a package's tests. It builds the test image, and it closes the ranges that the clusters use for the machine's own
// network namespace by blackhole routes, so that a mistake in a test can never send a packet to somebody else's network.
//
// A test that fails leaves in e2e/out/TEST: every node's log, its links, routes, rules and mounts, and the API objects, and it
// says so. MINI_E2E_KEEP=1 keeps the cluster itself as well. Afterwards the machine must be as it was: what is left of mounts,
// cgroups, processes or links of the cluster fails the test.
package scenario
