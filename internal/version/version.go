// Package version says which mini this is and which Kubernetes API level it serves.
package version

import (
	"runtime"

	apimachinery "k8s.io/apimachinery/pkg/version"
)

// Mini is mini's own version; the release build sets it with -ldflags -X.
var Mini = "0.1.0-dev"

// Kubernetes is the API level that mini serves, as the conformance suite of that release proves it.
const Kubernetes = "v1.36.3"

// GitVersion is the version clients see: the Kubernetes level with mini's own version as the build part, which semver
// comparisons ignore.
func GitVersion() string { return Kubernetes + "+mini." + Mini }

// Info is the answer to GET /version.
func Info() apimachinery.Info {
	return apimachinery.Info{
		Major:        "1",
		Minor:        "36",
		GitVersion:   GitVersion(),
		GitCommit:    "",
		GitTreeState: "clean",
		BuildDate:    "1970-01-01T00:00:00Z",
		GoVersion:    runtime.Version(),
		Compiler:     runtime.Compiler,
		Platform:     runtime.GOOS + "/" + runtime.GOARCH,
	}
}
