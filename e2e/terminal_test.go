package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal works in a shell that kubectl exec -it gives: it has a terminal of the size that kubectl's has, follows its changes,
// gets its signals, and hands its exit code through.
func (k kubectlTest) terminal(pod string) {
	k.Helper()
	ctx, cancel := context.WithTimeout(k.Context(), time.Minute)
	defer cancel()
	cmd := k.c.KubectlCommand(ctx, "exec", "-it", pod, "--", "sh")
	tty := openTerminal(k.T, cmd)
	if err := cmd.Start(); err != nil {
		k.Fatal(err)
	}
	tty.close() // the child's end
	tty.until("# ")
	// What is typed comes back as an echo, so the answers are words that were not typed.
	tty.typed("tty | sed s/dev/DEV/; stty size\n")
	tty.until("/DEV/pts/0\r\n33 101\r\n")
	tty.resize(40, 120)
	// The new size arrives on its own way; the shell waits for it.
	tty.typed("until [ \"$(stty size)\" = '40 120' ]; do sleep 0.1; done; echo wid''er\n")
	tty.until("wider\r\n")
	tty.typed("trap 'echo inter''rupted' INT; echo slee''ping; sleep 1000\n")
	tty.until("sleeping\r\n") // before that the shell edits a line, and Ctrl-C is a key like any other
	tty.typed("\x03")
	tty.until("interrupted\r\n")
	tty.typed("exit 3\n")
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 3 && (err == nil || !strings.Contains(tty.rest(), "exit code 3")) {
		k.Errorf("exec -it ended with %v after %q, want exit code 3", err, tty.seen)
	}
}

// terminal is the far end of a pseudo-terminal: what a person sees and types.
type terminal struct {
	*os.File
	fd    int // of File, whose Fd would make it block
	t     *testing.T
	child *os.File
	seen  string
}

// openTerminal gives cmd a terminal of 33 rows and 101 columns for its streams, in a session of its own.
func openTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	far := &terminal{File: os.NewFile(uintptr(fd), "terminal"), fd: fd, t: t}
	t.Cleanup(func() { far.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	far.resize(33, 101)
	if far.child, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = far.child, far.child, far.child
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	return far
}

func (tty *terminal) close() { tty.child.Close() }

func (tty *terminal) resize(rows, columns uint16) {
	if err := unix.IoctlSetWinsize(tty.fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		tty.t.Fatal(err)
	}
}

func (tty *terminal) typed(text string) {
	tty.t.Helper()
	if _, err := tty.WriteString(text); err != nil {
		tty.t.Fatal(err)
	}
}

// until reads until the text has come, and forgets all before its end.
func (tty *terminal) until(text string) {
	tty.t.Helper()
	if err := tty.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		tty.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for {
		if _, after, ok := strings.Cut(tty.seen, text); ok {
			tty.seen = after
			return
		}
		n, err := tty.Read(buf)
		tty.seen += string(buf[:n])
		if err != nil {
			tty.t.Fatalf("the terminal shows %q, not yet %q: %v", tty.seen, text, err)
		}
	}
}

// rest reads what is still to come.
func (tty *terminal) rest() string {
	buf := make([]byte, 4096)
	for {
		n, err := tty.Read(buf)
		tty.seen += string(buf[:n])
		if err != nil {
			return tty.seen
		}
	}
}
