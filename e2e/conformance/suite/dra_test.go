//go:build !nodra

package suite

// The tests of dynamic resource allocation link a whole kube-apiserver, which is half of the build: four conformance tests
// (G11) that a build with the tag nodra does without.
import _ "k8s.io/kubernetes/test/e2e/dra"
