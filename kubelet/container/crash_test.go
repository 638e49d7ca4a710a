// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// crashEnv is the point at which a child ends itself; "none" lets it end in peace.
const crashEnv = "MINI_TEST_RUNTIME_CRASH"

// crashes are the points of a pod's life at which a process is killed, and what the next one may find: whether the sandbox
// is there, and in which states its container. A point that begins with runc or shim lies inside the program, which mini
// does not see the end of; import is in the middle of an image's.
var crashes = []struct {
	at        string
	sandbox   bool
	container []State // Unknown for none
}{
	{at: "after sandbox.Create"},
	{at: "after network.Add"},
	{at: "after pause.Create"},
	{at: "shim start pause"},
	{at: "runc create pause"},
	{at: "after pause.task.Create"},
	{at: "runc start pause"},
	{at: "after pause.task.Start"},
	{at: "after sandbox.Update", sandbox: true, container: []State{Unknown}},
	{at: "before volume.View", sandbox: true, container: []State{Unknown}},
	{at: "after volume.View", sandbox: true, container: []State{Unknown}},
	{at: "before view.Remove", sandbox: true, container: []State{Unknown}},
	{at: "after container.Create", sandbox: true, container: []State{Unknown}},
	{at: "after snapshot.Prepare", sandbox: true, container: []State{Created}},
	{at: "runc create container", sandbox: true, container: []State{Created}},
	{at: "after container.task.Create", sandbox: true, container: []State{Created}},
	{at: "runc start container", sandbox: true, container: []State{Created, Running}},
	{at: "after container.task.Start", sandbox: true, container: []State{Running}},
	{at: "after container.Update", sandbox: true, container: []State{Running}},
	{at: "runc delete container", sandbox: true, container: []State{Exited}},
	{at: "after container.task.Delete", sandbox: true, container: []State{Exited}},
	{at: "before snapshot.Remove", sandbox: true, container: []State{Exited}},
	{at: "after snapshot.Remove", sandbox: true, container: []State{Exited}},
	{at: "after container.Delete", sandbox: true, container: []State{Unknown}},
	{at: "before volume.Remove", sandbox: true, container: []State{Unknown}},
	{at: "after volume.Remove", sandbox: true, container: []State{Unknown}},
	{at: "after network.Del", sandbox: true, container: []State{Unknown}},
	{at: "runc delete pause", sandbox: true, container: []State{Unknown}},
	{at: "after pause.task.Delete", sandbox: true, container: []State{Unknown}},
	{at: "after pause.Delete", sandbox: true, container: []State{Unknown}},
	{at: "import"},
}

// crashReport is what a child found, and what was left after it had brought the pod to run and taken it away again.
type crashReport struct {
	Sandboxes  []Sandbox
	Containers []Container
	Left       []string
	Error      string
}

// TestCrashes kills a process at each step of a pod's life. The next one takes over what it finds, brings the pod to run,
// takes it away, looks for leftovers, and begins the life in which it is killed itself.
func TestCrashes(t *testing.T) {
	n := newNode(t)
	n.importImage(testImage, nil)
	n.stop()
	if err := os.WriteFile(filepath.Join(n.dir, "other.tar"), busyboxImage(t, "example.test/other:1", nil), 0o600); err != nil {
		t.Fatal(err)
	}
	var before string
	for i := 0; i <= len(crashes); i++ {
		point := "none"
		if i < len(crashes) {
			point = crashes[i].at
		}
		begin := time.Now()
		report, err := crash(t, n.dir, point)
		if err != nil {
			t.Fatalf("crash %q after %q: %v", point, before, err)
		}
		t.Logf("%-30s %d ms", point, time.Since(begin).Milliseconds())
		if i > 0 {
			was := crashes[i-1]
			if sandbox := len(report.Sandboxes) == 1; sandbox != was.sandbox || len(report.Sandboxes) > 1 {
				t.Errorf("after a crash %s: sandboxes %+v", was.at, report.Sandboxes)
			}
			state := Unknown
			if len(report.Containers) > 0 {
				state = report.Containers[0].State
			}
			if was.sandbox && !slices.Contains(was.container, state) || !was.sandbox && state != Unknown || len(report.Containers) > 1 {
				t.Errorf("after a crash %s: containers %+v", was.at, report.Containers)
			}
			for _, left := range report.Left {
				t.Errorf("after a crash %s and another life: left behind: %s", was.at, left)
			}
		}
		before = point
	}
	n.start()
}

// crash runs a child up to its death and gives its report.
func crash(t *testing.T, dir, point string) (report crashReport, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+dir, crashEnv+"="+point)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		return report, err
	}
	if err := cmd.Start(); err != nil {
		return report, err
	}
	read := bufio.NewReader(out)
	line, err := read.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &report)
	}
	after, _ := read.ReadString('\n')
	end := cmd.Wait()
	var exit *exec.ExitError
	killed := errors.As(end, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL && ctx.Err() == nil
	switch {
	case err != nil:
		return report, fmt.Errorf("no report: %w (%v)", err, end)
	case report.Error != "" || after != "":
		return report, errors.New(report.Error + after)
	case killed != (point != "none"):
		return report, fmt.Errorf("it ended otherwise: %v", end)
	}
	return report, nil
}

