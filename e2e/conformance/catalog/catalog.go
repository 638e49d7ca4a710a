// Package catalog lists the conformance tests of the pinned Kubernetes version, each with the group of abilities it belongs
// to and the milestone that turns it on. The lists are tests.tsv and groups.tsv; the package's test holds them against the
// list that upstream publishes.
package catalog

import (
	_ "embed"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

//go:embed tests.tsv
var tests string

//go:embed groups.tsv
var groups string

// Test is one conformance test.
type Test struct {
	Group     string // G1 to G65
	Milestone string // M1 to M9
	Name      string // as upstream's conformance.yaml and the test binary have it
}

// Serial tells tests that must have the cluster for themselves.
func (t Test) Serial() bool { return strings.Contains(t.Name, "[Serial]") }

// Tests returns all tests, by group.
func Tests() []Test {
	var all []Test
	for line := range strings.Lines(tests) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), "\t", 3)
		all = append(all, Test{Group: f[0], Milestone: f[1], Name: f[2]})
	}
	return all
}

// Group is a group of abilities that tests share.
type Group struct{ Name, Title string }

// Groups returns the groups in their order.
func Groups() []Group {
	var all []Group
	for line := range strings.Lines(groups) {
		name, title, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		all = append(all, Group{Name: name, Title: title})
	}
	return all
}

// Selection chooses tests: those of any of the milestones, any of the groups and with a name that matches Focus and not
// Skip. What is empty does not restrict.
type Selection struct {
	Milestones, Groups []string
	Focus, Skip        *regexp.Regexp
}

// Of returns the chosen ones of all tests. Names that nothing has are an error: a misspelt group must not pass for one
// without failures.
func (s Selection) Of(all []Test) ([]Test, error) {
	for _, m := range s.Milestones {
		if !slices.ContainsFunc(all, func(t Test) bool { return t.Milestone == m }) {
			return nil, fmt.Errorf("no milestone %q: there are M1 to M9", m)
		}
	}
	for _, g := range s.Groups {
		if !slices.ContainsFunc(all, func(t Test) bool { return t.Group == g }) {
			return nil, fmt.Errorf("no group %q: there are G1 to G65", g)
		}
	}
	var chosen []Test
	for _, t := range all {
		if (len(s.Milestones) == 0 || slices.Contains(s.Milestones, t.Milestone)) &&
			(len(s.Groups) == 0 || slices.Contains(s.Groups, t.Group)) &&
			(s.Focus == nil || s.Focus.MatchString(t.Name)) && (s.Skip == nil || !s.Skip.MatchString(t.Name)) {
			chosen = append(chosen, t)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no conformance test is chosen by milestones %v, groups %v and the focus", s.Milestones, s.Groups)
	}
	return chosen, nil
}
