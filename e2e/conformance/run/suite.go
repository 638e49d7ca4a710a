package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mini-k8s/mini/e2e/conformance/catalog"
	"github.com/mini-k8s/mini/e2e/conformance/result"
)

// runTests runs the tests and adds each result to the report: those that may share the cluster first. An error says that
// the suite itself could not run, not that tests failed.
func runTests(ctx context.Context, o options, kubeconfig string, chosen []catalog.Test, r *report) error {
	serial := slices.DeleteFunc(slices.Clone(chosen), func(t catalog.Test) bool { return !t.Serial() })
	parallel := slices.DeleteFunc(slices.Clone(chosen), catalog.Test.Serial)
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	if err := runPart(ctx, o, kubeconfig, "parallel", o.procs, parallel, r); err != nil {
		return err
	}
	return runPart(ctx, o, kubeconfig, "serial", 1, serial, r)
}

func runPart(ctx context.Context, o options, kubeconfig, name string, procs int, chosen []catalog.Test, r *report) (err error) {
	if len(chosen) == 0 {
		return nil
	}
	dir, err := os.MkdirTemp("", "mini-conformance-") // a socket's path has to be short
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "results")
	listener, err := result.Listen(socket)
	if err != nil {
		return err
	}
	received := make(chan struct{})
	go func() {
		defer close(received)
		listener.Receive(r.add)
	}()
	defer func() {
		listener.Close()
		<-received
	}()
	logPath := filepath.Join(o.out, "ginkgo-"+name+".log")
	log, err := os.Create(logPath)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()

	cmd := exec.CommandContext(ctx, filepath.Join(o.bin, "ginkgo"), arguments(o, kubeconfig, name, procs, chosen)...)
	cmd.Dir = dir // ginkgo holds its version against that of a module around it
	cmd.Env = append(os.Environ(), result.Env+"="+socket, result.LogsEnv+"="+filepath.Join(o.out, "failed"), "KUBECONFIG="+kubeconfig)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // ginkgo ends its processes
	cmd.WaitDelay = time.Minute
	before := r.seen()
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("the tests were ended: %w", context.Cause(ctx))
	case errors.As(err, &exit) && r.seen() > before:
		return nil // tests failed, which the report says
	case err != nil:
		return fmt.Errorf("the suite did not run; see %s: %w", logPath, err)
	}
	return nil
}

// arguments are ginkgo's and, after the dashes, the test binary's.
func arguments(o options, kubeconfig, name string, procs int, chosen []catalog.Test) []string {
	var names []string
	for _, t := range chosen {
		names = append(names, regexp.QuoteMeta(t.Name))
	}
	return []string{
		"--procs=" + strconv.Itoa(procs), "--focus=" + strings.Join(names, "|"), "--no-color", "--silence-skips",
		"--timeout=" + o.timeout.String(), "--junit-report=" + "junit-" + name + ".xml", "--output-dir=" + o.out,
		filepath.Join(o.bin, "e2e.test"), "--",
		"--kubeconfig=" + kubeconfig, "--provider=skeleton", "--kubectl-path=" + filepath.Join(o.bin, "kubectl"),
		"--num-nodes=" + strconv.Itoa(o.agents+1), "--dns-domain=cluster.local", "--disable-log-dump=true",
		"--max-nodes-to-gather-from=0",
	}
}
