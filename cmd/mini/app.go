package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/urfave/cli/v2"

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
	app := newApp(s)
	err := app.RunContext(ctx, permute(app, args))
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

func newApp(s streams) *cli.App {
	app := &cli.App{
		Name:                 "mini",
		Usage:                "Kubernetes in one small binary",
		Version:              version.Mini,
		HideVersion:          true,
		EnableBashCompletion: true,
		Reader:               s.in,
		Writer:               s.out,
		ErrWriter:            s.err,
		ExitErrHandler:       func(*cli.Context, error) {}, // run decides
		OnUsageError:         onUsageError,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("%q is not a command of mini; `mini help` lists them", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
		Commands: []*cli.Command{
			serverCommand(s), agentCommand(s), clusterCommand(s), kubectlCommand(s), imageCommand(s), tokenCommand(s),
			checkCommand(s), cleanupCommand(s), versionCommand(s), completionCommand(s),
		},
	}
	for _, c := range app.Commands {
		prepareCommand(c)
	}
	return app
}

// prepareCommand gives a command and all below it the same answer to mistakes.
func prepareCommand(c *cli.Command) {
	c.OnUsageError = onUsageError
	for _, sub := range c.Subcommands {
		prepareCommand(sub)
	}
	if len(c.Subcommands) > 0 && c.Action == nil {
		c.Action = func(ctx *cli.Context) error {
			if ctx.Args().Present() {
				return usagef("%q is not a command of `mini %s`; `mini %s --help` lists them", ctx.Args().First(), c.Name, c.Name)
			}
			return cli.ShowSubcommandHelp(ctx)
		}
	}
}

func onUsageError(_ *cli.Context, err error, _ bool) error { return usageError{err} }

func versionCommand(s streams) *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "Print the version of mini and of the Kubernetes API it serves",
		Flags: []cli.Flag{outputFlag()},
		Action: func(c *cli.Context) error {
			if asJSON, err := wantJSON(c); err != nil {
				return err
			} else if asJSON {
				return printJSON(s.out, map[string]any{"mini": version.Mini, "kubernetes": version.Info()})
			}
			_, err := fmt.Fprintf(s.out, "mini %s (Kubernetes API %s, %s)\n", version.Mini, version.Kubernetes, version.Info().Platform)
			return err
		},
	}
}

// outputFlag is -o, for commands whose answer a script may want.
func outputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FORMAT`: text or json", Value: "text"}
}

func wantJSON(c *cli.Context) (bool, error) {
	switch o := c.String("output"); o {
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

func completionCommand(s streams) *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "Print a completion script: source <(mini completion bash)",
		ArgsUsage: "bash|zsh",
		Action: func(c *cli.Context) error {
			script, ok := completions[c.Args().First()]
			if !ok || c.NArg() != 1 {
				return usagef("completion wants one shell, bash or zsh")
			}
			_, err := io.WriteString(s.out, script)
			return err
		},
	}
}

// completions ask mini itself: with --generate-bash-completion it prints the words that may come next.
var completions = map[string]string{
	"bash": `_mini() {
  local words
  words=$("${COMP_WORDS[@]:0:COMP_CWORD}" --generate-bash-completion 2>/dev/null)
  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _mini mini
`,
	"zsh": `#compdef mini
_mini() {
  local -a words
  words=("${(@f)$(${words[@]:0:$#words-1} --generate-bash-completion 2>/dev/null)}")
  _describe 'mini' words
}
compdef _mini mini
`,
}
