package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	goiptables "github.com/coreos/go-iptables/iptables"
)

// ErrNotInstalled says that no iptables command was found.
var ErrNotInstalled = errors.New("no iptables command found (on Debian: apt-get install iptables)")

// Command runs the machine's iptables tools in the network namespace of the calling thread.
type Command struct {
	path        string
	ipt         *goiptables.IPTables
	nft         bool
	randomFully bool
}

// Find looks for the iptables command: name if it is given, else the first in PATH of iptables, iptables-nft and
// iptables-legacy. The error is ErrNotInstalled if there is none.
func Find(name string) (*Command, error) {
	names := []string{"iptables", "iptables-nft", "iptables-legacy"}
	if name != "" {
		names = []string{name}
	}
	for _, n := range names {
		path, err := exec.LookPath(n)
		if err != nil {
			continue
		}
		version, err := exec.Command(path, "--version").Output()
		if err != nil {
			return nil, fmt.Errorf("%s --version: %w", path, withStderr(err))
		}
		ipt, err := goiptables.New(goiptables.Path(path), goiptables.Timeout(5))
		if err != nil {
			return nil, fmt.Errorf("detect iptables: %w", err)
		}
		return &Command{
			path: path, ipt: ipt,
			nft:         bytes.Contains(version, []byte("nf_tables")),
			randomFully: ipt.HasRandomFully(),
		}, nil
	}
	return nil, ErrNotInstalled
}

// Masquerade is the target that hides a source address behind the node's, with random ports where iptables can: two
// sources that pick the same port at the same moment then do not collide in conntrack.
func (c *Command) Masquerade() string {
	if c.randomFully {
		return "MASQUERADE --random-fully"
	}
	return "MASQUERADE"
}

// NFT says whether the rules live in nf_tables rather than in the legacy tables.
func (c *Command) NFT() bool { return c.nft }

// Restore runs iptables-restore --noflush over text.
func (c *Command) Restore(ctx context.Context, text []byte) error {
	cmd := exec.CommandContext(ctx, c.path+"-restore", "--noflush", "-w", "5")
	cmd.Stdin = bytes.NewReader(text)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("iptables-restore: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// Save reads the rules of a table as iptables prints them, by chain and without "-A CHAIN". Chains that have no rules
// are in it too.
func (c *Command) Save(ctx context.Context, table string) (map[string][]string, error) {
	out, err := exec.CommandContext(ctx, c.path+"-save", "-t", table).Output()
	if err != nil {
		return nil, fmt.Errorf("iptables-save: %w", withStderr(err))
	}
	return parseSave(string(out)), nil
}

func parseSave(out string) map[string][]string {
	chains := map[string][]string{}
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, ":"):
			name, _, _ := strings.Cut(line[1:], " ")
			if _, ok := chains[name]; !ok {
				chains[name] = nil
			}
		case strings.HasPrefix(line, "-A "):
			name, rule, _ := strings.Cut(line[3:], " ")
			chains[name] = append(chains[name], rule)
		}
	}
	return chains
}

func withStderr(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	return err
}
