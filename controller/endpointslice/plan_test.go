package endpointslice

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

func service(ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "svc", Labels: map[string]string{"team": "x", discoveryv1.LabelManagedBy: "me"}},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, ClusterIP: "10.43.0.9", Ports: ports},
	}
}

func port(name string, target intstr.IntOrString) corev1.ServicePort {
	return corev1.ServicePort{Name: name, Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: target}
}

func podN(i int, ready bool) *corev1.Pod {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	ip := fmt.Sprintf("10.42.%d.%d", i/250, i%250+1)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprintf("p%04d", i), UID: types.UID(fmt.Sprintf("u%d", i)), Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}},
		}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}},
		},
	}
}

func noZone(string) string { return "" }

func TestEndpointConditions(t *testing.T) {
	svc := service(port("http", intstr.FromString("http")))
	now := metav1.Now()
	for name, tc := range map[string]struct {
		change                      func(*corev1.Pod, *corev1.Service)
		ready, serving, terminating bool
		none                        bool
	}{
		"ready":     {change: func(*corev1.Pod, *corev1.Service) {}, ready: true, serving: true},
		"not_ready": {change: func(p *corev1.Pod, _ *corev1.Service) { p.Status.Conditions = nil }},
		"not_ready_publish": {change: func(p *corev1.Pod, s *corev1.Service) {
			p.Status.Conditions = nil
			s.Spec.PublishNotReadyAddresses = true
		}, ready: true},
		"terminating": {change: func(p *corev1.Pod, _ *corev1.Service) { p.DeletionTimestamp = &now }, serving: true, terminating: true},
		"terminating_not_ready": {change: func(p *corev1.Pod, _ *corev1.Service) {
			p.DeletionTimestamp, p.Status.Conditions = &now, nil
		}, terminating: true},
		"terminating_publish": {change: func(p *corev1.Pod, s *corev1.Service) {
			p.DeletionTimestamp, s.Spec.PublishNotReadyAddresses = &now, true
		}, ready: true, serving: true, terminating: true},
		"no_address": {change: func(p *corev1.Pod, _ *corev1.Service) { p.Status.PodIP, p.Status.PodIPs = "", nil }, none: true},
		"failed":     {change: func(p *corev1.Pod, _ *corev1.Service) { p.Status.Phase = corev1.PodFailed }, none: true},
		"succeeded":  {change: func(p *corev1.Pod, _ *corev1.Service) { p.Status.Phase = corev1.PodSucceeded }, none: true},
	} {
		t.Run(name, func(t *testing.T) {
			p, s := podN(1, true), svc.DeepCopy()
			tc.change(p, s)
			groups := desired(s, []*corev1.Pod{p}, discoveryv1.AddressTypeIPv4, noZone)
			if tc.none != (len(groups) == 0) {
				t.Fatalf("groups %v", groups)
			}
			if tc.none {
				return
			}
			e := groups[0].endpoints[0]
			if *e.Conditions.Ready != tc.ready || *e.Conditions.Serving != tc.serving || *e.Conditions.Terminating != tc.terminating {
				t.Errorf("ready %v serving %v terminating %v", *e.Conditions.Ready, *e.Conditions.Serving, *e.Conditions.Terminating)
			}
		})
	}
}

func TestDesired(t *testing.T) {
	svc := service(port("http", intstr.FromString("http")), port("metrics", intstr.FromInt32(9090)), port("absent", intstr.FromString("nope")))
	svc.Name = "web"
	a, b := podN(1, true), podN(2, true)
	a.Spec.Hostname, a.Spec.Subdomain = "db-0", "web"
	b.Spec.Hostname, b.Spec.Subdomain = "db-1", "elsewhere"
	b.Spec.Containers[0].Ports[0].ContainerPort = 8081
	always := corev1.ContainerRestartPolicyAlways
	c := podN(3, true)
	c.Spec.InitContainers = []corev1.Container{{RestartPolicy: &always, Ports: c.Spec.Containers[0].Ports}}
	c.Spec.Containers = []corev1.Container{{}}
	groups := desired(svc, []*corev1.Pod{c, b, a}, discoveryv1.AddressTypeIPv4, func(n string) string { return "zone-of-" + n })
	if len(groups) != 2 {
		t.Fatalf("%d groups, want one for 8080 and one for 8081", len(groups))
	}
	for _, g := range groups {
		if len(g.ports) != 2 || *g.ports[0].Name != "http" || *g.ports[1].Port != 9090 {
			t.Errorf("ports %v", g.ports)
		}
	}
	first := groups[0].endpoints
	if *groups[0].ports[0].Port != 8080 || len(first) != 2 || first[0].TargetRef.Name != a.Name || first[1].TargetRef.Name != c.Name {
		t.Fatalf("group of 8080: %v", first)
	}
	if e := first[0]; *e.Hostname != "db-0" || *e.NodeName != "n1" || *e.Zone != "zone-of-n1" || e.TargetRef.UID != a.UID {
		t.Errorf("endpoint %v", e)
	}
	if e := groups[1].endpoints[0]; e.Hostname != nil {
		t.Errorf("hostname of another subdomain: %q", *e.Hostname)
	}
	if got := desired(svc, []*corev1.Pod{a}, discoveryv1.AddressTypeIPv6, noZone); len(got) != 0 {
		t.Errorf("IPv6 endpoints of an IPv4 pod: %v", got)
	}
}

