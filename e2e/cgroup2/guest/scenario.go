package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// scenario is the test: steps in their order, each said when it has passed.
func scenario(ctx context.Context) error {
	n, err := startMini()
	if err != nil {
		return err
	}
	s := &run{node: n, pods: map[string]*corev1.Pod{}}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"mini server answers", n.connect},
		{"the node is Ready", n.nodeReady},
		{"pods of all three classes are Running and Ready", s.start},
		{"the limits are those of the pods, read inside their containers", s.inside},
		{"the cgroups of pods and classes on the machine", s.layout},
		{"the CPU limit holds", s.throttled},
		{"usage and limits in /stats/summary", s.usage},
		{"a resize in place, without a restart", s.resize},
		{"a container above its memory limit is OOMKilled, with all its processes", s.oom},
		{"deleted pods leave no cgroup", s.remove},
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

func (s *run) start(ctx context.Context) error {
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
	if own, err := control("system.slice/mini.service", "cgroup.procs"); err != nil || own == "" {
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

func (s *run) remove(ctx context.Context) error {
	for name := range s.pods {
		if err := s.client.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	return s.eventually(ctx, func() error {
		pods, err := s.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("%d pods are still there", len(pods.Items))
		}
		for name := range s.pods {
			err = errors.Join(err, gone(s.podPath(name)))
		}
		return err
	})
}
