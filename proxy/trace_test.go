package proxy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/mini-k8s/mini/internal/iptables"
)

// packet is the first of a connection.
type packet struct {
	src, dst string
	proto    string
	port     int
}

// tracer follows a packet through rules as the kernel would, taking both ways where chance decides.
type tracer struct {
	t      interface{ Fatalf(string, ...any) }
	chains iptables.Chains
	local  []string // the node's addresses
	passed int      // rules looked at, on the longest way
}

// trace returns every way the packet can end, sorted: "10.42.0.2:80", with " masquerade" if its source changes,
// "REJECT", "DROP", or "pass" if nothing takes it.
func (tr *tracer) trace(p packet) string {
	out := map[string]bool{}
	tr.passed = 0
	for _, end := range tr.walk("nat", servicesChain, p, false, 0) {
		if end.target != "" {
			out[end.target+masqueraded(end.mark)] = true
			continue
		}
		for _, end := range tr.walk("filter", rejectChain, p, false, end.passed) {
			if end.target == "" {
				end.target = "pass"
			}
			out[end.target] = true
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(out)), ", ")
}

func masqueraded(mark bool) string {
	if mark {
		return " masquerade"
	}
	return ""
}

// end is how a walk through a chain ends; without target the packet returns to where it came from.
type end struct {
	target string
	mark   bool
	passed int
}

func (tr *tracer) walk(table, chain string, p packet, mark bool, passed int) []end {
	rules, ok := tr.chains[table][chain]
	if !ok {
		tr.t.Fatalf("a rule of %s leads to %s, which does not exist", table, chain)
	}
	live := []end{{mark: mark, passed: passed}}
	var done []end
	for _, rule := range rules {
		var next []end
		for _, e := range live {
			e.passed++
			tr.passed = max(tr.passed, e.passed)
			match, chance, target, arg := tr.match(rule, p)
			if !match || chance {
				next = append(next, e)
			}
			if !match {
				continue
			}
			switch target {
			case "MARK":
				e.mark = true
				next = append(next, e)
			case "RETURN":
				done = append(done, e)
			case "DNAT":
				e.target = arg
				done = append(done, e)
			case "REJECT", "DROP":
				e.target = target
				done = append(done, e)
			default:
				for _, sub := range tr.walk(table, target, p, e.mark, e.passed) {
					if sub.target == "" {
						next = append(next, sub)
					} else {
						done = append(done, sub)
					}
				}
			}
		}
		live = next
	}
	return append(done, live...)
}

// match evaluates a rule. chance says that it may also not match. A match that the tracer does not know fails the test.
func (tr *tracer) match(rule string, p packet) (match, chance bool, target, arg string) {
	match = true
	not := false
	check := func(ok bool) {
		match = match && ok != not
		not = false
	}
	words := strings.Fields(rule)
	for i := 0; i < len(words); i++ {
		value := ""
		if i+1 < len(words) {
			value = words[i+1]
		}
		switch words[i] {
		case "!":
			not = true
			continue
		case "-s":
			check(netip.MustParsePrefix(value).Contains(netip.MustParseAddr(p.src)))
		case "-d":
			check(netip.MustParsePrefix(value).Contains(netip.MustParseAddr(p.dst)))
		case "-p":
			check(value == p.proto)
		case "--dport":
			lo, hi, ranged := strings.Cut(value, ":")
			if !ranged {
				hi = lo
			}
			a, _ := strconv.Atoi(lo)
			b, _ := strconv.Atoi(hi)
			check(a <= p.port && p.port <= b)
		case "--dst-type":
			check(slices.Contains(tr.local, p.dst))
		case "--src-type":
			check(slices.Contains(tr.local, p.src))
		case "--probability":
			chance = true
		case "--rcheck", "--reap":
			// Nobody has been here lately.
			if words[i] == "--rcheck" {
				match = false
			}
			continue
		case "--set":
			continue
		case "-j":
			target = value
		case "--to-destination":
			arg = value
		case "-m", "--comment", "--name", "--seconds", "--mode", "--set-xmark", "--reject-with":
		default:
			tr.t.Fatalf("the tracer does not know %q of %q", words[i], rule)
		}
		i++
	}
	return match, chance, target, arg
}

// kernel is what iptables-restore input makes of tables, with the kernel's own checks.
type kernel struct{ chains iptables.Chains }

func (k *kernel) restore(text []byte) error {
	var table string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
			if k.chains[table] == nil {
				k.chains[table] = map[string][]string{}
			}
		case strings.HasPrefix(line, ":"):
			name, _, _ := strings.Cut(line[1:], " ")
			if len(name) > 28 {
				return fmt.Errorf("the name %s is too long", name)
			}
			k.chains[table][name] = nil
		case strings.HasPrefix(line, "-A "):
			name, rule, _ := strings.Cut(line[3:], " ")
			if _, ok := k.chains[table][name]; !ok {
				return fmt.Errorf("no chain %s for %s", name, line)
			}
			k.chains[table][name] = append(k.chains[table][name], rule)
		case strings.HasPrefix(line, "-X "):
			name := line[3:]
			if rules, ok := k.chains[table][name]; !ok || len(rules) > 0 {
				return fmt.Errorf("cannot delete %s", name)
			}
			delete(k.chains[table], name)
		case line == "COMMIT":
			for name, rules := range k.chains[table] {
				for _, rule := range rules {
					_, target, _ := strings.Cut(rule, "-j ")
					target, _, _ = strings.Cut(target, " ")
					if _, ok := k.chains[table][target]; strings.HasPrefix(target, chainPrefix) && !ok {
						return fmt.Errorf("%s leads to %s, which does not exist", name, target)
					}
				}
			}
		default:
			return fmt.Errorf("unexpected line %q", line)
		}
	}
	return nil
}