func TestPlaceholder(t *testing.T) {
	svc := service(port("http", intstr.FromString("http")))
	tpl := serviceTemplate(svc)
	want := map[discoveryv1.AddressType][]group{discoveryv1.AddressTypeIPv4: nil}
	ch := plan(tpl, want, nil)
	if len(ch.create) != 1 || len(ch.create[0].Endpoints) != 0 || ch.create[0].Endpoints == nil || ch.create[0].Ports == nil {
		t.Fatalf("no pods: %+v", ch)
	}
	s := ch.create[0]
	if s.GenerateName != "web-" || s.Labels["team"] != "x" || s.Labels[discoveryv1.LabelManagedBy] != managedByController ||
		s.Labels[discoveryv1.LabelServiceName] != "web" || s.OwnerReferences[0].UID != "svc" || !*s.OwnerReferences[0].Controller {
		t.Errorf("metadata %+v", s.ObjectMeta)
	}
	if again := plan(tpl, want, ch.create); !again.empty() {
		t.Errorf("second run: %+v", again)
	}
	want[discoveryv1.AddressTypeIPv4] = desired(svc, []*corev1.Pod{podN(1, true)}, discoveryv1.AddressTypeIPv4, noZone)
	first := plan(tpl, want, ch.create)
	if len(first.create) != 0 || len(first.delete) != 0 || len(first.update) != 1 {
		t.Fatalf("first pod must reuse the empty slice: %+v", first)
	}
	want[discoveryv1.AddressTypeIPv4] = nil
	last := plan(tpl, want, first.update)
	if len(last.create) != 0 || len(last.delete) != 0 || len(last.update) != 1 || len(last.update[0].Endpoints) != 0 {
		t.Fatalf("last pod must empty the slice: %+v", last)
	}
}

// world applies changes as the API would.
type world struct {
	slices []*discoveryv1.EndpointSlice
	n      int
}

func (w *world) apply(ch changes) {
	for _, s := range ch.create {
		w.n++
		s.Name = fmt.Sprintf("web-%d", w.n)
		w.slices = append(w.slices, s)
	}
	for _, s := range ch.update {
		i := slices.IndexFunc(w.slices, func(o *discoveryv1.EndpointSlice) bool { return o.Name == s.Name })
		w.slices[i] = s
	}
	for _, s := range ch.delete {
		w.slices = slices.DeleteFunc(w.slices, func(o *discoveryv1.EndpointSlice) bool { return o.Name == s.Name })
	}
}

