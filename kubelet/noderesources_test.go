// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestForeignNodeResources has somebody else put an extended resource into the Node: it stays, can be used, and goes with its capacity.
func TestForeignNodeResources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const name = corev1.ResourceName("example.com/dongle")
		r := newRig(t)
		r.run()
		nodes := r.cs.CoreV1().Nodes()
		change := func(f func(*corev1.NodeStatus)) *corev1.Node {
			t.Helper()
			n, err := nodes.Get(context.Background(), "n1", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			n = n.DeepCopy()
			f(&n.Status)
			if _, err := nodes.UpdateStatus(context.Background(), n, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			after(2 * statusInterval)
			n, err = nodes.Get(context.Background(), "n1", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		n := change(func(s *corev1.NodeStatus) { s.Capacity[name] = resource.MustParse("2") })
		if c, a := n.Status.Capacity[name], n.Status.Allocatable[name]; c.Value() != 2 || a.Value() != 2 {
			t.Fatalf("capacity %v, allocatable %v", n.Status.Capacity, n.Status.Allocatable)
		}
		if n.Status.Capacity.Cpu().IsZero() || n.Status.Allocatable.Memory().IsZero() {
			t.Errorf("own resources lost: %v", n.Status.Capacity)
		}
		use := func(pod, amount string) corev1.PodStatus {
			l := corev1.ResourceList{name: resource.MustParse(amount)}
			r.create(testPod(pod, corev1.Container{Name: "c", Image: "app:1", Resources: corev1.ResourceRequirements{Requests: l, Limits: l}}))
			after(time.Second)
			return r.get(pod).Status
		}
		if st := use("fits", "2"); st.Phase != corev1.PodRunning {
			t.Errorf("%+v", st)
		}
		if st := use("too-much", "1"); st.Reason != "OutOfexample.com/dongle" {
			t.Errorf("%+v", st)
		}
		n = change(func(s *corev1.NodeStatus) { delete(s.Capacity, name) })
		if _, ok := n.Status.Allocatable[name]; ok {
			t.Errorf("allocatable still has it: %v", n.Status.Allocatable)
		}
		// What the node does not name is counted by somebody else.
		if st := use("of-the-cluster", "5"); st.Phase != corev1.PodRunning {
			t.Errorf("%+v", st)
		}
	})
}

func TestSysctls(t *testing.T) {
	for name, tc := range map[string]struct {
		sysctl  string
		allowed []string
		change  func(*corev1.PodSpec)
		message string
	}{
		"safe":            {sysctl: "kernel.shm_rmid_forced"},
		"safe_by_slashes": {sysctl: "net/ipv4/tcp_syncookies"},
		"unsafe":          {sysctl: "kernel.msgmax", message: `forbidden sysctl: "kernel.msgmax" not allowlisted`},
		"allowed":         {sysctl: "kernel.msgmax", allowed: []string{"kernel.msg*"}},
		"allowed_exactly": {sysctl: "net.core.somaxconn", allowed: []string{"net.core.somaxconn"}},
		"prefix_is_no_*":  {sysctl: "kernel.msgmax", allowed: []string{"kernel.msg"}, message: `forbidden sysctl: "kernel.msgmax" not allowlisted`},
		"host_network": {sysctl: "net.ipv4.tcp_syncookies", change: func(s *corev1.PodSpec) { s.HostNetwork = true },
			message: `forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host net enabled`},
		"host_ipc": {sysctl: "kernel.shm_rmid_forced", change: func(s *corev1.PodSpec) { s.HostIPC = true },
			message: `forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host ipc enabled`},
	} {
		t.Run(name, func(t *testing.T) {
			pod := testPod("p")
			pod.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: tc.sysctl, Value: "1"}}}
			if tc.change != nil {
				tc.change(&pod.Spec)
			}
			f := checkSysctls(pod, tc.allowed)
			switch {
			case f == nil && tc.message != "":
				t.Error("accepted")
			case f != nil && (f.Reason != "SysctlForbidden" || f.Message != tc.message):
				t.Errorf("%+v, want %q", f, tc.message)
			}
		})
	}
}

func TestRuntimeClass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t,
			&nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "usual"}, Handler: "runc"},
			&nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "exotic"}, Handler: "kata"})
		r.run()
		for class, phase := range map[string]corev1.PodPhase{"usual": corev1.PodRunning, "exotic": corev1.PodPending} {
			p := testPod(class)
			p.Spec.RuntimeClassName = &class
			r.create(p)
			after(time.Second)
			if got := r.get(class).Status.Phase; got != phase {
				t.Errorf("class %s: %s", class, got)
			}
		}
		if !r.events.has(`FailedCreatePodSandBox: Failed to create pod sandbox: failed to get sandbox runtime: no runtime for "kata" is configured`) {
			t.Errorf("%q", r.events.all)
		}
	})
}
