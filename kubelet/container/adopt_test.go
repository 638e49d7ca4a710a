// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/mini-k8s/mini/internal/netns"
)

// childEnv makes the test binary play a mini that will be killed: it runs in the folder named and does what the test says.
const childEnv = "MINI_TEST_RUNTIME_CHILD"

func TestMain(m *testing.M) {
	if dir, point := os.Getenv(childEnv), os.Getenv(crashEnv); point != "" {
		crashChild(dir, point)
		return
	} else if dir != "" {
		child(dir)
		return
	}
	os.Exit(m.Run())
}

// childReport is what the child tells before it is killed.
type childReport struct {
	Sandbox    Sandbox
	Containers map[string]string
	Error      string
}

func child(dir string) {
	report := childReport{Containers: make(map[string]string)}
	err := func() error {
		c, err := New(Config{DataDir: dir, HelperDir: sharedHelpers(), CgroupRoot: "/" + filepath.Base(dir),
			Network: &fakeNetwork{}, Logger: quietLogger()})
		if err != nil {
			return err
		}
		failed := make(chan error, 1)
		go func() { failed <- c.Run(context.Background()) }()
		select {
		case <-c.Ready():
		case err := <-failed:
			return err
		}
		ctx := context.Background()
		pod := testPod("adopted")
		if report.Sandbox, err = c.RunSandbox(ctx, SandboxConfig{Pod: pod, Hostname: "adopted", CgroupParent: "/" + filepath.Base(dir)}); err != nil {
			return err
		}
		n := &node{Containerd: c, dir: dir, cgroup: "/" + filepath.Base(dir)}
		for name, script := range map[string]string{
			"counts": "i=0; while true; do i=$((i+1)); echo $i; sleep 0.02; done",
			"ends":   "while [ ! -e /tmp/end ]; do sleep 0.02; done; echo bye; exit 7",
			"shell":  "cat",
		} {
			cfg := n.script(report.Sandbox, pod, name, script)
			cfg.Attempt, cfg.Hash = 3, "hash-"+name
			cfg.Container.Stdin = name == "shell"
			made, err := c.CreateContainer(ctx, cfg)
			if err != nil {
				return err
			}
			if err := c.StartContainer(ctx, made.ID); err != nil {
				return err
			}
			report.Containers[name] = made.ID
		}
		return nil
	}()
	if err != nil {
		report.Error = err.Error()
	}
	json.NewEncoder(os.Stdout).Encode(report)
	select {}
}

// startChild runs a child on n's folder, whose own runtime must be stopped, and gives what it reports.
func startChild(t *testing.T, n *node) (*exec.Cmd, childReport) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+n.dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var report childReport
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &report)
	}
	if err != nil || report.Error != "" {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("child: %v %s", err, report.Error)
	}
	return cmd, report
}