// Whatever happens to the pods: after a plan every wanted endpoint is in exactly one slice in its present state, nothing else
// is, no slice is over-full, a second plan has nothing to do, and one changed pod writes at most two slices.
func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		svc := service(port("http", intstr.FromString("http")))
		tpl := serviceTemplate(svc)
		w := &world{}
		pods := map[int]*corev1.Pod{}
		add := func(i int) {
			p := podN(i, i%3 > 0)
			if i%7 == 0 {
				p.Spec.Containers[0].Ports[0].ContainerPort = 9999
			}
			pods[i] = p
		}
		for range rapid.IntRange(1, 6).Draw(t, "rounds") {
			before := len(pods)
			touched := 0
			switch rapid.IntRange(0, 3).Draw(t, "op") {
			case 0:
				for range rapid.IntRange(1, 260).Draw(t, "added") {
					add(rapid.IntRange(0, 600).Draw(t, "pod"))
				}
				touched = 1000
			case 1:
				for i := range pods {
					if rapid.Bool().Draw(t, "goes") {
						delete(pods, i)
					}
				}
				touched = 1000
			case 2:
				for i := range 601 {
					if pods[i] != nil {
						pods[i] = podN(i, i%3 == 0)
						touched = 1
						break
					}
				}
			case 3:
				add(601 + rapid.IntRange(0, 20).Draw(t, "late"))
				touched = 1
			}
			all := []*corev1.Pod{}
			for _, p := range pods {
				all = append(all, p)
			}
			want := map[discoveryv1.AddressType][]group{}
			want[discoveryv1.AddressTypeIPv4] = desired(svc, all, discoveryv1.AddressTypeIPv4, noZone)
			ch := plan(tpl, want, w.slices)
			if touched == 1 && before > 0 && len(ch.create)+len(ch.update)+len(ch.delete) > 2 {
				t.Fatalf("one pod writes %d+%d+%d slices", len(ch.create), len(ch.update), len(ch.delete))
			}
			w.apply(ch)
			seen := map[string]bool{}
			for _, s := range w.slices {
				if len(s.Endpoints) > MaxEndpoints {
					t.Fatalf("slice of %d", len(s.Endpoints))
				}
				if len(s.Endpoints) == 0 && len(w.slices) > 1 {
					t.Fatal("an empty slice beside others")
				}
				for _, e := range s.Endpoints {
					if seen[e.TargetRef.Name] {
						t.Fatalf("%s twice", e.TargetRef.Name)
					}
					seen[e.TargetRef.Name] = true
					var p *corev1.Pod
					for _, o := range all {
						if o.Name == e.TargetRef.Name {
							p = o
						}
					}
					if p == nil || *e.Conditions.Ready != (p.Status.Conditions[0].Status == corev1.ConditionTrue) || *s.Ports[0].Port != p.Spec.Containers[0].Ports[0].ContainerPort {
						t.Fatalf("stale endpoint %s", e.TargetRef.Name)
					}
				}
			}
			if len(seen) != len(pods) || len(w.slices) == 0 {
				t.Fatalf("%d endpoints of %d pods in %d slices", len(seen), len(pods), len(w.slices))
			}
			if again := plan(tpl, want, w.slices); !again.empty() {
				t.Fatalf("second run is not empty: %d %d %d", len(again.create), len(again.update), len(again.delete))
			}
		}
	})
}

func TestMirroredGroups(t *testing.T) {
	ep := &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "ext", UID: "e", Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"note": "x", corev1.LastAppliedConfigAnnotation: "{}"}},
		Subsets: []corev1.EndpointSubset{{
			Addresses: []corev1.EndpointAddress{{IP: "192.0.2.2"}, {IP: "192.0.2.1"}, {IP: "2001:db8::1"}}, NotReadyAddresses: []corev1.EndpointAddress{{IP: "192.0.2.3"}},
			Ports: []corev1.EndpointPort{{Name: "p", Port: 80, Protocol: corev1.ProtocolTCP}},
		}},
	}
	ch := plan(mirrorTemplate(ep), mirroredGroups(ep), nil)
	if len(ch.create) != 2 {
		t.Fatalf("%d slices, want one a family", len(ch.create))
	}
	v4 := ch.create[0]
	if v4.AddressType != discoveryv1.AddressTypeIPv4 || len(v4.Endpoints) != 3 || v4.Endpoints[0].Addresses[0] != "192.0.2.1" || *v4.Endpoints[2].Conditions.Ready {
		t.Errorf("v4 slice %+v", v4.Endpoints)
	}
	if v4.Labels["a"] != "b" || v4.Labels[discoveryv1.LabelManagedBy] != managedByMirroring || v4.Annotations["note"] != "x" || len(v4.Annotations) != 1 {
		t.Errorf("metadata %+v", v4.ObjectMeta)
	}
	ep.Subsets = nil
	gone := plan(mirrorTemplate(ep), mirroredGroups(ep), ch.create)
	if len(gone.delete) != 2 || len(gone.create) != 0 {
		t.Errorf("emptied: %+v", gone)
	}
}
