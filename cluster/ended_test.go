package cluster

import (
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestEndedIsGone: what a pidfd calls ended counts as ended everywhere, also in the moment in which its parent reaps it.
func TestEndedIsGone(t *testing.T) {
	for i := range 2000 {
		cmd := exec.Command("sleep", "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		go cmd.Wait() //nolint:errcheck // it was killed
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		if ok, err := waitPidfd(t.Context(), fd, stopTime); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if ticks, err := startTicks(cmd.Process.Pid); err == nil {
			t.Fatalf("run %d: alive since %d", i, ticks)
		}
		unix.Close(fd)
	}
}
