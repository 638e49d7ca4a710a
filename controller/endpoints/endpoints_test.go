package endpoints

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/mini-k8s/mini/controller/controllertest"
)

func service() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", Labels: map[string]string{"team": "x"}},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, ClusterIP: "10.43.0.9",
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}
}

func pod(i int, ready bool) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprintf("p%d", i), UID: types.UID(fmt.Sprint("u", i)), Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: "n1"},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: fmt.Sprintf("10.42.%d.%d", i/200, i%200)},
	}
	p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
	if ready {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	return p
}

func addresses(ep *corev1.Endpoints) (out []string) {
	for _, s := range ep.Subsets {
		for _, a := range s.Addresses {
			out = append(out, a.IP)
		}
		for _, a := range s.NotReadyAddresses {
			out = append(out, "!"+a.IP)
		}
	}
	return out
}

func TestPlan(t *testing.T) {
	now := metav1.Now()
	terminating := pod(3, true)
	terminating.DeletionTimestamp = &now
	failed := pod(4, true)
	failed.Status.Phase = corev1.PodFailed
	pods := []*corev1.Pod{pod(2, true), pod(1, true), pod(5, false), terminating, failed}
	for name, tc := range map[string]struct {
		change func(*corev1.Service)
		want   string
		label  bool
	}{
		"cluster_ip":      {func(*corev1.Service) {}, "[10.42.0.1 10.42.0.2 !10.42.0.5]", false},
		"publish":         {func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }, "[10.42.0.1 10.42.0.2 10.42.0.3 10.42.0.5]", false},
		"headless":        {func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone }, "[10.42.0.1 10.42.0.2 !10.42.0.5]", true},
		"headless_nport":  {func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.Ports = corev1.ClusterIPNone, nil }, "[10.42.0.1 10.42.0.2 !10.42.0.5]", true},
		"absent_port":     {func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromString("x") }, "[]", false},
		"other_ip_family": {func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} }, "[]", false},
	} {
		t.Run(name, func(t *testing.T) {
			svc := service()
			tc.change(svc)
			ep := plan(svc, pods, nil)
			if ep == nil {
				t.Fatal("nothing to write")
			}
			if got := fmt.Sprint(addresses(ep)); got != tc.want {
				t.Errorf("addresses %s, want %s", got, tc.want)
			}
			_, headless := ep.Labels[corev1.IsHeadlessService]
			if headless != tc.label || ep.Labels["team"] != "x" || ep.Labels[labelManagedBy] != managedBy {
				t.Errorf("labels %v", ep.Labels)
			}
			if again := plan(svc, pods, ep); again != nil {
				t.Errorf("second run writes %v", again)
			}
		})
	}
}

func TestTruncates(t *testing.T) {
	var pods []*corev1.Pod
	for i := range 1200 {
		pods = append(pods, pod(i, i%2 == 0 || i > 1100))
	}
	ep := plan(service(), pods, nil)
	if n := len(addresses(ep)); n != 1000 || ep.Annotations[corev1.EndpointsOverCapacity] != "truncated" {
		t.Fatalf("%d addresses, annotations %v", n, ep.Annotations)
	}
	if ready := len(ep.Subsets[0].Addresses); ready != 650 {
		t.Errorf("%d ready addresses kept, want all 650", ready)
	}
	ep = plan(service(), pods[:10], ep)
	if ep == nil || ep.Annotations[corev1.EndpointsOverCapacity] != "" {
		t.Errorf("mark stays: %v", ep)
	}
}

func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		custom := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "custom"}}
		left := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "left", Labels: map[string]string{labelManagedBy: managedBy}}}
		w := controllertest.New(t, service(), pod(1, false), custom, left)
		c, err := New(Config{Client: w.Client, Informers: w.Informers, Feeds: w.Feeds, Logger: w.Logger})
		if err != nil {
			t.Fatal(err)
		}
		w.Start(c)
		get := func() string {
			synctest.Wait()
			ep, err := w.Client.CoreV1().Endpoints("ns").Get(ctx, "web", metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return "none"
			}
			return fmt.Sprint(addresses(ep))
		}
		if got := get(); got != "[!10.42.0.1]" {
			t.Fatalf("at start: %s", got)
		}
		if _, err := w.Client.CoreV1().Endpoints("ns").Get(ctx, "left", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("left-over Endpoints: %v", err)
		}
		if _, err := w.Client.CoreV1().Pods("ns").Update(ctx, pod(1, true), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := get(); got != "[10.42.0.1]" {
			t.Fatalf("ready: %s", got)
		}
		if err := w.Client.CoreV1().Services("ns").Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := get(); got != "none" {
			t.Fatalf("service deleted: %s", got)
		}
		if _, err := w.Client.CoreV1().Endpoints("ns").Get(ctx, "custom", metav1.GetOptions{}); err != nil {
			t.Errorf("Endpoints of nobody: %v", err)
		}
	})
}
