package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// config is the command line.
type config struct {
	kernel, guest, mini, image, out string
	timeout                         time.Duration
}

func main() {
	var cfg config
	flag.StringVar(&cfg.kernel, "kernel", "", "folder of an unpacked Debian kernel package")
	flag.StringVar(&cfg.guest, "guest", "", "program of e2e/cgroup2/guest")
	flag.StringVar(&cfg.mini, "mini", "", "mini to test")
	flag.StringVar(&cfg.image, "image", "", "OCI archive of the image that the pods run")
	flag.StringVar(&cfg.out, "out", "", "folder for the initramfs and the console's log")
	flag.DurationVar(&cfg.timeout, "timeout", 30*time.Minute, "the machine is stopped after this time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, "e2e-cgroup2:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, cfg config) (err error) {
	kernels, err := filepath.Glob(filepath.Join(cfg.kernel, "boot", "vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return fmt.Errorf("want one kernel in %s/boot, found %d", cfg.kernel, len(kernels))
	}
	release := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	initrd := filepath.Join(cfg.out, "initramfs.cpio")
	if err := initramfs(cfg, release, initrd); err != nil {
		return fmt.Errorf("make the initramfs: %w", err)
	}
	defer os.Remove(initrd)
	logPath := filepath.Join(cfg.out, "console.log")
	log, err := os.Create(logPath)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()

	ctx, cancel := context.WithTimeoutCause(ctx, cfg.timeout, fmt.Errorf("not done after %s", cfg.timeout))
	defer cancel()
	fmt.Printf("booting Linux %s in software emulation; the whole console goes to %s\n", release, logPath)
	last, err := boot(ctx, kernels[0], initrd, log, os.Stdout)
	if err = verdict(last, err); err != nil {
		showTail(logPath, os.Stderr)
	}
	return err
}

// verdict judges a machine that has ended by the last line of the scenario and by how it ended.
func verdict(last string, err error) error {
	if reason, failed := strings.CutPrefix(last, mark+"FAIL"); failed {
		return fmt.Errorf("the scenario failed%s", reason)
	}
	if err != nil {
		return err
	}
	if last != mark+"PASS" {
		return fmt.Errorf("the machine ended without a result; its last step was %q", last)
	}
	return nil
}

// mark begins the scenario's lines on the console.
const mark = "cgroup2: "

// boot runs the machine until it ends, or ctx. It returns the scenario's last line.
func boot(ctx context.Context, kernel, initrd string, log, show io.Writer) (last string, err error) {
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "Westmere,+rdrand", "-smp", "2", "-m", "3G",
		"-nographic", "-no-reboot", "-nodefaults", "-no-user-config", "-net", "none", "-serial", "stdio", "-monitor", "none",
		"-kernel", kernel, "-initrd", initrd,
		// A panic ends the machine, as -no-reboot makes of a restart. The kernel must not speak into the scenario's lines.
		"-append", "console=ttyS0 panic=-1 quiet loglevel=1")
	qemu.Stderr = log
	console, err := qemu.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := qemu.Start(); err != nil {
		return "", err
	}
	lines := bufio.NewScanner(console)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r")
		fmt.Fprintln(log, line)
		if _, said, ok := strings.Cut(line, mark); ok {
			last = mark + said
			fmt.Fprintln(show, said)
		}
	}
	_, _ = io.Copy(log, console) // a line that is too long must not block the machine
	err = qemu.Wait()
	if ctx.Err() != nil {
		return last, context.Cause(ctx)
	}
	if err != nil {
		err = fmt.Errorf("qemu: %w", err)
	}
	return last, err
}

// showTail repeats the end of the console's log.
func showTail(path string, to io.Writer) {
	b, err := os.ReadFile(path)
	if err != nil {
		return
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	fmt.Fprintf(to, "--- the end of %s:\n%s\n---\n", path, strings.Join(lines[max(0, len(lines)-80):], "\n"))
}
