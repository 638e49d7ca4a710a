package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const crashDir = "STORE_TEST_CRASH_DIR"

// TestMain also is the process that TestKill kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		writeForEver(dir)
	}
	os.Exit(m.Run())
}

// writeForEver prints each key after its write was acknowledged.
func writeForEver(dir string) {
	ctx := context.Background()
	s, err := Open(ctx, Config{DataDir: dir})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	go s.Run(ctx)
	c := configMaps(s)
	var mu sync.Mutex
	for w := range 8 {
		go func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("w%d-%d", w, i)
				_, err := c.Create(ctx, "ns/"+name, configMap("ns", name, "v", name, "fill", strings.Repeat("x", 500)))
				mu.Lock()
				if err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				fmt.Println(name)
				mu.Unlock()
			}
		}()
	}
	select {}
}

// A first start that was killed at any point does not stand in the way of the next.
func TestKillFirstStart(t *testing.T) {
	for _, after := range []time.Duration{5, 10, 15, 20, 25, 30, 35, 40, 50, 60, 80, 100} {
		dir := filepath.Join(t.TempDir(), "etcd")
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashDir+"="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// From the moment on that it has begun, which takes a test binary a while.
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if _, err := os.Stat(filepath.Join(dir, "name")); err == nil {
				break
			}
		}
		time.Sleep(after * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		s, err := Open(ctx, Config{DataDir: dir})
		if err != nil {
			t.Fatalf("killed after %d ms: %v", after, err)
		}
		run, stop := context.WithCancel(ctx)
		stop()
		if err := s.Run(run); err != nil {
			t.Error(err)
		}
		cancel()
	}
	// A log without members and with the mark, whatever the timing above has met.
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "first-start"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "member", "wal"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "member", "wal", "0000000000000000-0000000000000000.wal"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, stop := openUntil(t, Config{DataDir: dir})
	set(t, configMaps(s), "ns/a", "v", "1")
	stop()
	s, stop = openUntil(t, Config{DataDir: dir}) // and the mark is gone
	defer stop()
	if _, err := configMaps(s).Get(t.Context(), "ns/a", ""); err != nil {
		t.Error(err)
	}
}

// A process that is killed at any moment has lost nothing that it acknowledged, and the next one starts where it was.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	acked := map[string]bool{}
	for round := range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a child that hangs fails the test
		defer cancel()
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), crashDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		n := 0
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "error") {
				if round > 0 && strings.Contains(lines.Text(), ErrExists.Error()) {
					t.Error("the writers start over with names that are taken: ", lines.Text())
				}
				t.Fatal(lines.Text())
			}
			acked[lines.Text()] = true
			if n++; n == 200 {
				if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait()
		if n < 200 {
			t.Fatalf("the child ended after %d writes", n)
		}

		s, stop := openUntil(t, Config{DataDir: dir})
		c := configMaps(s)
		for name := range acked {
			if _, err := c.Get(t.Context(), "ns/"+name, ""); err != nil {
				t.Errorf("round %d: %s was acknowledged and is gone: %v", round, name, err)
			}
		}
		// Make room for the same names.
		list, err := c.List(t.Context(), ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for _, item := range list.Items {
			wg.Go(func() {
				_, err := c.Mutate(context.Background(), item.Key, func(*Item) (Change, error) { return Change{Delete: true}, nil })
				if err != nil && !errors.Is(err, ErrNotFound) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		clear(acked)
		stop()
	}
}
