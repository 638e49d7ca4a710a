package endpointslice

import (
	"context"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/mini-k8s/mini/controller/controllertest"
)

func start(t *testing.T, objs ...runtime.Object) *controllertest.World {
	w := controllertest.New(t, objs...)
	c, err := New(Config{Client: w.Client, Informers: w.Informers, Feeds: w.Feeds, Logger: w.Logger})
	if err != nil {
		t.Fatal(err)
	}
	w.Start(c)
	synctest.Wait()
	return w
}

func slicesOf(t *testing.T, w *controllertest.World, name string) []discoveryv1.EndpointSlice {
	t.Helper()
	synctest.Wait()
	l, err := w.Client.DiscoveryV1().EndpointSlices("ns").List(context.Background(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + name})
	if err != nil {
		t.Fatal(err)
	}
	return l.Items
}

func TestFollowsPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := start(t, service(port("http", intstr.FromString("http"))), podN(1, false))
		s := slicesOf(t, w, "web")
		if len(s) != 1 || len(s[0].Endpoints) != 1 || *s[0].Endpoints[0].Conditions.Ready {
			t.Fatalf("at start: %+v", s)
		}
		w.Writes()
		if _, err := w.Client.CoreV1().Pods("ns").Update(ctx, podN(1, true), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if s := slicesOf(t, w, "web"); !*s[0].Endpoints[0].Conditions.Ready {
			t.Fatal("readiness has not arrived")
		}
		if got := w.Writes(); len(got) != 2 { // the test's and one of ours
			t.Errorf("writes: %v", got)
		}
		other := podN(1, true)
		other.Labels = map[string]string{"app": "other"}
		if _, err := w.Client.CoreV1().Pods("ns").Update(ctx, other, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if s := slicesOf(t, w, "web"); len(s) != 1 || len(s[0].Endpoints) != 0 {
			t.Fatalf("relabelled pod stays: %+v", s)
		}
		if err := w.Client.DiscoveryV1().EndpointSlices("ns").Delete(ctx, s[0].Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if s := slicesOf(t, w, "web"); len(s) != 1 {
			t.Fatalf("slice deleted by hand: %d", len(s))
		}
		svc := service()
		svc.Spec.Type, svc.Spec.Selector = corev1.ServiceTypeExternalName, nil
		if _, err := w.Client.CoreV1().Services("ns").Update(ctx, svc, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if s := slicesOf(t, w, "web"); len(s) != 0 {
			t.Fatalf("ExternalName has %d slices", len(s))
		}
	})
}

func TestMirrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		svc := service(port("http", intstr.FromInt32(80)))
		svc.Spec.Selector = nil
		ep := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Subsets: []corev1.EndpointSubset{{
			Addresses: []corev1.EndpointAddress{{IP: "192.0.2.1"}}, Ports: []corev1.EndpointPort{{Port: 80, Protocol: corev1.ProtocolTCP}}}}}
		w := start(t, svc, ep)
		s := slicesOf(t, w, "web")
		if len(s) != 1 || s[0].Endpoints[0].Addresses[0] != "192.0.2.1" || s[0].Labels[discoveryv1.LabelManagedBy] != managedByMirroring {
			t.Fatalf("mirror: %+v", s)
		}
		ep.Subsets[0].Addresses[0].IP = "192.0.2.9"
		ep.ResourceVersion = ""
		if _, err := w.Client.CoreV1().Endpoints("ns").Update(ctx, ep, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if s := slicesOf(t, w, "web"); len(s) != 1 || s[0].Endpoints[0].Addresses[0] != "192.0.2.9" {
			t.Fatalf("changed: %+v", s)
		}
		if err := w.Client.CoreV1().Endpoints("ns").Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if s := slicesOf(t, w, "web"); len(s) != 0 {
			t.Fatalf("deleted: %+v", s)
		}
	})
}
