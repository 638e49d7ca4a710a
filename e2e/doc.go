// Package e2e holds mini's end-to-end tests: each makes its own cluster of real nodes (package scenario), drives it with
// kubectl and client-go, and leaves the machine as it was.
package e2e
