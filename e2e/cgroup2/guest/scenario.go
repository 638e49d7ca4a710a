package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// scenario is the test: steps in their order, each said when it has passed.
func scenario(ctx context.Context) error {
	if err := importImage(); err != nil {
		return err
	}
	n := &node{}
	if err := n.start(ctx); err != nil {
		return err
	}
	s := &run{node: n, pods: map[string]*corev1.Pod{}}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"mini server answers", n.connect},
		{"the node is Ready", n.nodeReady},
		{"pods of all three classes are Running and Ready", s.create},
		{"the limits are those of the pods, read inside their containers", s.inside},
		{"the cgroups of pods and classes on the machine", s.layout},
		{"the CPU limit holds", s.throttled},
		{"usage and limits in /stats/summary", s.usage},
		{"a resize in place, without a restart", s.resize},
		{"a memory limit below what is used waits, and nothing is killed", s.shrink},
		{"a container above its memory limit is OOMKilled, with all its processes", s.oom},
		{"mini is killed and started anew, the containers run on", s.restart},
		{"deleted pods leave no cgroup", s.remove},
		{"`mini cleanup` ends what runs and leaves no cgroup", s.cleanup},
	} {
		begin := time.Now()
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		say("ok  %s (%s)", step.name, time.Since(begin).Round(100*time.Millisecond))
	}
	return nil
}

// run is what the steps share.
type run struct {
	*node
	pods map[string]*corev1.Pod
}

// The pods, by their class.
const (
	guaranteed = "guaranteed"
	burstable  = "burstable"
	bestEffort = "besteffort"
)

const (
	// busy uses all CPU that it gets, and ends at once when told to.
	busy = `trap "exit 0" TERM; while :; do :; done`
	// idle ends at once when told to.
	idle = `trap "exit 0" TERM; /bin/busybox sleep 1000000 & wait`
	// greedy has a child that eats more than the limit; it would live on itself, were it not for memory.oom.group.
	greedy = `/bin/busybox tail -c 200m /dev/zero; echo survived; exec /bin/busybox sleep 1000000`
)

func podOf(name, script string, requests, limits corev1.ResourceList) *corev1.Pod {
	none := false
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			RestartPolicy:                corev1.RestartPolicyNever,
			AutomountServiceAccountToken: &none,
			Containers: []corev1.Container{{
				Name: "main", Image: image, ImagePullPolicy: corev1.PullNever, Args: []string{"-c", script},
				Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits},
			}},
		},
	}
}

func list(cpu, memory string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
}

func (s *run) create(ctx context.Context) error {
	for _, pod := range []*corev1.Pod{
		podOf(guaranteed, busy, nil, list("250m", "64Mi")),
		podOf(burstable, idle, list("100m", "32Mi"), list("500m", "96Mi")),
		podOf(bestEffort, idle, nil, nil),
	} {
		// The service account that every pod has may not be there yet.
		err := s.eventually(ctx, func() error {
			_, err := s.client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
			return err
		})
		if err != nil {
			return err
		}
	}
	for name, class := range map[string]corev1.PodQOSClass{
		guaranteed: corev1.PodQOSGuaranteed, burstable: corev1.PodQOSBurstable, bestEffort: corev1.PodQOSBestEffort,
	} {
		pod, err := s.untilPod(ctx, name, isReady)
		if err != nil {
			return err
		}
		if pod.Status.QOSClass != class {
			return fmt.Errorf("pod %s is %s", name, pod.Status.QOSClass)
		}
		s.pods[name] = pod
	}
	return nil
}

// inside reads what a program in the container sees: its own cgroup as the root of the tree, read-only.
func (s *run) inside(ctx context.Context) error {
	names := []string{"cpu.max", "memory.max", "memory.oom.group"}
	if err := errors.Join(
		expectInside(ctx, guaranteed, names, "25000 100000", "67108864", "1"),
		expectInside(ctx, burstable, names, "50000 100000", "100663296", "1"),
		expectInside(ctx, bestEffort, names, "max 100000", "max", "0"),
	); err != nil {
		return err
	}
	out, err := shell(ctx, guaranteed, "/bin/busybox cat /proc/self/cgroup; { echo max > /sys/fs/cgroup/memory.max; } 2>/dev/null && echo written; true")
	if err == nil && out != "0::/" {
		err = fmt.Errorf("the container sees %q, want its own cgroup as / and nothing written", out)
	}
	return err
}

