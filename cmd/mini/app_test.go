package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func runMini(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), append([]string{"mini"}, args...), streams{strings.NewReader(""), &o, &e})
	return code, o.String(), e.String()
}

func TestUsageErrors(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("https-port: seven\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	unknown := filepath.Join(t.TempDir(), "unknown.yaml")
	if err := os.WriteFile(unknown, []byte("https-prot: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"no-such-command":    {[]string{"sevrer"}, `"sevrer" is not a command`},
		"no-such-subcommand": {[]string{"cluster", "crate"}, `"crate" is not a command`},
		"no-such-flag":       {[]string{"server", "--prot", "1"}, "prot"},
		"bad-port":           {[]string{"server", "--https-port", "70000"}, `--https-port "70000": want a port from 1 to 65535`},
		"bad-range":          {[]string{"server", "--service-node-port-range", "9-1"}, `--service-node-port-range "9-1": want two ports`},
		"bad-cidr":           {[]string{"server", "--cluster-cidr", "10.42.0.1/16"}, `--cluster-cidr "10.42.0.1/16": want an IPv4 network`},
		"dns-outside":        {[]string{"server", "--cluster-dns", "192.0.2.1"}, `--cluster-dns "192.0.2.1": want an address of --service-cidr`},
		"overlap":            {[]string{"server", "--service-cidr", "10.42.128.0/17", "--cluster-dns", "10.42.128.10"}, "overlap"},
		"bad-level":          {[]string{"server", "--log-level", "loud"}, `--log-level "loud": want one of debug, info, warn, error`},
		"bad-label":          {[]string{"server", "--node-label", "a b=c"}, `--node-label "a b=c": want KEY=VALUE`},
		"bad-taint":          {[]string{"server", "--node-taint", "a=b:Never"}, `--node-taint "a=b:Never": want KEY=VALUE:EFFECT`},
		"two-mistakes":       {[]string{"server", "--node-ip", "x", "--node-name", "Not OK"}, `--node-ip "x": want an IP address`},
		"join-is-needed":     {[]string{"agent"}, "--join"},
		"bad-join":           {[]string{"agent", "--join", "server", "--token", "x"}, `--join "server": want an address such as https://`},
		"bad-config":         {[]string{"server", "--config", bad}, `--https-port "seven": want a port`},
		"unknown-config":     {[]string{"server", "--config", unknown}, `"https-prot" is no setting of ` + "`mini server`"},
		"bad-output":         {[]string{"version", "-o", "xml"}, `--output "xml": want text or json`},
		"bad-publish":        {[]string{"cluster", "create", "x", "--publish", "80"}, `"80" is not HOSTPORT:NODEPORT`},
		"name-is-needed":     {[]string{"cluster", "create"}, "want NAME"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errOut := runMini(t, tt.args...)
			if code != 2 || !strings.Contains(errOut, tt.want) {
				t.Errorf("exit code %d, said %q %q; want 2 and %q", code, out, errOut, tt.want)
			}
		})
	}
}

func TestVersion(t *testing.T) {
	code, out, errOut := runMini(t, "version", "-o", "json")
	if code != 0 || !strings.Contains(out, `"gitVersion": "v1.36.`) {
		t.Errorf("%d %q %q", code, out, errOut)
	}
}

// TestFlags: flags may stand behind arguments, lists repeat or have commas, and the command line wins over the environment,
// which wins over the file.
func TestFlags(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte("node-label: [a=file, b=file]\nnode-name: file\nlog-level: warn\nhttps-port: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("MINI_NODE_NAME", "env")
	t.Setenv("MINI_HTTPS_PORT", "8")
	t.Setenv("MINI_TLS_SAN", "one,two")
	t.Setenv("MINI_TOKEN", "secret")
	c := serverCommand(streams{})
	if err := c.ParseFlags([]string{"--https-port", "9", "--node-taint=a=b:NoSchedule", "extra", "--node-taint", "c=d:NoSchedule,e=f:NoExecute", "--config", file}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(fromEnvironment(c.Flags()), prepareNode(c, nil)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"https-port": "9", "node-name": "env", "log-level": "warn", "log-format": "text", "token": "secret",
		"node-label": "[a=file,b=file]", "tls-san": "[one,two]", "node-taint": "[a=b:NoSchedule,c=d:NoSchedule,e=f:NoExecute]",
	} {
		if got := c.Flags().Lookup(name).Value.String(); got != want {
			t.Errorf("--%s is %q, want %q", name, got, want)
		}
	}
	if args := c.Flags().Args(); !slices.Equal(args, []string{"extra"}) {
		t.Errorf("arguments %q", args)
	}
	if os.Getenv("MINI_TOKEN") != "" {
		t.Error("the token is still in the environment")
	}
}

// TestArguments: what stands behind -- is not mini's, and kubectl reads its own flags.
func TestArguments(t *testing.T) {
	for name, tt := range map[string]struct {
		in   []string
		want string
	}{
		"flags-behind-the-name": {[]string{"cluster", "delete", "dev", "--cluster-dir", t.TempDir()}, "there is no cluster dev\n"},
		"help":                  {[]string{"cluster", "--help"}, "Available Commands:"},
		"no-command":            {nil, "Available Commands:"},
		"completion":            {[]string{"__complete", "cluster", "cr"}, "create\t"},
		"completion-script":     {[]string{"completion", "bash"}, "__start_mini"},
	} {
		t.Run(name, func(t *testing.T) {
			if code, out, errOut := runMini(t, tt.in...); code != 0 || !strings.Contains(out, tt.want) {
				t.Errorf("exit code %d, said %q %q; want %q", code, out, errOut, tt.want)
			}
		})
	}
	root := rootCommand(streams{})
	for in, want := range map[string][]string{
		"kubectl get pods -o wide":                 {"get", "pods", "-o", "wide"},
		"kubectl --help":                           {"--help"},
		"cluster exec dev n -- curl -s --agents":   {"dev", "n", "curl", "-s", "--agents"},
		"cluster exec --cluster-dir d dev n -- id": {"dev", "n", "id"},
	} {
		c, rest, err := root.Find(strings.Fields(in))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		c.RunE, c.Args = func(_ *cobra.Command, args []string) error { got = args; return nil }, nil
		root.SetArgs(strings.Fields(in))
		if err := root.Execute(); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q (found %q), %v; want %q", in, got, rest, err, want)
		}
	}
}
