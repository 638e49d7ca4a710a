// Package suite is the upstream end-to-end tests as one test binary: `go test -c` of this package. Package main of the
// folder run starts it against a cluster of mini's.
//
// Only the packages that hold conformance tests are linked, which halves the build; their other specs are in the binary
// too and can be chosen with a focus.
package suite
