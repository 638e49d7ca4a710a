package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"
)

// Anchor is a jump from a built-in chain into one of ours.
type Anchor struct {
	Table, Chain string
	Rule         []string // arguments, the jump included
	// Behind puts the jump after the leading rules of the chain that jump to chains with this prefix; "" puts it first.
	Behind string
}

// Config says what a Table owns.
type Config struct {
	Command *Command
	// Prefix begins the name of every chain that this Table owns.
	Prefix  string
	Anchors []Anchor
	// Refresh, if it is set, says what is wanted before the kernel is compared with it: for an owner whose chains other
	// processes change as well. It must not call back into the Table.
	Refresh func() (Chains, error)
	Logger  *slog.Logger
}

// Table holds the chains of one owner in the kernel. Its methods may be called from several goroutines.
type Table struct {
	cfg    Config
	tables []string

	mu      sync.Mutex
	wanted  Chains
	applied Chains // what the kernel holds as far as we know; nil is unknown
	// seen is what iptables-save printed for chains whose applied rules have not changed since: iptables writes rules
	// in its own way, so only its own earlier words can be compared with what it says now.
	seen map[string]map[string][]string
}

// NewTable returns a Table; nothing is touched before the first Set.
func NewTable(cfg Config) *Table {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	t := &Table{cfg: cfg, seen: map[string]map[string][]string{}}
	for _, a := range cfg.Anchors {
		if !slices.Contains(t.tables, a.Table) {
			t.tables = append(t.tables, a.Table)
		}
	}
	return t
}

// Set makes the chains of this owner exactly wanted, and returns how many chains that changed. After an error the chains
// wanted before are the wanted ones again. The first call, and the first one after an error, replaces whatever chains with the prefix exist and puts the anchors in place. Chains that a
// process before us left and that are in wanted keep serving until they are replaced in the same transaction.
func (t *Table) Set(ctx context.Context, wanted Chains) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.wanted
	t.wanted = wanted.clone()
	n, err := t.setLocked(ctx)
	if err != nil && before != nil {
		t.wanted = before // what Verify shall come back to
	}
	return n, err
}

func (t *Table) setLocked(ctx context.Context) (int, error) {
	full := t.applied == nil
	old := t.applied
	if full {
		found, err := t.findLocked(ctx)
		if err != nil {
			return 0, err
		}
		old = found
	}
	text, n := Diff(old, t.wanted, t.order(old))
	if n > 0 {
		t.applied = nil // unknown, should this fail
		if err := t.cfg.Command.Restore(ctx, text); err != nil {
			return 0, err
		}
	}
	if full {
		if err := t.ensureAnchors(); err != nil {
			return n, err
		}
		clear(t.seen)
	}
	for _, table := range t.tables {
		for name := range t.seen[table] {
			if rules, ok := t.wanted[table][name]; !ok || !slices.Equal(rules, old[table][name]) {
				delete(t.seen[table], name)
			}
		}
	}
	t.applied = t.wanted
	return n, nil
}

// order puts the filter table before the others when it only gains rules: a new REJECT is in force before the DNAT that
// it replaces is gone, and a DNAT is in force before the REJECT that it replaces is gone.
func (t *Table) order(old Chains) []string {
	rules := func(chains map[string][]string) int {
		n := 0
		for _, r := range chains {
			n += len(r)
		}
		return n
	}
	tables := slices.Clone(t.tables)
	filterFirst := rules(t.wanted["filter"]) > rules(old["filter"])
	slices.SortStableFunc(tables, func(a, b string) int {
		if (a == "filter") == (b == "filter") {
			return 0
		}
		if (a == "filter") == filterFirst {
			return -1
		}
		return 1
	})
	return tables
}

// findLocked lists the chains with our prefix; their rules are made to differ from any wanted ones.
func (t *Table) findLocked(ctx context.Context) (Chains, error) {
	found := Chains{}
	for _, table := range t.tables {
		saved, err := t.cfg.Command.Save(ctx, table)
		if err != nil {
			return nil, err
		}
		found[table] = map[string][]string{}
		for name := range saved {
			if strings.HasPrefix(name, t.cfg.Prefix) {
				found[table][name] = []string{"left by an earlier process"}
			}
		}
	}
	return found, nil
}