// podPath is where a pod's cgroup lies.
func (s *run) podPath(name string) string {
	pod := "pod" + string(s.pods[name].UID)
	switch s.pods[name].Status.QOSClass {
	case corev1.PodQOSBurstable:
		return filepath.Join("kubepods", "burstable", pod)
	case corev1.PodQOSBestEffort:
		return filepath.Join("kubepods", "besteffort", pod)
	default:
		return filepath.Join("kubepods", pod)
	}
}

// containerPath is where the cgroup of a pod's container lies.
func (s *run) containerPath(name string) string {
	_, id, _ := strings.Cut(s.pods[name].Status.ContainerStatuses[0].ContainerID, "://")
	return filepath.Join(s.podPath(name), id)
}

func (s *run) layout(context.Context) error {
	// CPU shares of 2048 for the two CPUs, 102 for the Burstable pods' 100m, 2 for BestEffort, on the scale of cpu.weight.
	errs := []error{
		expect("kubepods", map[string]string{"cpu.weight": "174", "cpu.max": "max 100000", "memory.max": "max"}),
		expect("kubepods/burstable", map[string]string{"cpu.weight": "17", "cpu.max": "max 100000", "memory.max": "max"}),
		expect("kubepods/besteffort", map[string]string{"cpu.weight": "1", "cpu.max": "max 100000", "memory.max": "max"}),
	}
	for name, want := range map[string]map[string]string{
		guaranteed: {"cpu.weight": "35", "cpu.max": "25000 100000", "memory.max": "67108864"},
		burstable:  {"cpu.weight": "17", "cpu.max": "50000 100000", "memory.max": "100663296"},
		bestEffort: {"cpu.weight": "1", "cpu.max": "max 100000", "memory.max": "max"},
	} {
		errs = append(errs, expect(s.podPath(name), want), expect(s.containerPath(name), want))
		if procs, err := control(s.podPath(name), "cgroup.procs"); err != nil || procs != "" {
			errs = append(errs, fmt.Errorf("processes %q in %s itself, %v", procs, s.podPath(name), err))
		}
		if procs, err := control(s.containerPath(name), "cgroup.procs"); err != nil || procs == "" {
			errs = append(errs, fmt.Errorf("no processes in %s, %v", s.containerPath(name), err))
		}
	}
	for _, dir := range []string{"", "kubepods", "kubepods/burstable", "kubepods/besteffort", s.podPath(guaranteed)} {
		handed, err := control(dir, "cgroup.subtree_control")
		for _, c := range []string{"cpu", "cpuset", "io", "memory", "pids"} {
			if !slices.Contains(strings.Fields(handed), c) {
				err = errors.Join(err, fmt.Errorf("/%s hands down %q, without %s", dir, handed, c))
			}
		}
		errs = append(errs, err)
	}
	if own, err := control(service, "cgroup.procs"); err != nil || own == "" {
		errs = append(errs, fmt.Errorf("mini is no longer in the cgroup of its service: %q, %v", own, err))
	}
	return errors.Join(errs...)
}

// throttled sees the kernel hold back the container that uses all it gets.
func (s *run) throttled(ctx context.Context) error {
	return s.eventually(ctx, func() error {
		periods, err := counter(s.containerPath(guaranteed), "cpu.stat", "nr_throttled")
		if err == nil && periods == 0 {
			err = errors.New("the busy container has never been throttled")
		}
		return err
	})
}

