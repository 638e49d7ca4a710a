// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bytes"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func goarch() string                     { return runtime.GOARCH }
func digestOf(data []byte) digest.Digest { return digest.FromBytes(data) }

func TestLifeOfAPod(t *testing.T) {
	n := newNode(t)
	n.importImage(testImage, nil)
	ctx := t.Context()
	events := n.Events(ctx)
	pod := testPod("life")
	start := time.Now()
	s := n.run(pod)
	t.Logf("sandbox after %v", time.Since(start))
	if s.State != Running || len(s.IPs) != 1 {
		t.Fatalf("sandbox %+v", s)
	}
	cfg := n.script(s, pod, "main", "echo out; sleep 0.01; echo err >&2; sleep 0.01; echo $FROM $HOSTNAME; sleep 60")
	start = time.Now()
	id := n.launch(cfg)
	t.Logf("container after %v", time.Since(start))
	if c := n.status(id); c.State != Running || c.StartedAt.IsZero() || !strings.HasPrefix(c.ImageID, "example.test/busybox@sha256:") {
		t.Fatalf("container %+v", c)
	}
	for readLog(t, cfg.LogPath) != "out\nerr\npod life\n" {
		time.Sleep(time.Millisecond)
	}
	var out bytes.Buffer
	code, err := n.Exec(ctx, id, []string{"sh", "-c", "cat; exit 3"}, Streams{Stdin: strings.NewReader("hello"), Stdout: &out})
	if err != nil || code != 3 || out.String() != "hello" {
		t.Errorf("exec: %d, %v, %q", code, err, out.String())
	}
	start = time.Now()
	if err := n.StopContainer(ctx, id, 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	t.Logf("stopped after %v", time.Since(start))
	if e := n.ended(events, id); e.ExitCode != 137 || e.Pod != (PodRef{"default", "life", "uid-life"}) {
		t.Errorf("event %+v", e)
	}
	if c := n.status(id); c.State != Exited || c.ExitCode != 137 || c.FinishedAt.Before(c.StartedAt) {
		t.Errorf("container %+v", c)
	}
	if text := readLog(t, cfg.LogPath); text != "out\nerr\npod life\n" {
		t.Errorf("log %q", text)
	}
	start = time.Now()
	for range 2 { // the second time there is nothing to do
		if err := n.RemoveContainer(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("container removed after %v", time.Since(start))
	start = time.Now()
	for range 2 {
		if err := n.StopSandbox(ctx, s.ID); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("sandbox stopped after %v", time.Since(start))
	for range 2 {
		if err := n.RemoveSandbox(ctx, s.ID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(cfg.LogPath); err != nil {
		t.Errorf("the log did not stay: %v", err)
	}
	sandboxes, containers, err := n.List(ctx)
	if err != nil || len(sandboxes)+len(containers) != 0 {
		t.Errorf("still listed: %v %v %v", sandboxes, containers, err)
	}
}
