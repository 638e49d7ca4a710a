package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
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

func TestPermute(t *testing.T) {
	app := &cli.App{Commands: []*cli.Command{
		{Name: "kubectl", SkipFlagParsing: true},
		{Name: "cluster", Subcommands: []*cli.Command{{
			Name:  "create",
			Flags: []cli.Flag{&cli.IntFlag{Name: "agents"}, &cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}}},
		}}},
	}}
	for name, tt := range map[string]struct{ in, want string }{
		"flags-after-the-name":  {"mini cluster create dev --agents 2", "mini cluster create --agents 2 -- dev"},
		"with-equals":           {"mini cluster create dev --agents=2", "mini cluster create --agents=2 -- dev"},
		"a-switch-has-no-value": {"mini cluster create -q dev", "mini cluster create -q -- dev"},
		"after-dashes":          {"mini cluster create dev -- curl -s --agents", "mini cluster create -- dev curl -s --agents"},
		"own-flags":             {"mini kubectl get pods -o wide", "mini kubectl get pods -o wide"},
		"no-command":            {"mini --help", "mini --help"},
		"group":                 {"mini cluster --help", "mini cluster --help"},
	} {
		t.Run(name, func(t *testing.T) {
			got := permute(app, strings.Fields(tt.in))
			if !slices.Equal(got, strings.Fields(tt.want)) {
				t.Errorf("%q, want %q", strings.Join(got, " "), tt.want)
			}
		})
	}
}