// usage wants CPU and memory of every pod in the kubelet's summary, by way of the API server.
func (s *run) usage(ctx context.Context) error {
	return s.eventually(ctx, func() error {
		b, err := s.client.CoreV1().RESTClient().Get().Resource("nodes").Name(nodeName).SubResource("proxy").Suffix("stats/summary").DoRaw(ctx)
		if err != nil {
			return err
		}
		var summary struct {
			Pods []struct {
				PodRef     struct{ Name string }
				Containers []struct {
					CPU    struct{ UsageCoreNanoSeconds uint64 }
					Memory struct{ WorkingSetBytes, AvailableBytes uint64 }
				}
			}
		}
		if err := json.Unmarshal(b, &summary); err != nil {
			return err
		}
		seen := map[string]bool{}
		for _, p := range summary.Pods {
			for _, c := range p.Containers {
				seen[p.PodRef.Name] = c.CPU.UsageCoreNanoSeconds > 0 && c.Memory.WorkingSetBytes > 0
				if sum := c.Memory.WorkingSetBytes + c.Memory.AvailableBytes; p.PodRef.Name == guaranteed && sum != 64<<20 {
					return fmt.Errorf("pod %s: %d bytes used and left together are not its limit", guaranteed, sum)
				}
			}
		}
		for name := range s.pods {
			if !seen[name] {
				return fmt.Errorf("no usage of pod %s in %s", name, b)
			}
		}
		return nil
	})
}

func (s *run) resize(ctx context.Context) error {
	patch := `{"spec":{"containers":[{"name":"main","resources":{"requests":{"cpu":"200m"},"limits":{"cpu":"750m","memory":"128Mi"}}}]}}`
	if _, err := s.client.CoreV1().Pods(namespace).Patch(ctx, burstable, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "resize"); err != nil {
		return err
	}
	limits := list("750m", "128Mi")
	pod, err := s.untilPod(ctx, burstable, func(p *corev1.Pod) bool {
		r := p.Status.ContainerStatuses[0].Resources
		return r != nil && r.Limits.Cpu().Equal(*limits.Cpu()) && r.Limits.Memory().Equal(*limits.Memory())
	})
	if err != nil {
		return err
	}
	if c := pod.Status.ContainerStatuses[0]; c.RestartCount != 0 || c.ContainerID != s.pods[burstable].Status.ContainerStatuses[0].ContainerID {
		return fmt.Errorf("the container was restarted: %+v", c)
	}
	if err := expectInside(ctx, burstable, []string{"cpu.max", "memory.max", "cpu.weight"}, "75000 100000", "134217728", "29"); err != nil {
		return err
	}
	// The pod's cgroup follows its containers, the class's its pods.
	return s.eventually(ctx, func() error {
		return errors.Join(
			expect(s.podPath(burstable), map[string]string{"cpu.max": "75000 100000", "memory.max": "134217728", "cpu.weight": "29"}),
			expect("kubepods/burstable", map[string]string{"cpu.weight": "29"}),
		)
	})
}

func (s *run) oom(ctx context.Context) error {
	pod, err := s.client.CoreV1().Pods(namespace).Create(ctx, podOf("greedy", greedy, nil, list("1", "32Mi")), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	pod, err = s.untilPod(ctx, pod.Name, func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
	})
	if err != nil {
		return err
	}
	s.pods[pod.Name] = pod
	t := pod.Status.ContainerStatuses[0].State.Terminated
	if t == nil || t.Reason != "OOMKilled" || t.ExitCode != 137 {
		return fmt.Errorf("the container ended with %+v, want OOMKilled and 137", t)
	}
	say("    pod %s: %s, exit code %d", pod.Name, t.Reason, t.ExitCode)
	return nil
}

// shrink wants less memory for the Burstable pod than it uses: the kernel would kill for it. When there is room, it is done.
func (s *run) shrink(ctx context.Context) error {
	if _, err := shell(ctx, burstable, "/bin/busybox dd if=/dev/zero of=/dev/shm/eaten bs=1M count=60 2>&1"); err != nil {
		return err
	}
	patch := `{"spec":{"containers":[{"name":"main","resources":{"limits":{"memory":"48Mi"}}}]}}`
	if _, err := s.client.CoreV1().Pods(namespace).Patch(ctx, burstable, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "resize"); err != nil {
		return err
	}
	message := ""
	_, err := s.untilPod(ctx, burstable, func(p *corev1.Pod) bool {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodResizeInProgress && c.Reason == corev1.PodReasonError {
				message = c.Message
				return true
			}
		}
		return false
	})
	if err != nil {
		return err
	}
	if !strings.Contains(message, "below current usage") {
		return fmt.Errorf("the resize waits for %q", message)
	}
	// Neither the container nor its pod may have been made smaller.
	for _, dir := range []string{s.podPath(burstable), s.containerPath(burstable)} {
		kills, err := counter(dir, "memory.events", "oom_kill")
		if err = errors.Join(err, expect(dir, map[string]string{"memory.max": "134217728"})); err != nil || kills != 0 {
			return fmt.Errorf("%d killed in %s, %v", kills, dir, err)
		}
	}
	if _, err := shell(ctx, burstable, "/bin/busybox rm /dev/shm/eaten"); err != nil {
		return err
	}
	return s.eventually(ctx, func() error {
		return errors.Join(
			expect(s.podPath(burstable), map[string]string{"memory.max": "50331648"}),
			expect(s.containerPath(burstable), map[string]string{"memory.max": "50331648"}),
		)
	})
}

