package iptables

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mini-k8s/mini/internal/netns/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

func TestDiff(t *testing.T) {
	tables := []string{"nat", "filter"}
	for _, tc := range []struct {
		name        string
		old, wanted Chains
		want        string
		changed     int
	}{
		{"nothing", nil, nil, "", 0},
		{"same", Chains{"nat": {"A": {"-j B"}}}, Chains{"nat": {"A": {"-j B"}}, "filter": {}}, "", 0},
		{"new", nil, Chains{"nat": {"B": nil, "A": {"-j B"}}}, "*nat\n:A - [0:0]\n:B - [0:0]\n-A A -j B\nCOMMIT\n", 2},
		{"one_of_two", Chains{"nat": {"A": {"-j B"}, "B": {"x"}}}, Chains{"nat": {"A": {"-j B"}, "B": {"y"}}}, "*nat\n:B - [0:0]\n-A B y\nCOMMIT\n", 1},
		// A chain that goes is emptied first: what it points to may go in the same breath.
		{"gone", Chains{"nat": {"A": {"-j B"}, "B": {"x"}}, "filter": {"C": nil}}, Chains{"nat": {"A": nil}},
			"*nat\n:A - [0:0]\n:B - [0:0]\n-X B\nCOMMIT\n*filter\n:C - [0:0]\n-X C\nCOMMIT\n", 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text, n := Diff(tc.old, tc.wanted, tables)
			if d := cmp.Diff(tc.want, string(text)); d != "" || n != tc.changed {
				t.Errorf("%d changed (-want +got):\n%s", n, d)
			}
		})
	}
}

