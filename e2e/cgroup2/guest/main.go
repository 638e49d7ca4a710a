package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long each wait of the scenario lasts at most.
const patience = 10 * time.Minute

func main() {
	if os.Getpid() == 1 {
		if err := machine(); err != nil {
			say("FAIL: the machine: %v", err)
		}
		unix.Sync()
		// qemu has been told not to start again.
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
		return
	}
	begin := time.Now()
	if err := scenario(context.Background()); err != nil {
		showLogs()
		say("FAIL: %v", strings.ReplaceAll(err.Error(), "\n", " | "))
		return
	}
	say("all within %s", time.Since(begin).Round(time.Second))
	say("PASS")
}

func say(format string, args ...any) { fmt.Printf("cgroup2: "+format+"\n", args...) }

// machine is process 1: it prepares the machine, runs the scenario as a child and collects everybody's orphans meanwhile.
func machine() error {
	if err := prepare(); err != nil {
		return err
	}
	child, err := syscall.ForkExec("/init", []string{"/init"}, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		return err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case pid == child && (status.Signaled() || status.ExitStatus() != 0):
			return fmt.Errorf("the scenario ended with %#x", int(status))
		case pid == child:
			return nil
		}
	}
}

// showLogs brings to the console what a person needs after a failure.
func showLogs() {
	for _, command := range []string{"dmesg | tail -n 40", "tail -n 150 " + miniLog,
		"mini kubectl get nodes,pods,events -A -o wide", "mini kubectl describe pods"} {
		fmt.Println("$", command)
		cmd := exec.Command("/bin/busybox", "sh", "-c", command)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
		_ = cmd.Run()
	}
}