func TestAdoptsAfterKill(t *testing.T) {
	n := newNode(t)
	n.importImage(testImage, nil)
	n.stop()
	cmd, report := startChild(t, n)
	logPath := filepath.Join(n.dir, "logs", "adopted", "counts", "0.log")
	pidOf := func(id string) string {
		pid, err := os.ReadFile(filepath.Join(n.dir, "agent/containerd/state/io.containerd.runtime.v2.task/k8s.io", id, "init.pid"))
		if err != nil {
			t.Fatal(err)
		}
		return string(pid)
	}
	pids := make(map[string]string)
	for name, id := range report.Containers {
		pids[name] = pidOf(id)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	// While nobody is there one container goes on counting, and another ends.
	before := count(t, logPath)
	root := filepath.Join(n.dir, "agent/containerd/state/io.containerd.runtime.v2.task/k8s.io", report.Containers["ends"], "rootfs/tmp/end")
	if err := os.WriteFile(root, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for count(t, logPath) < before+10 {
		if time.Now().After(deadline) {
			t.Fatalf("no output while mini was away: %d lines", count(t, logPath))
		}
		time.Sleep(10 * time.Millisecond)
	}
	waitGone(t, pids["ends"])
	n.start()
	sandboxes, list, err := n.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(sandboxes) != 1 || sandboxes[0].ID != report.Sandbox.ID || sandboxes[0].State != Running ||
		sandboxes[0].IPs[0] != report.Sandbox.IPs[0] || sandboxes[0].NetNS != report.Sandbox.NetNS {
		t.Errorf("sandboxes %+v, was %+v", sandboxes, report.Sandbox)
	}
	if len(n.network.pruned) != 1 || n.network.pruned[0] != report.Sandbox.ID {
		t.Errorf("network told to keep %v", n.network.pruned)
	}
	if len(list) != 3 {
		t.Fatalf("containers %+v", list)
	}
	for _, c := range list {
		if c.ID != report.Containers[c.Name] || c.Attempt != 3 || c.Hash != "hash-"+c.Name || c.StartedAt.IsZero() {
			t.Errorf("adopted %+v", c)
		}
		if c.Name == "ends" {
			if c.State != Exited || c.ExitCode != 7 || c.FinishedAt.IsZero() || c.FinishedAt.After(time.Now()) {
				t.Errorf("what ended meanwhile: %+v", c)
			}
		} else if c.State != Running || pidOf(c.ID) != pids[c.Name] {
			t.Errorf("what went on: %+v", c)
		}
	}
	if text := readLog(t, filepath.Join(n.dir, "logs", "adopted", "ends", "0.log")); text != "bye\n" {
		t.Errorf("log of what ended meanwhile: %q", text)
	}
	checkAdopted(t, n, report)
}

// checkAdopted uses adopted containers as if nothing had been: exec, rotation, attach with stdin, exit events.
func checkAdopted(t *testing.T, n *node, report childReport) {
	ctx := t.Context()
	var out bytes.Buffer
	if code, err := n.Exec(ctx, report.Containers["counts"], []string{"hostname"}, Streams{Stdout: &out}); err != nil || code != 0 || out.String() != "adopted\n" {
		t.Errorf("exec: %d %v %q", code, err, out.String())
	}
	logPath := filepath.Join(n.dir, "logs", "adopted", "counts", "0.log")
	if err := os.Rename(logPath, logPath+".1"); err != nil {
		t.Fatal(err)
	}
	if err := n.ReopenLog(ctx, report.Containers["counts"]); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(logPath); err != nil {
		t.Errorf("log after rotation: %v", err)
	}
	events := n.Events(ctx)
	attached := make(chan string, 1)
	go func() {
		var got bytes.Buffer
		err := n.Attach(ctx, report.Containers["shell"], Streams{Stdin: strings.NewReader("typed\n"), Stdout: &got})
		attached <- fmt.Sprint(got.String(), err)
	}()
	shellLog := filepath.Join(n.dir, "logs", "adopted", "shell", "0.log")
	for count(t, shellLog) == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	for name, id := range report.Containers {
		if name == "ends" {
			continue
		}
		if err := n.StopContainer(ctx, id, 0); err != nil {
			t.Error(err)
		}
		if e := n.ended(events, id); e.ExitCode != 137 {
			t.Errorf("exit %+v", e)
		}
	}
	if got := <-attached; got != "typed\n<nil>" {
		t.Errorf("attached got %q", got)
	}
}

// TestDropsWhatIsHalfMade puts into containerd what crashes between two steps leave, and starts anew.
func TestDropsWhatIsHalfMade(t *testing.T) {
	n := newNode(t)
	n.importImage(testImage, nil)
	ctx := engineContext(t.Context(), quietLogger())
	pod := testPod("half")
	whole := n.run(pod)
	neverStarted, err := n.CreateContainer(ctx, n.script(whole, pod, "later", "exit 4"))
	if err != nil {
		t.Fatal(err)
	}
	// A sandbox with everything but the last step.
	half := n.run(testPod("crashed"))
	n.mu.Lock()
	s := n.sandboxes[half.ID]
	n.mu.Unlock()
	s.rec.Ready = false
	if err := n.updateSandbox(ctx, s); err != nil {
		t.Fatal(err)
	}
	// One that only has its record; a namespace, shared memory and a shim's socket nobody knows of; a container without a
	// sandbox.
	if err := n.storeSandbox(ctx, newSandbox(newID(), podLabels(PodRef{"default", "bare", "1"}, kindSandbox), time.Now(), sandboxRecord{})); err != nil {
		t.Fatal(err)
	}
	socket := n.shimSocket("stray")
	if err := errors.Join(netns.Create(n.netnsPath("stray")), mountShm(n.shmPath("stray")), os.WriteFile(socket, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	spec, _ := typeurl.MarshalAny(&specs.Spec{})
	rec, _ := marshalRecord(record{SandboxID: "gone"})
	orphan := newID()
	if _, err := n.client.ContainerService().Create(ctx, containers.Container{ID: orphan, Labels: podLabels(PodRef{"default", "o", "2"}, kindContainer),
		Spec: spec, Runtime: containers.RuntimeInfo{Name: n.shim, Options: n.runtimeOptions},
		Extensions: map[string]typeurl.Any{recordType: rec}}); err != nil {
		t.Fatal(err)
	}
	n.stop()
	n.start()
	if _, err := os.Stat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a stray socket stays: %v", err)
	}
	sandboxes, list, err := n.List(t.Context())
	if err != nil || len(sandboxes) != 1 || sandboxes[0].ID != whole.ID || sandboxes[0].State != Running {
		t.Errorf("sandboxes %+v, %v", sandboxes, err)
	}
	if len(list) != 1 || list[0].ID != neverStarted.ID || list[0].State != Created {
		t.Errorf("containers %+v", list)
	}
	if n.network.live[half.ID] {
		t.Error("half-made sandbox is still connected")
	}
	events := n.Events(t.Context())
	if err := n.StartContainer(t.Context(), neverStarted.ID); err != nil {
		t.Fatal(err)
	}
	if e := n.ended(events, neverStarted.ID); e.ExitCode != 4 {
		t.Errorf("exit %+v", e)
	}
}

// TestShimKilled lets a shim die: its containers die with it, and that is seen.
func TestShimKilled(t *testing.T) {
	n := newNode(t)
	n.importImage(testImage, nil)
	pod := testPod("shimless")
	s := n.run(pod)
	id := n.launch(n.script(s, pod, "main", "sleep 60"))
	events := n.Events(t.Context())
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		cmd, _ := os.ReadFile(p)
		if bytes.Contains(cmd, []byte("-id\x00"+s.ID)) {
			var pid int
			fmt.Sscanf(p, "/proc/%d/", &pid)
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	n.ended(events, id)
	if c := n.status(id); c.State != Exited || c.ExitCode != 137 {
		t.Errorf("container %+v", c)
	}
}

func count(t *testing.T, path string) int {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(data, []byte("\n"))
}

func waitGone(t *testing.T, pid string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat("/proc/" + pid); err != nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %s is still there", pid)
		}
	}
}