func TestParseSave(t *testing.T) {
	got := parseSave("# made by\n*nat\n:PREROUTING ACCEPT [1:2]\n:X - [0:0]\n-A PREROUTING -j X\n-A X -d 1.2.3.4/32 -j DROP\n-A X -j Y\nCOMMIT\n")
	want := map[string][]string{"PREROUTING": {"-j X"}, "X": {"-d 1.2.3.4/32 -j DROP", "-j Y"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestFind(t *testing.T) {
	if _, err := Find("no-such-iptables"); !errors.Is(err, ErrNotInstalled) {
		t.Errorf("Find: %v", err)
	}
}

func TestTable(t *testing.T) {
	netnstest.NeedRoot(t)
	for _, name := range []string{"iptables-nft", "iptables-legacy"} {
		t.Run(name, func(t *testing.T) { testTable(t, name) })
	}
}

func testTable(t *testing.T, name string) {
	cmd, err := Find(name)
	if err != nil {
		t.Skip(err)
	}
	ctx := context.Background()
	run := func(args string) {
		t.Helper()
		if out, err := exec.Command(name, strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v: %s", name, args, err, out)
		}
	}
	rules := func(table, chain string) string {
		t.Helper()
		saved, err := cmd.Save(ctx, table)
		if err != nil {
			t.Fatal(err)
		}
		r, ok := saved[chain]
		if !ok {
			return "missing"
		}
		return strings.Join(r, "; ")
	}
	// What an earlier process left: a chain that is still wanted, with other rules, and one that is not.
	run("-N OWN-A")
	run("-A OWN-A -s 9.9.9.9 -j DROP")
	run("-N OWN-OLD")
	run("-A OWN-A -j OWN-OLD")
	run("-N OTHER-FIRST")
	run("-A FORWARD -j OTHER-FIRST")
	run("-A FORWARD -s 8.8.8.8 -j ACCEPT")
	table := NewTable(Config{Command: cmd, Prefix: "OWN-", Anchors: []Anchor{
		{Table: "filter", Chain: "INPUT", Rule: []string{"-m", "conntrack", "--ctstate", "NEW", "-j", "OWN-A"}},
		{Table: "filter", Chain: "FORWARD", Rule: []string{"-j", "OWN-A"}, Behind: "OTHER-"},
	}})
	if repaired, err := table.Verify(ctx); repaired || err != nil {
		t.Errorf("Verify before Set: %v, %v", repaired, err)
	}
	wanted := Chains{"filter": {"OWN-A": {"-s 1.2.3.4/32 -j OWN-B"}, "OWN-B": {"-p tcp -m tcp --dport 80 -j ACCEPT"}}}
	if n, err := table.Set(ctx, wanted); n != 3 || err != nil {
		t.Errorf("first Set: %d, %v", n, err)
	}
	if n, err := table.Set(ctx, wanted); n != 0 || err != nil {
		t.Errorf("second Set: %d, %v", n, err)
	}
	if got := rules("filter", "OWN-A") + " | " + rules("filter", "OWN-OLD"); got != "-s 1.2.3.4/32 -j OWN-B | missing" {
		t.Errorf("after Set: %s", got)
	}
	if got := rules("filter", "FORWARD"); got != "-j OTHER-FIRST; -j OWN-A; -s 8.8.8.8/32 -j ACCEPT" {
		t.Errorf("FORWARD: %s", got)
	}
	for _, damage := range []string{
		"-F OWN-A", "-R OWN-A 1 -s 4.3.2.1 -j OWN-B", "-D FORWARD -j OWN-A", "-F INPUT", "-A OWN-B -j DROP",
	} {
		// The first look only learns how iptables writes the rules.
		if repaired, err := table.Verify(ctx); repaired || err != nil {
			t.Errorf("Verify of sound rules: %v, %v", repaired, err)
		}
		run(damage)
		if repaired, err := table.Verify(ctx); !repaired || err != nil {
			t.Errorf("Verify after %s: %v, %v", damage, repaired, err)
		}
		if got := rules("filter", "OWN-A") + " | " + rules("filter", "OWN-B"); got != "-s 1.2.3.4/32 -j OWN-B | -p tcp -m tcp --dport 80 -j ACCEPT" {
			t.Errorf("after %s and repair: %s", damage, got)
		}
	}
	// A change that the kernel refuses leaves the old rules, and the next good one works.
	if _, err := table.Set(ctx, Chains{"filter": {"OWN-A": {"-s nonsense -j DROP"}}}); err == nil {
		t.Error("Set of a bad rule succeeds")
	}
	if got := rules("filter", "OWN-A"); got != "-s 1.2.3.4/32 -j OWN-B" {
		t.Errorf("after a refused change: %s", got)
	}
	run("-F OWN-A")
	if repaired, err := table.Verify(ctx); !repaired || err != nil || rules("filter", "OWN-A") != "-s 1.2.3.4/32 -j OWN-B" {
		t.Errorf("Verify after a refused change: %v, %v", repaired, err)
	}
	if _, err := table.Set(ctx, Chains{"filter": {"OWN-A": {"-s 5.5.5.5/32 -j DROP"}}}); err != nil {
		t.Error(err)
	}
	if got := rules("filter", "OWN-A") + " | " + rules("filter", "OWN-B"); got != "-s 5.5.5.5/32 -j DROP | missing" {
		t.Errorf("after the next change: %s", got)
	}
	for range 2 {
		if err := Clean(ctx, cmd, "OWN-", "filter", "nat"); err != nil {
			t.Error(err)
		}
	}
	if got := rules("filter", "FORWARD") + " | " + rules("filter", "INPUT") + " | " + rules("filter", "OWN-A"); got != "-j OTHER-FIRST; -s 8.8.8.8/32 -j ACCEPT |  | missing" {
		t.Errorf("after Clean: %s", got)
	}
}

// TestRunRepairs damages rules while Run watches.
func TestRunRepairs(t *testing.T) {
	netnstest.NeedRoot(t)
	cmd, err := Find("iptables-nft")
	if err != nil {
		t.Skip(err)
	}
	table := NewTable(Config{Command: cmd, Prefix: "OWN-", Anchors: []Anchor{{Table: "nat", Chain: "OUTPUT", Rule: []string{"-j", "OWN-A"}}}})
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	done := make(chan error, 1)
	go func() { done <- table.Run(ctx) }()
	if _, err := table.Set(ctx, Chains{"nat": {"OWN-A": {"-d 1.2.3.4/32 -j ACCEPT"}}}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if out, err := exec.Command("iptables-nft", "-t", "nat", "-F").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for {
		saved, err := cmd.Save(ctx, "nat")
		if err != nil {
			t.Fatal(err)
		}
		if len(saved["OWN-A"]) == 1 && len(saved["OUTPUT"]) == 1 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("the repair took %s", took)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := Clean(context.Background(), cmd, "OWN-", "nat"); err != nil {
		t.Error(err)
	}
}
