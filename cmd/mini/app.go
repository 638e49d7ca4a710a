package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mini-k8s/mini/cni"
	"github.com/mini-k8s/mini/internal/version"
)

// streams are the ends of the program that a person or a script holds.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// usageError is a mistake in the command line or the configuration: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run is the program: it returns the exit code, 0 for success, 1 for a failure, 2 for a mistake in the command line, and
// whatever a command that mini ran for the user returned.
func run(ctx context.Context, args []string, s streams) int {
	if len(args) == 1 && os.Getenv("CNI_COMMAND") != "" {
		return cni.PluginMain() // a container runtime calls mini as the CNI plugin of that name
	}
	root := rootCommand(s)
	root.SetArgs(args[1:])
	err := root.ExecuteContext(ctx)
	var usage usageError
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	case errors.As(err, &usage):
		fmt.Fprintln(s.err, "mini:", err)
		return 2
	default:
		fmt.Fprintln(s.err, "mini:", err)
		return 1
	}
}

func rootCommand(s streams) *cobra.Command {
	root := group("mini", "Kubernetes in one small binary",
		serverCommand(s), agentCommand(s), clusterCommand(s), kubectlCommand(s), imageCommand(s), tokenCommand(s),
		checkCommand(s), cleanupCommand(s), versionCommand(s))
	root.SilenceErrors, root.SilenceUsage = true, true // run says what failed, and no more
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentPreRunE = func(c *cobra.Command, _ []string) error { return fromEnvironment(c.Flags()) }
	return root
}

// group is a command that only holds others.
func group(name, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{
		Use: name, Short: short,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("%q is not a command of `%s`; `%s --help` lists them", args[0], c.CommandPath(), c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	g.AddCommand(commands...)
	return g
}

// flagsOnly is for commands without arguments.
func flagsOnly(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s: %q is too much: it takes flags only", c.CommandPath(), strings.Join(args, " "))
	}
	return nil
}

func versionCommand(s streams) *cobra.Command {
	return withFlags(&cobra.Command{
		Use:   "version",
		Short: "Print the version of mini and of the Kubernetes API it serves",
		Args:  flagsOnly,
		RunE: func(c *cobra.Command, _ []string) error {
			if asJSON, err := wantJSON(c); err != nil {
				return err
			} else if asJSON {
				return printJSON(s.out, map[string]any{"mini": version.Mini, "kubernetes": version.Info()})
			}
			_, err := fmt.Fprintf(s.out, "mini %s (Kubernetes API %s, %s)\n", version.Mini, version.Kubernetes, version.Info().Platform)
			return err
		},
	}, output)
}

// output is -o, for commands whose answer a script may want.
func output(fs *pflag.FlagSet) { fs.StringP("output", "o", "text", "`FORMAT`: text or json") }

func wantJSON(c *cobra.Command) (bool, error) {
	switch o := stringOf(c, "output"); o {
	case "text", "":
		return false, nil
	case "json":
		return true, nil
	default:
		return false, usagef("--output %q: want text or json", o)
	}
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