// restart is the power failure of mini alone.
func (s *run) restart(ctx context.Context) error {
	before := map[string]string{}
	for _, name := range []string{guaranteed, burstable, bestEffort} {
		procs, err := control(s.containerPath(name), "cgroup.procs")
		if err != nil || procs == "" {
			return fmt.Errorf("no processes of pod %s before, %v", name, err)
		}
		before[name], _, _ = strings.Cut(procs, "\n") // children may come and go
	}
	if err := s.stop(ctx, syscall.SIGKILL); err != nil {
		return err
	}
	if err := s.start(ctx); err != nil {
		return err
	}
	if err := s.connect(ctx); err != nil {
		return err
	}
	// An answer of exec says that the kubelet serves again, and a new pod that all of the node works.
	if err := s.eventually(ctx, func() error {
		return expectInside(ctx, guaranteed, []string{"cpu.max", "memory.max"}, "25000 100000", "67108864")
	}); err != nil {
		return err
	}
	if _, err := s.client.CoreV1().Pods(namespace).Create(ctx, podOf("later", idle, nil, list("100m", "32Mi")), metav1.CreateOptions{}); err != nil {
		return err
	}
	later, err := s.untilPod(ctx, "later", isReady)
	if err != nil {
		return err
	}
	s.pods["later"] = later
	if err := expect(s.containerPath("later"), map[string]string{"cpu.max": "10000 100000", "memory.max": "33554432"}); err != nil {
		return err
	}
	for name, process := range before {
		pod, err := s.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		was, is := s.pods[name].Status.ContainerStatuses[0], pod.Status.ContainerStatuses[0]
		procs, err := control(s.containerPath(name), "cgroup.procs")
		if first, _, _ := strings.Cut(procs, "\n"); err != nil || first != process || is.ContainerID != was.ContainerID || is.RestartCount != 0 {
			return fmt.Errorf("pod %s: process %s became %q, container %+v, %v", name, process, procs, is, err)
		}
	}
	return expect("kubepods/burstable", map[string]string{"cpu.weight": "29"})
}

func (s *run) remove(ctx context.Context) error {
	left := 0
	for name := range s.pods {
		if name == bestEffort { // it is for the cleanup
			left++
		} else if err := s.client.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	return s.eventually(ctx, func() error {
		pods, err := s.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err == nil && len(pods.Items) != left {
			err = fmt.Errorf("%d pods are still there, want %d", len(pods.Items), left)
		}
		for name := range s.pods {
			if name != bestEffort {
				err = errors.Join(err, gone(s.podPath(name)))
			}
		}
		return err
	})
}

// cleanup ends mini in order, which leaves the pods running, and then the pods.
func (s *run) cleanup(ctx context.Context) error {
	if err := s.stop(ctx, syscall.SIGTERM); err != nil {
		return err
	}
	if s.end != nil {
		return fmt.Errorf("mini ended with %w", s.end)
	}
	if procs, err := control(s.containerPath(bestEffort), "cgroup.procs"); err != nil || procs == "" {
		return fmt.Errorf("the container did not outlive mini: %v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "mini", "cleanup").CombinedOutput(); err != nil {
		return fmt.Errorf("mini cleanup: %w: %s", err, strings.TrimSpace(string(out)))
	}
	procs, err := control(service, "cgroup.procs")
	if err != nil || procs != "" {
		return fmt.Errorf("processes %q are left in the service's cgroup, %v", procs, err)
	}
	return gone("kubepods")
}
