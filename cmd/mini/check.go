package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/mini-k8s/mini/cmd/mini/check"
)

func checkCommand(s streams) *cobra.Command {
	return withFlags(&cobra.Command{
		Use:   "check",
		Short: "Say what this machine lacks to be a node, and the fix for each",
		Args:  flagsOnly,
		RunE: func(c *cobra.Command, _ []string) error {
			r := &reader{c: c}
			api := r.port("https-port")
			if err := r.err(); err != nil {
				return err
			}
			asJSON, err := wantJSON(c)
			if err != nil {
				return err
			}
			found := check.Run(c.Context(), check.Options{DataDir: stringOf(c, "data-dir"), Ports: []int{api, kubeletPort}, Agent: true})
			if asJSON {
				err = printJSON(s.out, found)
			} else {
				err = printFindings(s.out, found)
			}
			if err == nil && check.Err(found) != nil {
				err = errors.New("this machine cannot be a node yet")
			}
			return err
		},
	}, dataDir, text("https-port", "6443", "`PORT` that the API server would take"), output)
}

func printFindings(out io.Writer, found []check.Finding) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, f := range found {
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Level, f.Name, f.What)
		if f.Fix != "" {
			fmt.Fprintf(w, "\t\tfix: %s\n", f.Fix)
		}
	}
	return w.Flush()
}
