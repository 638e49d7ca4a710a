package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/mini-k8s/mini/e2e/conformance/catalog"
	"github.com/mini-k8s/mini/e2e/conformance/result"
)

// failureLines is how much of a failure's message the report shows; the test's log has all of it.
const failureLines = 6

// report collects what became of the chosen tests.
type report struct {
	chosen []catalog.Test
	begin  time.Time

	mu      sync.Mutex
	results map[string]result.Result
}

func newReport(chosen []catalog.Test, begin time.Time) *report {
	return &report{chosen: chosen, begin: begin, results: map[string]result.Result{}}
}

// add takes a result and shows it.
func (r *report) add(res result.Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.results[res.Name] = res
	group := "-"
	for _, t := range r.chosen {
		if t.Name == res.Name {
			group = t.Group
		}
	}
	verdict := "FAIL"
	if res.Passed {
		verdict = "ok"
	} else if res.Skipped {
		verdict = "skip"
	}
	fmt.Printf("%4d/%d %6s %-4s %7.1fs %-4s %s\n", len(r.results), len(r.chosen), time.Since(r.begin).Round(time.Second), verdict, res.Took.Seconds(), group, res.Name)
}

func (r *report) seen() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.results)
}

// count is a line of the table.
type count struct{ passed, failed, notRun int }

func (c *count) add(res result.Result, ran bool) {
	switch {
	case !ran || res.Skipped:
		c.notRun++
	case res.Passed:
		c.passed++
	default:
		c.failed++
	}
}

func (c count) total() int { return c.passed + c.failed + c.notRun }

func (r *report) notPassed() int {
	c := r.counts(func(catalog.Test) string { return "" })[""]
	return c.failed + c.notRun
}

// counts adds the tests up by what key says of each.
func (r *report) counts(key func(catalog.Test) string) map[string]count {
	r.mu.Lock()
	defer r.mu.Unlock()
	sums := map[string]count{}
	for _, t := range r.chosen {
		c := sums[key(t)]
		res, ran := r.results[t.Name]
		c.add(res, ran)
		sums[key(t)] = c
	}
	return sums
}

// text is the report for people, in markdown.
func (r *report) text() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 1, ' ', 0)
	line := func(c count, name, title string) {
		fmt.Fprintf(w, "| %s\t| %d\t| %d\t| %d\t| %s\t|\n", name, c.passed, c.failed, c.notRun, title)
	}
	fmt.Fprint(w, "| group\t| passed\t| failed\t| not run\t| what\t|\n|---\t|---\t|---\t|---\t|---\t|\n")
	byGroup := r.counts(func(t catalog.Test) string { return t.Group })
	for _, g := range catalog.Groups() {
		if c, ok := byGroup[g.Name]; ok {
			line(c, g.Name, g.Title)
		}
	}
	byMilestone := r.counts(func(t catalog.Test) string { return t.Milestone })
	for i := range 9 {
		m := fmt.Sprintf("M%d", i+1)
		if c, ok := byMilestone[m]; ok {
			line(c, m, fmt.Sprintf("%d tests of the milestone", c.total()))
		}
	}
	all := r.counts(func(catalog.Test) string { return "" })[""]
	line(all, "all", fmt.Sprintf("%d tests, %s", all.total(), time.Since(r.begin).Round(time.Second)))
	w.Flush()
	r.failures(&b)
	return b.String()
}

// failures lists what did not pass, with the first lines of why.
func (r *report) failures(b *strings.Builder) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.chosen {
		res, ran := r.results[t.Name]
		switch {
		case !ran:
			fmt.Fprintf(b, "\n%s %s\n    not run\n", t.Group, t.Name)
		case !res.Passed:
			fmt.Fprintf(b, "\n%s %s\n", t.Group, t.Name)
			if res.Skipped {
				fmt.Fprintln(b, "    skipped by the test")
			}
			for _, l := range firstLines(res.Failure) {
				fmt.Fprintf(b, "    %s\n", l)
			}
		}
	}
}

// firstLines are the first lines with text, none too long to read.
func firstLines(s string) []string {
	var lines []string
	for l := range strings.Lines(s) {
		if l = strings.TrimSpace(l); l == "" {
			continue
		}
		if len(l) > 300 {
			l = l[:300] + " …"
		}
		if lines = append(lines, l); len(lines) == failureLines {
			break
		}
	}
	return lines
}

// writeJSON writes the results for programs.
func (r *report) writeJSON(path string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, err := json.MarshalIndent(r.results, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}
