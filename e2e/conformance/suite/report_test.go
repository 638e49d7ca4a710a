package suite

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"

	"github.com/mini-k8s/mini/e2e/conformance/result"
)

var unfit = regexp.MustCompile(`[^A-Za-z0-9]+`)

// reportResults tells each result to the socket that the environment names. It must be called after the framework has read
// its flags: until then it only rehearses, with nodes that it throws away, and everything passes.
func reportResults() {
	if socket := os.Getenv(result.Env); socket != "" {
		ginkgo.ReportAfterEach(func(r ginkgo.SpecReport) { report(socket, r) })
	}
}

func report(socket string, r ginkgo.SpecReport) {
	if r.LeafNodeType != types.NodeTypeIt || r.State.Is(types.SpecStatePending) ||
		(r.State.Is(types.SpecStateSkipped) && r.Failure.Message == "") {
		return // not chosen
	}
	out := result.Result{Name: r.FullText(), Passed: r.State.Is(types.SpecStatePassed), Skipped: r.State.Is(types.SpecStateSkipped),
		Took: r.RunTime, Failure: r.Failure.Message}
	if dir := os.Getenv(result.LogsEnv); dir != "" && !out.Passed && !out.Skipped {
		out.Log = writeLog(dir, r)
	}
	if err := result.Send(socket, out); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// writeLog keeps what a failed test wrote, and returns the file's name.
func writeLog(dir string, r ginkgo.SpecReport) string {
	name := unfit.ReplaceAllString(r.FullText(), "-")
	if len(name) > 150 {
		name = name[:150]
	}
	path := filepath.Join(dir, name+".log")
	text := fmt.Sprintf("%s\n%s after %s at %s\n\n%s\n\n%s\n", r.FullText(), r.State, r.RunTime, r.Failure.Location, r.Failure.Message,
		r.CapturedGinkgoWriterOutput)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return ""
	}
	return path
}
