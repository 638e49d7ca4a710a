package podstate

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func ready(status corev1.ConditionStatus, since time.Time) *corev1.Pod {
	return &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.42.0.2", Conditions: []corev1.PodCondition{
		{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.NewTime(since)}}}}
}

func TestAvailable(t *testing.T) {
	for name, tc := range map[string]struct {
		pod      *corev1.Pod
		minReady time.Duration
		ok       bool
		wait     time.Duration
	}{
		"no_condition":   {&corev1.Pod{}, 0, false, 0},
		"not_ready":      {ready(corev1.ConditionFalse, t0), 0, false, 0},
		"ready":          {ready(corev1.ConditionTrue, t0), 0, true, 0},
		"ready_too_new":  {ready(corev1.ConditionTrue, t0.Add(-3*time.Second)), 10 * time.Second, false, 7 * time.Second},
		"ready_enough":   {ready(corev1.ConditionTrue, t0.Add(-10*time.Second)), 10 * time.Second, true, 0},
		"unknown_since":  {ready(corev1.ConditionTrue, time.Time{}), 10 * time.Second, false, 0},
		"in_the_future":  {ready(corev1.ConditionTrue, t0.Add(time.Second)), time.Second, false, 2 * time.Second},
		"unknown_status": {ready(corev1.ConditionUnknown, t0), time.Second, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if ok, wait := Available(tc.pod, tc.minReady, t0); ok != tc.ok || wait != tc.wait {
				t.Errorf("%v %s, want %v %s", ok, wait, tc.ok, tc.wait)
			}
		})
	}
}

func TestPort(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	port := func(name string, n int32, p corev1.Protocol) []corev1.ContainerPort {
		return []corev1.ContainerPort{{Name: name, ContainerPort: n, Protocol: p}}
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Ports: port("init", 1, corev1.ProtocolTCP)}, {RestartPolicy: &always, Ports: port("side", 2, corev1.ProtocolTCP)}},
		Containers:     []corev1.Container{{Ports: port("dns", 53, corev1.ProtocolUDP)}, {Ports: port("dns", 54, corev1.ProtocolTCP)}},
	}}
	for name, tc := range map[string]struct {
		target   intstr.IntOrString
		protocol corev1.Protocol
		want     int32
		ok       bool
	}{
		"number":         {intstr.FromInt32(9), corev1.ProtocolTCP, 9, true},
		"by_protocol":    {intstr.FromString("dns"), corev1.ProtocolTCP, 54, true},
		"other_protocol": {intstr.FromString("dns"), corev1.ProtocolUDP, 53, true},
		"sidecar":        {intstr.FromString("side"), corev1.ProtocolTCP, 2, true},
		"init":           {intstr.FromString("init"), corev1.ProtocolTCP, 0, false},
		"absent":         {intstr.FromString("x"), corev1.ProtocolTCP, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			if n, ok := Port(pod, &corev1.ServicePort{TargetPort: tc.target, Protocol: tc.protocol}); n != tc.want || ok != tc.ok {
				t.Errorf("%d %v, want %d %v", n, ok, tc.want, tc.ok)
			}
		})
	}
}

func TestIP(t *testing.T) {
	pod := &corev1.Pod{Status: corev1.PodStatus{PodIP: "10.42.0.2", PodIPs: []corev1.PodIP{{IP: "10.42.0.2"}, {IP: "fd00::2"}}}}
	if v4, v6 := IP(pod, corev1.IPv4Protocol), IP(pod, corev1.IPv6Protocol); v4 != "10.42.0.2" || v6 != "fd00::2" {
		t.Errorf("%q %q", v4, v6)
	}
	pod.Status.PodIPs = nil
	if v4, v6 := IP(pod, corev1.IPv4Protocol), IP(pod, corev1.IPv6Protocol); v4 != "10.42.0.2" || v6 != "" {
		t.Errorf("by podIP alone: %q %q", v4, v6)
	}
}

func TestEndpointChanged(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*corev1.Pod)
		want   bool
	}{
		"nothing":     {func(*corev1.Pod) {}, false},
		"annotation":  {func(p *corev1.Pod) { p.Annotations = map[string]string{"a": "b"} }, false},
		"restarts":    {func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 3}} }, false},
		"readiness":   {func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }, true},
		"deletion":    {func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: t0} }, true},
		"end":         {func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, true},
		"address":     {func(p *corev1.Pod) { p.Status.PodIP = "10.42.0.3" }, true},
		"addresses":   {func(p *corev1.Pod) { p.Status.PodIPs = []corev1.PodIP{{IP: "fd00::1"}} }, true},
		"node":        {func(p *corev1.Pod) { p.Spec.NodeName = "n" }, true},
		"other_pod":   {func(p *corev1.Pod) { p.UID = "x" }, true},
		"host_name":   {func(p *corev1.Pod) { p.Spec.Hostname = "x" }, true},
		"same_status": {func(p *corev1.Pod) { p.Status.Conditions[0].LastProbeTime = metav1.NewTime(t0) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			old, p := ready(corev1.ConditionTrue, t0), ready(corev1.ConditionTrue, t0)
			tc.change(p)
			if got := EndpointChanged(old, p); got != tc.want {
				t.Errorf("%v, want %v", got, tc.want)
			}
		})
	}
}
