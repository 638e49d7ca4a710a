package main

import (
	"strings"
	"testing"
	"time"

	"github.com/mini-k8s/mini/e2e/conformance/catalog"
	"github.com/mini-k8s/mini/e2e/conformance/result"
)

func TestReport(t *testing.T) {
	chosen := []catalog.Test{
		{Group: "G1", Milestone: "M1", Name: "passes"}, {Group: "G2", Milestone: "M1", Name: "fails"},
		{Group: "G2", Milestone: "M2", Name: "skips"}, {Group: "G3", Milestone: "M2", Name: "dies"},
	}
	r := newReport(chosen, time.Now())
	r.add(result.Result{Name: "passes", Passed: true})
	r.add(result.Result{Name: "fails", Failure: "\n\nfirst\n\n second\n3\n4\n5\n6\n7\n"})
	r.add(result.Result{Name: "skips", Skipped: true, Failure: "no such node"})
	r.add(result.Result{Name: "of another selection", Passed: true})
	if got := r.notPassed(); got != 3 {
		t.Errorf("%d not passed, want 3", got)
	}
	if got, want := r.counts(func(t catalog.Test) string { return t.Group })["G2"], (count{failed: 1, notRun: 1}); got != want {
		t.Errorf("G2: %+v, want %+v", got, want)
	}
	text := r.text()
	for _, want := range []string{"| M1 ", "| all ", "G2 fails\n    first\n    second\n    3\n    4\n    5\n    6\n\n", "skipped by the test\n    no such node", "G3 dies\n    not run"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report has no %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "passes") {
		t.Error("the report lists what passed among the failures")
	}
}

func TestParse(t *testing.T) {
	o, err := parse([]string{"-milestone", "M1,M2", "-focus", "Watch", "-bin", "/b"})
	if err != nil {
		t.Fatal(err)
	}
	if o.out != "/b/out/M1-M2-focus" || len(o.selection.Milestones) != 2 || o.selection.Focus == nil || o.selection.Skip != nil {
		t.Errorf("got %+v", o)
	}
	for _, args := range [][]string{{"-focus", "("}, {"-skip", "["}, {"M1"}, {"-nothing"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%q passes", args)
		}
	}
}
