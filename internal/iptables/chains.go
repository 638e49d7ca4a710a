package iptables

import (
	"bytes"
	"maps"
	"slices"
	"sort"
)

// Chains are the wanted rules by table and chain, each rule as iptables-restore reads it, without the leading
// "-A CHAIN". A chain may be empty; a table without chains of ours is absent or empty.
type Chains map[string]map[string][]string

// Diff returns the input for iptables-restore --noflush that turns old into wanted, and how many chains it names.
// Only chains that differ are in it. Tables come in the order given by tables.
func Diff(old, wanted Chains, tables []string) ([]byte, int) {
	var out bytes.Buffer
	changed := 0
	for _, table := range tables {
		changed += diffTable(&out, table, old[table], wanted[table])
	}
	return out.Bytes(), changed
}

func diffTable(out *bytes.Buffer, table string, old, wanted map[string][]string) int {
	var set, gone []string
	for name, rules := range wanted {
		if before, ok := old[name]; !ok || !slices.Equal(before, rules) {
			set = append(set, name)
		}
	}
	for name := range old {
		if _, ok := wanted[name]; !ok {
			gone = append(gone, name)
		}
	}
	if len(set)+len(gone) == 0 {
		return 0
	}
	sort.Strings(set)
	sort.Strings(gone)
	out.WriteString("*" + table + "\n")
	// Naming a chain empties it, also one that is about to go: its rules may point to others that go too.
	for _, names := range [][]string{set, gone} {
		for _, name := range names {
			out.WriteString(":" + name + " - [0:0]\n")
		}
	}
	for _, name := range set {
		for _, rule := range wanted[name] {
			out.WriteString("-A " + name + " " + rule + "\n")
		}
	}
	for _, name := range gone {
		out.WriteString("-X " + name + "\n")
	}
	out.WriteString("COMMIT\n")
	return len(set) + len(gone)
}

// clone copies the maps, not the rules: a chain's rules are never changed in place.
func (c Chains) clone() Chains {
	out := make(Chains, len(c))
	for table, chains := range c {
		out[table] = maps.Clone(chains)
	}
	return out
}
