package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// permute moves the flags of a command in front of its arguments, since cli's parser stops at the first argument and people
// write `mini cluster create dev --agents 2`. What follows "--" stays as it is, and so does everything of a command that
// parses its own flags.
func permute(app *cli.App, args []string) []string {
	if len(args) < 2 {
		return args
	}
	commands, flags := app.Commands, []cli.Flag(nil)
	head := 1
	for head < len(args) {
		i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(args[head]) })
		if i < 0 {
			break
		}
		head++
		if commands[i].SkipFlagParsing {
			return args
		}
		commands, flags = commands[i].Subcommands, commands[i].Flags
	}
	if head == 1 || len(commands) > 0 || slices.Contains(args, "--generate-bash-completion") {
		return args
	}
	var given, rest []string
	for i := head; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			rest = append(rest, args[i+1:]...)
			break
		}
		if len(a) < 2 || a[0] != '-' {
			rest = append(rest, a)
			continue
		}
		given = append(given, a)
		if !strings.Contains(a, "=") && takesValue(flags, strings.TrimLeft(a, "-")) && i+1 < len(args) {
			i++
			given = append(given, args[i])
		}
	}
	return slices.Concat(args[:head], given, []string{"--"}, rest)
}

// takesValue says whether the flag is known and not a switch.
func takesValue(flags []cli.Flag, name string) bool {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			_, isSwitch := f.(*cli.BoolFlag)
			return !isSwitch
		}
	}
	return false
}
