package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/mini-k8s/mini/internal/bootstrap"
)

// defaultDataDir holds everything of a node.
const defaultDataDir = "/var/lib/mini"

// flag adds one or more flags to a command.
type flag func(*pflag.FlagSet)

func withFlags(c *cobra.Command, flags ...flag) *cobra.Command {
	for _, add := range flags {
		add(c.Flags())
	}
	return c
}

// envAnnotation marks the flags that may be given by the environment.
const envAnnotation = "mini/env"

// env names a flag's environment variable: --node-ip is MINI_NODE_IP.
func env(name string) string { return "MINI_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }

func annotate(fs *pflag.FlagSet, name string) {
	f := fs.Lookup(name)
	f.Usage += " [$" + env(name) + "]"
	f.Annotations = map[string][]string{envAnnotation: {env(name)}}
}

func text(name, value, usage string) flag {
	return func(fs *pflag.FlagSet) { fs.String(name, value, usage); annotate(fs, name) }
}

func list(name, usage string) flag {
	return func(fs *pflag.FlagSet) { fs.StringSlice(name, nil, usage); annotate(fs, name) }
}

func toggle(name, usage string) flag {
	return func(fs *pflag.FlagSet) { fs.Bool(name, false, usage); annotate(fs, name) }
}

// fromEnvironment fills the flags that the command line did not give.
func fromEnvironment(fs *pflag.FlagSet) error {
	var errs []error
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Annotations[envAnnotation] == nil {
			return
		}
		name := f.Annotations[envAnnotation][0]
		if v := os.Getenv(name); v != "" {
			if err := fs.Set(f.Name, v); err != nil {
				errs = append(errs, usagef("%s: %w", name, err))
			}
		}
	})
	return errors.Join(errs...)
}

// stringOf is a flag's value. A flag that the command does not have is a mistake of ours; so for the others.
func stringOf(c *cobra.Command, name string) string { return must(c.Flags().GetString(name)) }

func stringsOf(c *cobra.Command, name string) []string { return must(c.Flags().GetStringSlice(name)) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func dataDir(fs *pflag.FlagSet) {
	text("data-dir", defaultDataDir, "`DIR` for everything this node keeps")(fs)
}

func cgroupRoot(fs *pflag.FlagSet) {
	const name = "cgroup-root"
	text(name, "", "`CGROUP` below which pods and containers live")(fs)
	fs.Lookup(name).Hidden = true
}

// nodeFlags are what server and agent have in common.
func nodeFlags() []flag {
	return []flag{
		text("config", "", "`FILE` in YAML with these flags as keys; flags and the environment win over it"),
		dataDir,
		text("node-name", "", "`NAME` of this node (default: the host name)"),
		text("node-ip", "", "`ADDRESS` of this node (default: that of the default route)"),
		text("containerd-socket", "", "`PATH` of a running containerd (default: the one inside mini)"),
		list("node-label", "`KEY=VALUE` on the Node, repeatable"),
		list("node-taint", "`KEY=VALUE:EFFECT` on the Node, repeatable"),
		text("pod-manifest-path", "", "`DIR` with manifests of static pods, which this node runs by itself"),
		list("allowed-unsafe-sysctls", "`SYSCTL` that pods may set besides the safe ones, repeatable; kernel.msg* allows all that begin so"),
		toggle("stop-pods", "end this node's pods when mini is told to end, as before a shutdown of the machine (default: they run on)"),
		text("shutdown-grace-period", "30s", "`TIME` in which --stop-pods ends the pods"),
		text("shutdown-grace-period-critical-pods", "10s", "`TIME` at the end of it that is kept for critical pods, which end last"),
		text("log-level", "info", "`LEVEL`: debug, info, warn or error"),
		text("log-format", "text", "`FORMAT`: text or json"),
		cgroupRoot,
	}
}

// prepareNode completes the flags from --config, and takes the token out of the environment, which shims and containers' helpers
// would inherit.
func prepareNode(c *cobra.Command, _ []string) error {
	if err := os.Unsetenv(env("token")); err != nil {
		return err
	}
	return loadConfigFile(c)
}

// loadConfigFile fills the flags that neither the command line nor the environment gave from --config.
func loadConfigFile(c *cobra.Command) error {
	path := stringOf(c, "config")
	if path == "" {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return usagef("--config: %w", err)
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict(b, &values); err != nil {
		return usagef("--config %s: %w", path, err)
	}
	for _, key := range sortedKeys(values) {
		f := c.Flags().Lookup(key)
		if f == nil || key == "config" || key == "help" {
			return usagef("--config %s: %q is no setting of `%s`", path, key, c.CommandPath())
		}
		if f.Changed {
			continue
		}
		items, isList := values[key].([]any)
		if !isList {
			items = []any{values[key]}
		}
		for _, item := range items {
			if err := c.Flags().Set(key, fmt.Sprint(item)); err != nil {
				return usagef("--config %s: %s: %w", path, key, err)
			}
		}
	}
	return nil
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// reader reads flags and remembers every mistake, so that a person sees all of them at once.
type reader struct {
	c    *cobra.Command
	errs []error
}

func (r *reader) bad(flag string, value any, want string) {
	r.errs = append(r.errs, fmt.Errorf("--%s %q: want %s", flag, fmt.Sprint(value), want))
}

// err is all mistakes as one usage error, or nil.
func (r *reader) err() error {
	if len(r.errs) == 0 {
		return nil
	}
	return usageError{errors.Join(r.errs...)}
}

func (r *reader) text(flag string) string { return strings.TrimSpace(stringOf(r.c, flag)) }

// token is the zero Token where the flag is empty. The text is a secret and is not repeated.
func (r *reader) token(flag string) bootstrap.Token {
	v := r.text(flag)
	if v == "" {
		return bootstrap.Token{}
	}
	t, err := bootstrap.Parse(v)
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("--%s: %w", flag, err))
	}
	return t
}

func (r *reader) oneOf(flag string, allowed ...string) string {
	v := r.text(flag)
	if !slices.Contains(allowed, v) {
		r.bad(flag, v, "one of "+strings.Join(allowed, ", "))
	}
	return v
}

func (r *reader) port(flag string) int {
	v := r.text(flag)
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil || n == 0 {
		r.bad(flag, v, "a port from 1 to 65535")
	}
	return int(n)
}

// portRange reads FROM-TO.
func (r *reader) portRange(flag string) (from, to int) {
	v := r.text(flag)
	a, b, ok := strings.Cut(v, "-")
	lo, lerr := strconv.ParseUint(a, 10, 16)
	hi, herr := strconv.ParseUint(b, 10, 16)
	if !ok || lerr != nil || herr != nil || lo == 0 || hi < lo {
		r.bad(flag, v, "two ports FROM-TO, such as 30000-32767")
	}
	return int(lo), int(hi)
}

// duration must be at least least.
func (r *reader) duration(flag string, least time.Duration) time.Duration {
	v := r.text(flag)
	d, err := time.ParseDuration(v)
	if err != nil || d < least {
		r.bad(flag, v, fmt.Sprintf("a time of at least %s, such as 5m", least))
	}
	return d
}

// address is the zero Addr where the flag is empty.
func (r *reader) address(flag string) netip.Addr {
	v := r.text(flag)
	if v == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(v)
	if err != nil || a.Zone() != "" {
		r.bad(flag, v, "an IP address such as 192.0.2.10")
	}
	return a.Unmap()
}

func (r *reader) cidr(flag string, maxBits int) netip.Prefix {
	v := r.text(flag)
	p, err := netip.ParsePrefix(v)
	if err != nil || !p.Addr().Is4() || p.Bits() > maxBits || p.Masked() != p {
		r.bad(flag, v, fmt.Sprintf("an IPv4 network of /%d or larger without host bits, such as 10.42.0.0/16", maxBits))
		return netip.Prefix{}
	}
	return p
}

func (r *reader) url(flag, value string) string {
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		r.bad(flag, value, "an address such as https://192.0.2.10:6443")
	}
	return value
}

