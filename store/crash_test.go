package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
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
