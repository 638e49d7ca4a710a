// Package conformance is the root of a module of its own: upstream's conformance tests and what runs them against a cluster
// of mini's. The module pins k8s.io/kubernetes, which nothing outside of it may import.
//
//	catalog  the conformance tests with the group and the milestone of each
//	suite    upstream's tests as one test binary
//	result   how the suite tells what became of a test
//	run      the command behind `make conformance`
package conformance
