package proxy

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
)

// fanOut is how many rules a chain of a tree may hold before it is divided: every level looks at four bits of the key.
const (
	fanOut    = 16
	levelBits = 4
)

// tree lays bindings out as chains, so that few rules are passed on the way to any of them: a chain holds the rules
// themselves while they are few, or else jumps to chains for the parts of its range.
type tree struct {
	width int                               // bits of a key
	name  func(prefix uint32, n int) string // of the chain for the keys that begin with these n bits
	match func(lo, hi uint32, n int) string // of a rule for the keys from lo to hi, which share n bits
	out   map[string][]string               // where the chains go
}

// add lays bindings, sorted by key, out below the chain root. What root held stays in front.
func (t *tree) add(root string, bindings []binding) {
	total := 0
	for _, b := range bindings {
		total += len(b.Rules)
	}
	if total <= fanOut || bindings[0].Key == bindings[len(bindings)-1].Key {
		for _, b := range bindings {
			t.out[root] = append(t.out[root], b.Rules...)
		}
		return
	}
	// Levels that would not divide anything are left out.
	first, last := bindings[0].Key, bindings[len(bindings)-1].Key
	common := bits.LeadingZeros32((first^last)<<(32-t.width)) / levelBits * levelBits
	depth := common + levelBits
	shift := t.width - depth
	for len(bindings) > 0 {
		prefix := bindings[0].Key >> shift
		n, rules := 0, 0
		for n < len(bindings) && bindings[n].Key>>shift == prefix {
			rules += len(bindings[n].Rules)
			n++
		}
		part := bindings[:n]
		bindings = bindings[n:]
		if rules == 1 {
			t.out[root] = append(t.out[root], part[0].Rules...)
			continue
		}
		chain := t.name(prefix, depth)
		lo := prefix << shift
		t.out[root] = append(t.out[root], t.match(lo, lo|(1<<shift-1), depth)+" -j "+chain)
		t.add(chain, part)
	}
}

// addrTree makes chains for addresses; infix tells the trees of one table apart.
func addrTree(out map[string][]string, infix string) *tree {
	return &tree{
		width: 32, out: out,
		name: func(prefix uint32, n int) string { return fmt.Sprintf("%s%s%0*X", chainPrefix, infix, n/4, prefix) },
		match: func(lo, _ uint32, n int) string {
			var b [4]byte
			binary.BigEndian.PutUint32(b[:], lo)
			return "-d " + netip.PrefixFrom(netip.AddrFrom4(b), n).String()
		},
	}
}

// portTree makes chains for the ports of one protocol.
func portTree(out map[string][]string, infix, proto string) *tree {
	return &tree{
		width: 16, out: out,
		name: func(prefix uint32, n int) string { return fmt.Sprintf("%s%s%0*X", chainPrefix, infix, n/4, prefix) },
		match: func(lo, hi uint32, _ int) string {
			if lo == hi {
				return fmt.Sprintf("-p %s -m %s --dport %d", proto, proto, lo)
			}
			return fmt.Sprintf("-p %s -m %s --dport %d:%d", proto, proto, lo, hi)
		},
	}
}

// sorted orders bindings by key, and those of one key by their rules: the rule set must not depend on the order in which
// Services are visited. Where two Services claim one address and port, the same one wins everywhere.
func sorted(bindings []binding) []binding {
	slices.SortFunc(bindings, func(a, b binding) int {
		if a.Key != b.Key {
			if a.Key < b.Key {
				return -1
			}
			return 1
		}
		return slices.Compare(a.Rules, b.Rules)
	})
	return bindings
}
