package catalog

import (
	"io/fs"
	"regexp"
	"strings"
	"testing"

	"k8s.io/kubernetes/test/conformance/testdata"
	"sigs.k8s.io/yaml"
)

// TestComplete holds the catalog against upstream's own list.
func TestComplete(t *testing.T) {
	files := testdata.GetConformanceTestdataFS()
	b, err := fs.ReadFile(files.EmbeddedFS, "conformance.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var upstream []struct {
		Codename string `json:"codename"`
	}
	if err := yaml.Unmarshal(b, &upstream); err != nil {
		t.Fatal(err)
	}
	all := Tests()
	if len(upstream) != 446 || len(all) != 446 {
		t.Errorf("upstream has %d tests and the catalog %d, want 446", len(upstream), len(all))
	}
	milestones, seen, known := map[string]int{}, map[string]bool{}, map[string]bool{}
	for _, g := range Groups() {
		known[g.Name] = true
	}
	if len(known) != 65 {
		t.Errorf("%d groups, want 65", len(known))
	}
	for _, c := range all {
		if seen[c.Name] {
			t.Errorf("%s is there twice", c.Name)
		}
		if !known[c.Group] {
			t.Errorf("%s is of a group %q that groups.tsv does not have", c.Name, c.Group)
		}
		seen[c.Name] = true
		milestones[c.Milestone]++
	}
	for _, u := range upstream {
		if name := strings.Join(strings.Fields(u.Codename), " "); !seen[name] {
			t.Errorf("%s is missing", name)
		}
	}
	for m, want := range map[string]int{"M1": 122, "M2": 83, "M3": 84, "M4": 67, "M5": 31, "M6": 16, "M7": 26, "M8": 10, "M9": 7} {
		if milestones[m] != want {
			t.Errorf("%s has %d tests, want %d", m, milestones[m], want)
		}
	}
}

func TestSelection(t *testing.T) {
	for _, c := range []struct {
		name  string
		s     Selection
		want  int
		wrong bool
	}{
		{name: "everything", want: 446},
		{name: "milestone", s: Selection{Milestones: []string{"M1"}}, want: 122},
		{name: "group", s: Selection{Groups: []string{"G2", "G3"}}, want: 7},
		{name: "both", s: Selection{Groups: []string{"G17"}, Milestones: []string{"M2"}}, want: 2},
		{name: "focus", s: Selection{Focus: regexp.MustCompile(`Watchers should`)}, want: 5},
		{name: "skip", s: Selection{Groups: []string{"G3"}, Skip: regexp.MustCompile(`\[Slow\]`)}, want: 1},
		{name: "misspelt group", s: Selection{Groups: []string{"g2"}}, wrong: true},
		{name: "misspelt milestone", s: Selection{Milestones: []string{"M10"}}, wrong: true},
		{name: "nothing left", s: Selection{Groups: []string{"G2"}, Milestones: []string{"M9"}}, wrong: true},
	} {
		got, err := c.s.Of(Tests())
		if len(got) != c.want || (err != nil) != c.wrong {
			t.Errorf("%s: %d tests and error %v, want %d tests", c.name, len(got), err, c.want)
		}
	}
	serial := 0
	for _, c := range Tests() {
		if c.Serial() {
			serial++
		}
	}
	if serial != 29 {
		t.Errorf("%d serial tests, want 29", serial)
	}
}
