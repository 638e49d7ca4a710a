package core

import (
	"context"
	"errors"
	"net/netip"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

// memory is a Collection of one process with the store's promises about writes; it has no watches.
type memory struct {
	mu    sync.Mutex
	items map[string]*store.Item
	rev   int64
	fail  error // of the next write
}

func (m *memory) Create(ctx context.Context, key string, obj store.Object) (*store.Item, error) {
	return m.Mutate(ctx, key, func(current *store.Item) (store.Change, error) {
		if current != nil {
			return store.Change{}, store.ErrExists
		}
		return store.Change{Put: obj}, nil
	})
}

func (m *memory) Get(_ context.Context, key, _ string) (*store.Item, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if item := m.items[key]; item != nil {
		return item, nil
	}
	return nil, store.ErrNotFound
}

func (m *memory) Mutate(_ context.Context, key string, decide func(*store.Item) (store.Change, error)) (*store.Item, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	current := m.items[key]
	change, err := decide(current)
	if err != nil {
		return nil, err
	}
	if err := m.fail; err != nil && (change.Put != nil || change.Delete) {
		m.fail = nil
		return nil, err
	}
	switch {
	case change.Delete:
		delete(m.items, key)
	case change.Put != nil:
		m.rev++
		current = &store.Item{Key: key, Object: change.Put.DeepCopyObject().(store.Object), Revision: m.rev}
		m.items[key] = current
	}
	return current, nil
}

func (m *memory) List(_ context.Context, opts store.ListOptions) (*store.List, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := &store.List{Revision: m.rev}
	for _, item := range m.items {
		if (opts.Namespace == "" || strings.HasPrefix(item.Key, opts.Namespace+"/")) && (opts.Match == nil || opts.Match(item)) {
			list.Items = append(list.Items, item)
		}
	}
	sort.Slice(list.Items, func(i, j int) bool { return list.Items[i].Key < list.Items[j].Key })
	return list, nil
}

func (m *memory) Watch(context.Context, store.WatchOptions) (store.Watch, error) {
	return nil, errors.New("no watches here")
}

// world is the store around a row under test.
type world map[string]*memory

func (w world) collection(key string, _ schema.GroupVersionKind) store.Collection {
	if w[key] == nil {
		w[key] = &memory{items: map[string]*store.Item{}}
	}
	return w[key]
}

func newWorld(cidrs ...string) (world, registry.Deps, *Allocators, registry.Resource) {
	w := world{}
	deps := registry.Deps{Collection: w.collection, NodePorts: registry.PortRange{From: 30000, To: 30063}}
	for _, c := range cidrs {
		deps.ServiceCIDRs = append(deps.ServiceCIDRs, netip.MustParsePrefix(c))
	}
	w.collection("ipaddresses", schema.GroupVersionKind{})
	w.collection("servicecidrs", schema.GroupVersionKind{})
	w.collection("ranges", schema.GroupVersionKind{})
	w.collection("services/specs", schema.GroupVersionKind{})
	a := NewAllocators(deps)
	return w, deps, a, Service(deps, a)
}

func parseService(t interface {
	Helper()
	Fatal(...any)
}, manifest string) *corev1.Service {
	t.Helper()
	s := &corev1.Service{}
	if err := yaml.UnmarshalStrict([]byte(manifest), s); err != nil {
		t.Fatal(err)
	}
	return s
}

// create takes a service through the hooks the way the generic handler does.
func create(row registry.Resource, w world, s *corev1.Service) error {
	ctx := context.Background()
	row.Default(s)
	row.Strategy.PrepareForCreate(ctx, s)
	if errs := row.Strategy.Validate(ctx, s); len(errs) > 0 {
		return errs.ToAggregate()
	}
	finish, err := row.Strategy.Allocate(ctx, s, nil, false)
	if err != nil {
		return err
	}
	_, err = w["services/specs"].Create(ctx, s.Namespace+"/"+s.Name, s)
	finish(err == nil)
	return err
}

func update(row registry.Resource, w world, s, old *corev1.Service) error {
	ctx := context.Background()
	row.Default(s)
	s.ResourceVersion, old.ResourceVersion = "1", "1"
	row.Strategy.PrepareForUpdate(ctx, s, old)
	if errs := row.Strategy.ValidateUpdate(ctx, s, old); len(errs) > 0 {
		return errs.ToAggregate()
	}
	finish, err := row.Strategy.Allocate(ctx, s, old, false)
	if err != nil {
		return err
	}
	_, err = w["services/specs"].Mutate(ctx, s.Namespace+"/"+s.Name, func(*store.Item) (store.Change, error) { return store.Change{Put: s}, nil })
	finish(err == nil)
	return err
}

func remove(row registry.Resource, w world, s *corev1.Service) error {
	finish, err := row.Strategy.Allocate(context.Background(), nil, s, false)
	if err != nil {
		return err
	}
	_, err = w["services/specs"].Mutate(context.Background(), s.Namespace+"/"+s.Name, func(*store.Item) (store.Change, error) { return store.Change{Delete: true}, nil })
	finish(err == nil)
	return err
}

func TestServiceDefaultsAndAllocation(t *testing.T) {
	w, _, _, row := newWorld("10.43.0.0/16")
	s := parseService(t, `{metadata: {name: web, namespace: default}, spec: {type: NodePort, selector: {app: web}, ports: [{port: 80}]}}`)
	if err := create(row, w, s); err != nil {
		t.Fatal(err)
	}
	p := s.Spec.Ports[0]
	if s.Spec.ClusterIP == "" || s.Spec.ClusterIPs[0] != s.Spec.ClusterIP || !netip.MustParsePrefix("10.43.0.0/16").Contains(netip.MustParseAddr(s.Spec.ClusterIP)) {
		t.Errorf("clusterIP %q %v", s.Spec.ClusterIP, s.Spec.ClusterIPs)
	}
	if p.Protocol != "TCP" || p.TargetPort.IntValue() != 80 || p.NodePort < 30000 || p.NodePort > 30063 {
		t.Errorf("port %+v", p)
	}
	if s.Spec.SessionAffinity != "None" || *s.Spec.InternalTrafficPolicy != "Cluster" || s.Spec.ExternalTrafficPolicy != "Cluster" ||
		*s.Spec.IPFamilyPolicy != "SingleStack" || s.Spec.IPFamilies[0] != "IPv4" {
		t.Errorf("defaults: %+v", s.Spec)
	}
	ip := w["ipaddresses"].items[s.Spec.ClusterIP].Object.(*networkingv1.IPAddress)
	if ip.Spec.ParentRef.Name != "web" || ip.Spec.ParentRef.Namespace != "default" || ip.Labels["ipaddress.kubernetes.io/managed-by"] != "ipallocator.k8s.io" {
		t.Errorf("claim: %+v", ip)
	}
	r := w["ranges"].items["servicenodeports"].Object.(*corev1.RangeAllocation)
	if r.Range != "30000-30063" || !decodePorts(r, registry.PortRange{From: 30000, To: 30063}).has(p.NodePort) {
		t.Errorf("range: %+v", r)
	}

	external := s.DeepCopy()
	external.Spec.Type, external.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
	if err := update(row, w, external, s); err != nil {
		t.Fatal(err)
	}
	if external.Spec.ClusterIP != "" || external.Spec.Ports[0].NodePort != 0 || len(w["ipaddresses"].items) != 0 {
		t.Errorf("ExternalName still holds %+v, claims %d", external.Spec, len(w["ipaddresses"].items))
	}
}

func TestServiceRefusals(t *testing.T) {
	w, _, _, row := newWorld("10.43.0.0/16")
	if err := create(row, w, parseService(t, `{metadata: {name: first, namespace: default}, spec: {clusterIP: 10.43.0.10, type: NodePort, ports: [{port: 80, nodePort: 30001}]}}`)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, spec, want string }{
		{"taken", `{clusterIP: 10.43.0.10, ports: [{port: 80}]}`, `spec.clusterIPs: Invalid value: ["10.43.0.10"]: failed to allocate IP 10.43.0.10: provided IP is already allocated`},
		{"outside", `{clusterIP: 10.44.0.1, ports: [{port: 80}]}`, `failed to allocate IP 10.44.0.1: the provided network does not match the current range`},
		{"broadcast", `{clusterIP: 10.43.255.255, ports: [{port: 80}]}`, `does not match the current range`},
		{"nodePort_taken", `{type: NodePort, ports: [{port: 80, nodePort: 30001}]}`, `spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated`},
		{"nodePort_outside", `{type: NodePort, ports: [{port: 80, nodePort: 80}]}`, `spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-30063`},
		{"nodePort_on_clusterIP", `{ports: [{port: 80, nodePort: 30002}]}`, "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"},
		{"no_ports", `{}`, "spec.ports: Required value"},
		{"unnamed_ports", `{ports: [{port: 80}, {port: 81}]}`, "spec.ports[0].name: Required value"},
		{"duplicate_ports", `{ports: [{name: a, port: 80}, {name: b, port: 80}]}`, "spec.ports[1]: Duplicate value"},
		{"type", `{type: Magic, ports: [{port: 80}]}`, `spec.type: Unsupported value: "Magic"`},
		{"affinity", `{sessionAffinity: Sticky, ports: [{port: 80}]}`, `spec.sessionAffinity: Unsupported value: "Sticky": supported values: "ClientIP", "None"`},
		{"affinity_timeout", `{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 90000}}, ports: [{port: 80}]}`, "must be greater than 0 and less than 86400"},
		{"bad_ip", `{clusterIP: nope, ports: [{port: 80}]}`, `spec.clusterIPs[0]: Invalid value: "nope": must be a valid IP address`},
		{"external_without_name", `{type: ExternalName}`, "spec.externalName: Required value"},
		{"headless_nodePort", `{type: NodePort, clusterIP: None, ports: [{port: 80}]}`, "may not be set to 'None' for NodePort services"},
		{"dual_stack", `{ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]}`, "this cluster is not configured for dual-stack services"},
		{"family", `{ipFamilies: [IPv6], ports: [{port: 80}]}`, "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"},
		{"external_policy", `{externalTrafficPolicy: Local, ports: [{port: 80}]}`, "may only be set for externally-accessible services"},
		{"name", `{ports: [{name: Web, port: 80}]}`, `spec.ports[0].name: Invalid value: "Web"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := len(w["ipaddresses"].items)
			err := create(row, w, parseService(t, `{metadata: {name: other, namespace: default}, spec: `+test.spec+`}`))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("want %s\ngot  %v", test.want, err)
			}
			if after := len(w["ipaddresses"].items); after != before {
				t.Errorf("a refused service keeps %d addresses", after-before)
			}
		})
	}
}

func TestServiceUpdates(t *testing.T) {
	base := `{metadata: {name: web, namespace: default}, spec: {type: NodePort, ports: [{port: 80}]}}`
	for _, test := range []struct {
		name   string
		change func(*corev1.Service)
		want   string
	}{
		{"put_back_manifest", func(s *corev1.Service) {
			s.Spec = corev1.ServiceSpec{Type: "NodePort", Ports: []corev1.ServicePort{{Port: 80}}}
		}, ""},
		{"change_ip", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.43.0.77", []string{"10.43.0.77"} }, "spec.clusterIPs[0]: Invalid value: [\"10.43.0.77\"]: may not change once set"},
		{"change_ip_only_singular", func(s *corev1.Service) { s.Spec.ClusterIP = "10.43.0.77" }, "may not change once set"},
		{"to_headless", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ClusterIP, s.Spec.ClusterIPs = "ClusterIP", "None", []string{"None"}
		}, "may not change once set"},
		{"to_clusterIP", func(s *corev1.Service) { s.Spec.Type = "ClusterIP" }, ""},
		{"second_port", func(s *corev1.Service) {
			s.Spec.Ports[0].Name = "a"
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "b", Port: 81})
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, _, _, row := newWorld("10.43.0.0/16")
			old := parseService(t, base)
			if err := create(row, w, old); err != nil {
				t.Fatal(err)
			}
			s := old.DeepCopy()
			test.change(s)
			err := update(row, w, s, old)
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("want %s\ngot  %v", test.want, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if s.Spec.ClusterIP != old.Spec.ClusterIP {
				t.Errorf("clusterIP moved from %s to %s", old.Spec.ClusterIP, s.Spec.ClusterIP)
			}
			if s.Spec.Type == "NodePort" && s.Spec.Ports[0].NodePort != old.Spec.Ports[0].NodePort {
				t.Errorf("nodePort moved")
			}
			checkClaims(t, w)
		})
	}
}

// checkClaims requires that claims and services agree exactly.
func checkClaims(t interface{ Errorf(string, ...any) }, w world) {
	owner, ports := map[string]string{}, map[int32]string{}
	for key, item := range w["services/specs"].items {
		s := item.Object.(*corev1.Service)
		for ip := range heldAddresses(s) {
			if other, taken := owner[ip]; taken {
				t.Errorf("%s and %s both have %s", key, other, ip)
			}
			owner[ip] = key
			if w["ipaddresses"].items[ip] == nil {
				t.Errorf("%s has %s without a claim", key, ip)
			}
		}
		for port := range heldPorts(s) {
			if other, taken := ports[port]; taken {
				t.Errorf("%s and %s both have node port %d", key, other, port)
			}
			ports[port] = key
		}
	}
	if len(owner) != len(w["ipaddresses"].items) {
		t.Errorf("%d addresses are claimed, %d in use", len(w["ipaddresses"].items), len(owner))
	}
	if item := w["ranges"].items[nodePortsKey]; item != nil {
		m := decodePorts(item.Object.(*corev1.RangeAllocation), registry.PortRange{From: 30000, To: 30063})
		claimed := sets.New[int32]()
		for p := m.ports.From; p <= m.ports.To; p++ {
			if m.has(p) {
				claimed.Insert(p)
			}
		}
		if !claimed.Equal(sets.KeySet(ports)) {
			t.Errorf("node ports %v are claimed, %v in use", sets.List(claimed), sets.List(sets.KeySet(ports)))
		}
	}
}

// TestAllocationProperty: whatever is created, changed, deleted or fails to be written, no two services ever have one
// address or node port, and nothing is claimed that no service has.
func TestAllocationProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, _, _, row := newWorld("10.43.0.0/27")
		services := w["services/specs"]
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}).Draw(t, "name")
			kind := rapid.SampledFrom([]corev1.ServiceType{"ClusterIP", "NodePort", "LoadBalancer", "ExternalName"}).Draw(t, "type")
			s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}
			s.Spec.Type = kind
			s.Spec.Ports = []corev1.ServicePort{{Name: "x", Port: 80, Protocol: "TCP"}, {Name: "y", Port: 80, Protocol: "UDP"}}
			if kind == "ExternalName" {
				s.Spec.ExternalName = "example.com"
			} else if rapid.Bool().Draw(t, "headless") && kind == "ClusterIP" {
				s.Spec.ClusterIP = "None"
			} else if rapid.Bool().Draw(t, "named") {
				s.Spec.ClusterIP = newAddressPool(netip.MustParsePrefix("10.43.0.0/27")).at2(rapid.Uint64Range(0, 29).Draw(t, "ip"))
			}
			if rapid.Bool().Draw(t, "port") && (kind == "NodePort" || kind == "LoadBalancer") {
				s.Spec.Ports[0].NodePort = rapid.Int32Range(30000, 30010).Draw(t, "nodePort")
			}
			if rapid.IntRange(0, 9).Draw(t, "fails") == 0 {
				services.fail = errors.New("etcd is down")
			}
			item := services.items["default/"+name]
			switch {
			case item == nil:
				_ = create(row, w, s)
			case rapid.Bool().Draw(t, "delete"):
				_ = remove(row, w, item.Object.(*corev1.Service))
			default:
				_ = update(row, w, s, item.Object.(*corev1.Service).DeepCopy())
			}
			services.fail = nil
			checkClaims(t, w)
		}
	})
}

func (p addressPool) at2(offset uint64) string { a := p.at(offset); return a.String() }

func TestConcurrentAllocation(t *testing.T) {
	w, _, _, row := newWorld("10.43.0.0/24")
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s" + string(rune('a'+i%26)) + string(rune('a'+i/26)), Namespace: "default"}}
			s.Spec.Ports = []corev1.ServicePort{{Port: 80}}
			if err := create(row, w, s); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	checkClaims(t, w)
}

func TestFullRange(t *testing.T) {
	w, _, _, row := newWorld("10.43.0.0/29")
	var err error
	n := 0
	for ; err == nil && n < 20; n++ {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s" + string(rune('a'+n)), Namespace: "default"}}
		s.Spec.Ports = []corev1.ServicePort{{Port: 80}}
		err = create(row, w, s)
	}
	if n != 7 || !strings.Contains(err.Error(), "range is full") { // 6 usable addresses, then no more
		t.Errorf("after %d services: %v", n, err)
	}
}

func TestRepair(t *testing.T) {
	w, _, a, row := newWorld("10.43.0.0/16")
	s := parseService(t, `{metadata: {name: web, namespace: default}, spec: {type: NodePort, ports: [{port: 80}]}}`)
	if err := create(row, w, s); err != nil {
		t.Fatal(err)
	}
	delete(w["ipaddresses"].items, s.Spec.ClusterIP) // lost
	leaked := ipAddress(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "gone", Namespace: "default"}}, netip.MustParseAddr("10.43.7.7"))
	young := leaked.DeepCopy()
	young.Name, young.UID = "10.43.7.8", "young"
	leaked.CreationTimestamp = metav1.NewTime(time.Now().Add(-time.Hour))
	foreign := leaked.DeepCopy()
	foreign.Name, foreign.Labels = "10.43.7.9", nil
	for _, ip := range []*networkingv1.IPAddress{leaked, young, foreign} {
		if _, err := w["ipaddresses"].Create(t.Context(), ip.Name, ip); err != nil {
			t.Fatal(err)
		}
	}
	m := decodePorts(nil, registry.PortRange{From: 30000, To: 30063})
	m.set(30040, 1) // leaked; the service's own bit is lost
	w["ranges"].items[nodePortsKey] = &store.Item{Key: nodePortsKey, Object: m.encode()}

	read := func() portMap {
		return decodePorts(w["ranges"].items[nodePortsKey].Object.(*corev1.RangeAllocation), registry.PortRange{From: 30000, To: 30063})
	}
	if err := a.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	have := sets.KeySet(w["ipaddresses"].items)
	if !have.Equal(sets.New(s.Spec.ClusterIP, young.Name, foreign.Name)) {
		t.Errorf("claims after repair: %v", sets.List(have))
	}
	if m := read(); !m.has(30040) || !m.has(s.Spec.Ports[0].NodePort) {
		t.Error("the first round must restore what is in use and only note what is not")
	}
	if err := a.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m := read(); m.has(30040) || !m.has(s.Spec.Ports[0].NodePort) {
		t.Error("the second round gives a leaked port back")
	}
}

func TestPortRangeChange(t *testing.T) {
	m := decodePorts(nil, registry.PortRange{From: 30000, To: 30063})
	m.set(30010, 1)
	m.set(30060, 1)
	moved := decodePorts(m.encode(), registry.PortRange{From: 30005, To: 30020})
	if !moved.has(30010) || moved.taken.BitLen() != 6 {
		t.Errorf("only 30010 lies in the new range: %b", moved.taken)
	}
}

func FuzzDecodePorts(f *testing.F) {
	f.Add("30000-30063", []byte{1, 2, 3})
	f.Add("1-99999999", []byte{0xff})
	f.Add("-5--1", []byte{0xff, 0xff})
	f.Fuzz(func(t *testing.T, r string, data []byte) {
		ports := registry.PortRange{From: 30000, To: 30063}
		m := decodePorts(&corev1.RangeAllocation{Range: r, Data: data}, ports)
		port, err := m.any()
		if err == nil && !ports.Contains(port) {
			t.Errorf("handed out %d", port)
		}
	})
}