func (t *Table) ensureAnchors() error {
	for _, a := range t.cfg.Anchors {
		ipt := t.cfg.Command.ipt
		ok, err := ipt.Exists(a.Table, a.Chain, a.Rule...)
		if err != nil {
			return fmt.Errorf("look for the jump in %s %s: %w", a.Table, a.Chain, err)
		}
		if ok {
			continue
		}
		pos := 1
		if a.Behind != "" {
			rules, err := ipt.List(a.Table, a.Chain)
			if err != nil {
				return fmt.Errorf("list %s %s: %w", a.Table, a.Chain, err)
			}
			for _, rule := range rules {
				if strings.HasPrefix(rule, "-P ") {
					continue
				}
				if !strings.Contains(rule, "-j "+a.Behind) {
					break
				}
				pos++
			}
		}
		if err := ipt.Insert(a.Table, a.Chain, pos, a.Rule...); err != nil {
			return fmt.Errorf("insert the jump into %s %s: %w", a.Table, a.Chain, err)
		}
	}
	return nil
}

// Verify compares the kernel with what was set and sets everything anew if something is missing or different. It says
// whether it had to.
func (t *Table) Verify(ctx context.Context) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wanted == nil {
		return false, nil
	}
	if t.cfg.Refresh != nil {
		wanted, err := t.cfg.Refresh()
		if err != nil {
			return false, err
		}
		t.wanted = wanted.clone()
	}
	reason := "an earlier change failed"
	if t.applied != nil {
		r, err := t.compareLocked(ctx)
		if err != nil {
			return false, err
		}
		if r == "" {
			return false, nil
		}
		reason = r
	}
	t.applied = nil
	if _, err := t.setLocked(ctx); err != nil {
		return false, fmt.Errorf("repair rules: %w", err)
	}
	t.cfg.Logger.Warn("iptables rules were changed by someone else; set them anew", "what", reason)
	return true, nil
}

// compareLocked returns what is wrong in the kernel, or "".
func (t *Table) compareLocked(ctx context.Context) (string, error) {
	for _, table := range t.tables {
		saved, err := t.cfg.Command.Save(ctx, table)
		if err != nil {
			return "", err
		}
		for _, name := range slices.Sorted(maps.Keys(t.applied[table])) {
			rules, ok := saved[name]
			switch {
			case !ok:
				return fmt.Sprintf("chain %s of %s is missing", name, table), nil
			case len(rules) != len(t.applied[table][name]):
				return fmt.Sprintf("chain %s of %s has %d rules, not %d", name, table, len(rules), len(t.applied[table][name])), nil
			}
			if before, ok := t.seen[table][name]; ok && !slices.Equal(before, rules) {
				return fmt.Sprintf("chain %s of %s has other rules", name, table), nil
			}
		}
		for _, a := range t.cfg.Anchors {
			if a.Table == table && !hasAnchor(saved[a.Chain], a) {
				return fmt.Sprintf("the jump from %s of %s is missing", a.Chain, table), nil
			}
		}
		own := make(map[string][]string, len(t.applied[table]))
		for name := range t.applied[table] {
			own[name] = saved[name]
		}
		t.seen[table] = own
	}
	return "", nil
}

func hasAnchor(rules []string, a Anchor) bool {
	target := a.Rule[len(a.Rule)-1]
	for _, rule := range rules {
		if strings.HasSuffix(rule, "-j "+target) {
			return true
		}
	}
	return false
}

// Clean removes every chain with the prefix from the given tables and every rule that jumps to one. That there are none
// is no error.
func Clean(ctx context.Context, cmd *Command, prefix string, tables ...string) error {
	var errs []error
	for _, table := range tables {
		saved, err := cmd.Save(ctx, table)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		var out bytes.Buffer
		var own []string
		for name, rules := range saved {
			if strings.HasPrefix(name, prefix) {
				own = append(own, name)
				continue
			}
			for _, rule := range rules {
				if strings.Contains(rule, "-j "+prefix) {
					out.WriteString("-D " + name + " " + rule + "\n")
				}
			}
		}
		if len(own) == 0 && out.Len() == 0 {
			continue
		}
		sort.Strings(own)
		var text bytes.Buffer
		text.WriteString("*" + table + "\n")
		for _, name := range own {
			text.WriteString(":" + name + " - [0:0]\n")
		}
		text.Write(out.Bytes())
		for _, name := range own {
			text.WriteString("-X " + name + "\n")
		}
		text.WriteString("COMMIT\n")
		if err := cmd.Restore(ctx, text.Bytes()); err != nil {
			errs = append(errs, fmt.Errorf("remove chains %s* of %s: %w", prefix, table, err))
		}
	}
	return errors.Join(errs...)
}
