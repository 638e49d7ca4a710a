// Command sh is /bin/sh of the busybox stand-in. Tests want both what busybox's shell prints and that a shell hands on
// environment variables whose names have a dash or a dot, which Debian's busybox does not do; so bash stands in where there
// is such a variable.
package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

func main() {
	err := syscall.Exec(shell(os.Environ()), os.Args, os.Environ())
	fmt.Fprintln(os.Stderr, "sh:", err)
	os.Exit(127)
}

// shell chooses for an environment.
func shell(environ []string) string {
	for _, v := range environ {
		name, _, _ := strings.Cut(v, "=")
		if strings.ContainsFunc(name, func(r rune) bool {
			return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
		}) {
			return "/bin/bash"
		}
	}
	return "/bin/ash"
}
