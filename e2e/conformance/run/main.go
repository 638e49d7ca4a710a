package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/mini-k8s/mini/e2e/conformance/catalog"
)

// options are what the flags say.
type options struct {
	bin, mini, images, out string
	cluster                string
	agents, procs          int
	keep                   bool
	timeout                time.Duration
	kubeconfig             string // of a cluster that is there; none is made then
	selection              catalog.Selection
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	chosen, err := o.selection.Of(catalog.Tests())
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(o.out), os.MkdirAll(filepath.Join(o.out, "failed"), 0o755)); err != nil {
		return err
	}
	r := newReport(chosen, time.Now())
	fmt.Printf("%d tests, %d at a time; logs in %s\n", len(chosen), o.procs, o.out)
	runErr := withCluster(ctx, o, func(kubeconfig string) error { return runTests(ctx, o, kubeconfig, chosen, r) })
	text := r.text()
	fmt.Print("\n", text)
	if err := errors.Join(os.WriteFile(filepath.Join(o.out, "report.md"), []byte(text), 0o644), r.writeJSON(filepath.Join(o.out, "results.json"))); err != nil {
		return errors.Join(runErr, err)
	}
	if runErr != nil {
		return runErr
	}
	if n := r.notPassed(); n > 0 {
		return fmt.Errorf("%d of %d tests did not pass", n, len(chosen))
	}
	return nil
}

func parse(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("conformance", flag.ContinueOnError)
	milestone := fs.String("milestone", "", "milestones to run, such as M1 or M1,M2")
	group := fs.String("group", "", "groups to run, such as G2 or G2,G3")
	focus := fs.String("focus", "", "only conformance tests whose name matches the regular expression")
	skip := fs.String("skip", "", "no test whose name matches the regular expression")
	fs.StringVar(&o.bin, "bin", "bin/conformance", "folder with e2e.test, ginkgo and kubectl")
	fs.StringVar(&o.mini, "mini", "bin/mini", "the mini to test")
	fs.StringVar(&o.images, "images", "bin/images/conformance.tar", "archive of the tests' images")
	fs.StringVar(&o.out, "out", "", "folder for logs and report, emptied first (default BIN/out/SELECTION)")
	fs.StringVar(&o.cluster, "cluster", "conformance", "name of the throwaway cluster")
	fs.IntVar(&o.agents, "agents", 2, "nodes beside the server")
	fs.IntVar(&o.procs, "procs", 4, "tests at a time")
	fs.BoolVar(&o.keep, "keep", false, "keep the cluster, for a look at it")
	fs.DurationVar(&o.timeout, "timeout", 3*time.Hour, "end the tests after this time")
	fs.StringVar(&o.kubeconfig, "kubeconfig", "", "test this cluster instead of a new one")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	o.selection.Milestones, o.selection.Groups = list(*milestone), list(*group)
	var err error
	if o.selection.Focus, err = expression(*focus); err != nil {
		return o, fmt.Errorf("-focus: %w", err)
	}
	if o.selection.Skip, err = expression(*skip); err != nil {
		return o, fmt.Errorf("-skip: %w", err)
	}
	if o.out == "" {
		name := strings.Join(append(list(*milestone), list(*group)...), "-")
		if *focus != "" {
			name = strings.Trim(name+"-focus", "-")
		}
		o.out = filepath.Join(o.bin, "out", cmp.Or(name, "all"))
	}
	for _, p := range []*string{&o.bin, &o.mini, &o.images, &o.out} {
		if *p, err = filepath.Abs(*p); err != nil {
			return o, err
		}
	}
	return o, nil
}

func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

func expression(s string) (*regexp.Regexp, error) {
	if s == "" {
		return nil, nil
	}
	return regexp.Compile(s)
}
