// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/mini-k8s/mini/kubelet/container"
)

// shutdownIn runs Shutdown beside the test; the channel tells its end.
func (r *rig) shutdownIn(ctx context.Context) <-chan struct{} {
	done := make(chan struct{})
	go func() { defer close(done); r.k.Shutdown(ctx) }()
	synctest.Wait()
	return done
}

func over(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

func criticalPod(name string) *corev1.Pod {
	p := testPod(name)
	priority := int32(2_000_001_000)
	p.Spec.Priority, p.Spec.PriorityClassName = &priority, "system-node-critical"
	return p
}

// TestShutdown: ordinary pods end first, within their part of the time; then the critical ones, with what they are told by it. Their
// statuses say why, and a pod that comes meanwhile is refused.
func TestShutdown(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.rt.IgnoreTerm = func(name string) bool { return name == "stubborn" }
		r.rt.OnExec = func(string, []string, container.Streams) (int, error) { time.Sleep(2 * time.Second); return 0, nil }
		r.run()
		hooked := testPod("hooked")
		hooked.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}}
		long := int64(3600)
		stubborn := testPod("stubborn", corev1.Container{Name: "stubborn", Image: "app:1"})
		stubborn.Spec.TerminationGracePeriodSeconds = &long
		short := int64(5)
		brief := testPod("brief", corev1.Container{Name: "stubborn", Image: "app:1"})
		brief.Spec.TerminationGracePeriodSeconds = &short
		done := testPod("done")
		done.Spec.RestartPolicy = corev1.RestartPolicyNever
		for _, p := range []*corev1.Pod{hooked, stubborn, brief, done, criticalPod("critical"), testPod("leaving", corev1.Container{Name: "stubborn", Image: "app:1"})} {
			r.create(p)
		}
		r.rt.Exit(r.container("done", "c").ID, 0)
		r.markDeleted("leaving", 3600)
		after(time.Second)
		if st := r.get("done").Status; st.Phase != corev1.PodSucceeded {
			t.Fatalf("%+v", st)
		}

		shutdown := r.shutdownIn(t.Context())
		node, err := r.cs.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
		if c := node.Status.Conditions[i]; c.Status != corev1.ConditionFalse || c.Reason != "KubeletNotReady" || c.Message != "node is shutting down" {
			t.Errorf("node %+v", c)
		}
		if c := cond(r.get("stubborn"), corev1.DisruptionTarget); c.Status != corev1.ConditionTrue || c.Reason != "TerminationByKubelet" {
			t.Errorf("while it ends: %+v", c)
		}
		r.create(testPod("late"))
		if st := r.get("late").Status; st.Phase != corev1.PodFailed || st.Reason != "NodeShutdown" || st.Message != "Pod was rejected: Pod was rejected as the node is shutting down." {
			t.Errorf("late: %+v", st)
		}
		after(time.Second)
		if r.container("hooked", "c").State != container.Running {
			t.Error("ended before its preStop hook was through")
		}
		after(5 * time.Second)
		for pod, want := range map[string]container.State{"hooked/c": container.Exited, "brief/stubborn": container.Exited,
			"stubborn/stubborn": container.Running, "leaving/stubborn": container.Running, "critical/c": container.Running} {
			name, c, _ := strings.Cut(pod, "/")
			if got := r.container(name, c).State; got != want {
				t.Errorf("%s is %v after 6 s, want %v", pod, got, want)
			}
		}
		after(13 * time.Second)
		if over(shutdown) || r.container("critical", "c").State != container.Running {
			t.Error("the critical pod did not wait for the others")
		}
		after(2 * time.Second)
		if !over(shutdown) {
			t.Fatalf("still ending after 21 s: %q", r.rt.Calls())
		}
		for _, name := range []string{"hooked", "stubborn", "brief", "critical"} {
			p := r.get(name)
			if st := p.Status; st.Phase != corev1.PodFailed || st.Reason != "Terminated" || st.Message != "Pod was terminated in response to imminent node shutdown." ||
				st.ContainerStatuses[0].State.Terminated == nil {
				t.Errorf("%s: %+v", name, st)
			}
			if c := cond(p, corev1.DisruptionTarget); c.Status != corev1.ConditionTrue || c.Reason != "TerminationByKubelet" || c.Message != p.Status.Message {
				t.Errorf("%s: %+v", name, c)
			}
		}
		if st := r.get("done").Status; st.Phase != corev1.PodSucceeded || st.Reason != "" {
			t.Errorf("done: %+v", st)
		}
		if r.exists("leaving") {
			t.Error("the pod that was being deleted is still there")
		}

		// The node comes back: what was ended stays ended.
		r.stop()
		r.run()
		after(time.Minute)
		for _, name := range []string{"hooked", "critical", "late"} {
			if st := r.get(name).Status; st.Phase != corev1.PodFailed {
				t.Errorf("%s after a new start: %+v", name, st)
			}
		}
		r.create(testPod("new"))
		if st := r.get("new").Status; st.Phase != corev1.PodRunning {
			t.Errorf("new: %+v", st)
		}
		if got := r.condition(corev1.NodeReady); got != corev1.ConditionTrue {
			t.Errorf("Ready %s after a new start", got)
		}
	})
}

// TestShutdownBounded: with an API that takes no status, and when it is told to, Shutdown ends all the same.
func TestShutdownBounded(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		r.create(testPod("p"))
		r.cs.PrependReactor("patch", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, errors.New("connection refused")
		})
		began := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		done := r.shutdownIn(ctx)
		after(3 * time.Second)
		if r.container("p", "c").State != container.Exited || over(done) {
			t.Errorf("the pod: %v; returned: %v", r.container("p", "c").State, over(done))
		}
		<-done
		if took := time.Since(began); took > 20*time.Second+shutdownNotice+shutdownSlack {
			t.Errorf("took %v", took)
		}
		done = r.shutdownIn(ctx)
		cancel()
		synctest.Wait()
		if !over(done) {
			t.Error("it goes on although it was told to end")
		}
	})
}

// TestShutdownBeforeBegin: what a node found running and does not know yet is left alone.
func TestShutdownBeforeBegin(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.NetworkReady = make(chan struct{})
		r.run()
		r.create(testPod("p"))
		if !over(r.shutdownIn(t.Context())) {
			t.Error("it waits for what it cannot end")
		}
	})
}