func (r *reader) file(flag string) string {
	v := r.text(flag)
	if v == "" {
		return ""
	}
	if _, err := os.Stat(v); errors.Is(err, fs.ErrNotExist) {
		r.bad(flag, v, "an existing file")
	}
	return v
}

// labels reads KEY=VALUE pairs.
func (r *reader) labels(flag string) map[string]string {
	labels := map[string]string{}
	for _, v := range stringsOf(r.c, flag) {
		key, value, ok := strings.Cut(v, "=")
		if problems := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...); !ok || len(problems) > 0 {
			r.bad(flag, v, "KEY=VALUE with a valid label key and value"+because(problems))
			continue
		}
		labels[key] = value
	}
	return labels
}

// taints reads KEY[=VALUE]:EFFECT.
func (r *reader) taints(flag string) []corev1.Taint {
	effects := []string{string(corev1.TaintEffectNoSchedule), string(corev1.TaintEffectPreferNoSchedule), string(corev1.TaintEffectNoExecute)}
	var taints []corev1.Taint
	for _, v := range stringsOf(r.c, flag) {
		pair, effect, ok := strings.Cut(v, ":")
		key, value, _ := strings.Cut(pair, "=")
		problems := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...)
		if !ok || !slices.Contains(effects, effect) || len(problems) > 0 {
			r.bad(flag, v, "KEY=VALUE:EFFECT with one of "+strings.Join(effects, ", ")+because(problems))
			continue
		}
		taints = append(taints, corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)})
	}
	return taints
}

func because(problems []string) string {
	if len(problems) == 0 {
		return ""
	}
	return " (" + strings.Join(problems, "; ") + ")"
}

// nodeName is the flag's or the host's name, which must be a valid object name.
func (r *reader) nodeName() string {
	name := r.text("node-name")
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			r.errs = append(r.errs, fmt.Errorf("--node-name: the host name is not known (%w): give one", err))
			return ""
		}
		name = strings.ToLower(host)
	}
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
		r.bad("node-name", name, strings.Join(problems, "; "))
	}
	return name
}

// logger makes the program's logger from --log-level and --log-format.
func (r *reader) logger(w io.Writer) *slog.Logger {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	opts := &slog.HandlerOptions{Level: levels[r.oneOf("log-level", "debug", "info", "warn", "error")]}
	if r.oneOf("log-format", "text", "json") == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