// crashChild is the child.
func crashChild(dir, point string) {
	var report crashReport
	f := &faults{}
	cfg := Config{DataDir: dir, HelperDir: sharedHelpers(), CgroupRoot: "/" + filepath.Base(dir),
		Network: faultyNetwork{&fakeNetwork{}, f}, Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	n, err := crashNode(cfg, f)
	if err == nil {
		report.Sandboxes, report.Containers, err = n.List(context.Background())
	}
	if err == nil {
		err = n.nextTry(report.Sandboxes, report.Containers)
	}
	if err == nil {
		report.Left = n.leftovers()
	}
	if err != nil {
		report.Error = err.Error()
	}
	json.NewEncoder(os.Stdout).Encode(report)
	if point == "none" || err != nil {
		return
	}
	n.infos.users = nil // the next container's are looked up again
	f.set(n.crashAt(point))
	fmt.Printf("%q was not reached: %v\n", point, n.life())
}

func crashNode(cfg Config, f *faults) (*node, error) {
	c, err := New(cfg)
	if err != nil {
		return nil, err
	}
	failed := make(chan error, 1)
	go func() { failed <- c.Run(context.Background()) }()
	select {
	case <-c.Ready():
	case err := <-failed:
		return nil, err
	}
	n := &node{Containerd: c, dir: cfg.DataDir, cgroup: cfg.CgroupRoot, up: true}
	return n, errors.Join(f.install(c), programs(cfg.DataDir).install(c))
}

// crashAt kills this process at the point, or has runc or the shim do it.
func (n *node) crashAt(point string) func(string) error {
	if point == "import" {
		archive, err := os.ReadFile(filepath.Join(n.dir, "other.tar"))
		if err == nil {
			_, err = n.Import(context.Background(), io.MultiReader(bytes.NewReader(archive[:len(archive)/2]), deadly{}))
		}
		fmt.Println(err)
	}
	program, rest, inside := strings.Cut(point, " ")
	command, part, _ := strings.Cut(rest, " ")
	if !inside || program != "runc" && program != "shim" {
		return func(at string) error {
			if at == point {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
			return nil
		}
	}
	// The program is told when the call that will run it begins.
	calls := map[string]string{"create": "Create", "start": "Start", "delete": "Delete"}
	if program == "shim" {
		calls["start"] = "Create"
	}
	return func(at string) error {
		if at == "before "+part+".task."+calls[command] {
			return programs(n.dir).arm(program, command, strconv.Itoa(os.Getpid()))
		}
		return nil
	}
}

// deadly is a reader that nobody survives.
type deadly struct{}

func (deadly) Read([]byte) (int, error) {
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

const crashScript = "echo up; while true; do sleep 1; done"

// crashConfig is of a container with an image volume.
func (n *node) crashConfig(s Sandbox, pod *corev1.Pod) ContainerConfig {
	cfg := n.script(s, pod, "main", crashScript)
	cfg.Mounts = []Mount{{ContainerPath: "/image", Image: testImage, SubPath: "etc"}}
	cfg.Container.Stdin = true
	return cfg
}

// nextTry brings the pod to run, whatever of it is there, and takes it away.
func (n *node) nextTry(sandboxes []Sandbox, list []Container) error {
	ctx := context.Background()
	pod := testPod("crash")
	var s Sandbox
	for _, found := range sandboxes {
		if found.State == Running {
			s = found
			continue
		}
		if err := n.RemoveSandbox(ctx, found.ID); err != nil {
			return err
		}
	}
	if s.ID == "" {
		var err error
		if s, err = n.RunSandbox(ctx, SandboxConfig{Pod: pod, Hostname: pod.Name, CgroupParent: n.cgroup}); err != nil {
			return err
		}
	}
	id, attempt := "", uint32(0)
	for _, c := range list {
		if c.SandboxID == s.ID && c.State != Exited {
			id = c.ID
		} else {
			attempt = c.Attempt + 1
		}
	}
	if id == "" {
		cfg := n.crashConfig(s, pod)
		cfg.Attempt = attempt
		made, err := n.CreateContainer(ctx, cfg)
		if err != nil {
			return err
		}
		id = made.ID
	}
	if err := n.StartContainer(ctx, id); err != nil {
		return err
	}
	if err := n.reads(id); err != nil {
		return err
	}
	if err := n.RemoveSandbox(ctx, s.ID); err != nil {
		return err
	}
	sandboxes, list, err := n.List(ctx)
	if err == nil && len(sandboxes)+len(list) > 0 {
		err = fmt.Errorf("still listed: %+v, %+v", sandboxes, list)
	}
	return err
}

// life is a pod's, from nothing to nothing, in single steps.
func (n *node) life() error {
	ctx := context.Background()
	pod := testPod("crash")
	s, err := n.RunSandbox(ctx, SandboxConfig{Pod: pod, Hostname: pod.Name, CgroupParent: n.cgroup})
	if err != nil {
		return err
	}
	made, err := n.CreateContainer(ctx, n.crashConfig(s, pod))
	if err != nil {
		return err
	}
	id := made.ID
	if err := n.StartContainer(ctx, id); err != nil {
		return err
	}
	if err := n.StopContainer(ctx, id, 0); err != nil {
		return err
	}
	if err := n.RemoveContainer(ctx, id); err != nil {
		return err
	}
	if err := n.StopSandbox(ctx, s.ID); err != nil {
		return err
	}
	return n.RemoveSandbox(ctx, s.ID)
}
