package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"github.com/mini-k8s/mini/e2e/scenario"
)

// TestCheck: on a machine without iptables `mini check` names the package to install and exits with 1, and a server does not
// start; on this one it finds nothing fatal.
func TestCheck(t *testing.T) {
	without := t.TempDir() // a PATH without iptables is what such a machine looks like to mini
	for name, tt := range map[string]struct {
		path string
		args []string
		want string
		code int
	}{
		"no-iptables": {without, []string{"check", "--data-dir", t.TempDir()},
			`(?s)fatal +iptables +iptables-restore is not installed\n +fix: install the package iptables, for instance .apt-get install iptables.\n.*mini: this machine cannot be a node yet`, 1},
		"no-iptables-json": {without, []string{"check", "--data-dir", t.TempDir(), "-o", "json"}, `"name": "iptables",\n +"level": "fatal"`, 1},
		"server": {without, []string{"server", "--data-dir", t.TempDir(), "--node-ip", "192.0.2.1"},
			`mini: this machine cannot be a node yet \(.mini check. shows all\):\niptables: iptables-restore is not installed; install the package iptables`, 1},
		"this-machine": {os.Getenv("PATH"), []string{"check", "--data-dir", t.TempDir()}, `ok +iptables +iptables-restore v`, 0},
	} {
		cmd := exec.Command(scenario.Binary(), tt.args...)
		cmd.Env = []string{"PATH=" + tt.path, "HOME=" + filepath.Dir(without)}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET} // whatever has ports on this machine
		out, _ := cmd.CombinedOutput()                                           // the exit code is checked
		if code := cmd.ProcessState.ExitCode(); code != tt.code || !regexp.MustCompile(tt.want).Match(out) {
			t.Errorf("%s: exit code %d, want %d and %s, said:\n%s", name, code, tt.code, tt.want, out)
		} else {
			t.Logf("%s:\n%s", name, out)
		}
	}
}
