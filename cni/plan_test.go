package cni

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var compareAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
var comparePrefixes = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

func TestPlan(t *testing.T) {
	self := snapshot{
		Bridge: "mini0", ClusterCIDR: prefix("10.42.0.0/16"), PodCIDR: prefix("10.42.0.0/24"),
		Uplink: uplink{Index: 2, MTU: 1500, Prefix: prefix("192.168.1.1/24"), Held: true},
	}
	seg := func(mtu int) segment { return segment{"mini0", prefix("10.42.0.0/24"), prefix("10.42.0.0/16"), mtu} }
	for _, tc := range []struct {
		name   string
		peers  []peer
		uplink uplink
		want   network
	}{
		{"alone", nil, self.Uplink, network{Segment: seg(1500)}},
		{"same_subnet", []peer{{"b", addr("192.168.1.2"), prefix("10.42.1.0/24")}}, self.Uplink, network{
			Segment: seg(1500), Nodes: []netip.Addr{addr("192.168.1.2")},
			Routes: []route{{Dst: prefix("10.42.1.0/24"), Via: addr("192.168.1.2"), Table: mainTable}},
		}},
		{"other_subnet", []peer{{"b", addr("192.168.2.2"), prefix("10.42.1.0/24")}}, self.Uplink, network{
			Segment: seg(1450), Nodes: []netip.Addr{addr("192.168.2.2")}, Tunnel: true,
			Routes: []route{
				{Dst: prefix("10.42.1.0/24"), Via: addr("10.42.1.0"), Src: addr("192.168.1.1"), Tunnel: true, Table: mainTable},
				{Dst: prefix("192.168.2.2/32"), Via: addr("10.42.1.0"), Tunnel: true, Table: tunnelTable},
			},
			TunnelEnds: []tunnelEnd{{addr("10.42.1.0"), addr("192.168.2.2")}},
		}},
		{"behind_NAT", []peer{{"b", addr("192.168.2.2"), prefix("10.42.1.0/24")}}, uplink{Index: 2, MTU: 9000, Prefix: prefix("203.0.113.1/32")}, network{
			Segment: seg(8950), Nodes: []netip.Addr{addr("192.168.2.2")}, Tunnel: true,
			Routes: []route{
				{Dst: prefix("10.42.1.0/24"), Via: addr("10.42.1.0"), Tunnel: true, Table: mainTable},
				{Dst: prefix("192.168.2.2/32"), Via: addr("10.42.1.0"), Tunnel: true, Table: tunnelTable},
			},
			TunnelEnds: []tunnelEnd{{addr("10.42.1.0"), addr("192.168.2.2")}},
		}},
		{"no_podCIDR_yet", []peer{{"b", addr("192.168.1.2"), netip.Prefix{}}}, self.Uplink,
			network{Segment: seg(1500), Nodes: []netip.Addr{addr("192.168.1.2")}}},
		// A second node object with our address is an older life of this node.
		{"own_address", []peer{{"old", addr("192.168.1.1"), prefix("10.42.9.0/24")}}, self.Uplink, network{Segment: seg(1500)}},
		{"overlap_with_own", []peer{{"b", addr("192.168.1.2"), prefix("10.42.0.0/25")}}, self.Uplink,
			network{Segment: seg(1500), Nodes: []netip.Addr{addr("192.168.1.2")}}},
		{"overlap_of_peers", []peer{{"c", addr("192.168.1.3"), prefix("10.42.1.0/24")}, {"b", addr("192.168.1.2"), prefix("10.42.1.0/24")}}, self.Uplink, network{
			Segment: seg(1500), Nodes: []netip.Addr{addr("192.168.1.2"), addr("192.168.1.3")},
			Routes: []route{{Dst: prefix("10.42.1.0/24"), Via: addr("192.168.1.2"), Table: mainTable}},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := self
			s.Uplink, s.Peers = tc.uplink, tc.peers
			if d := cmp.Diff(tc.want, plan(s), compareAddrs, comparePrefixes); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestPodCIDR(t *testing.T) {
	for text, want := range map[string]netip.Prefix{
		"10.42.3.7/24": prefix("10.42.3.0/24"), "": {}, "fd00::/64": {}, "10.42.0.0/31": {}, "x": {},
	} {
		if got := podCIDR(nodeObject("n", "", text)); got != want {
			t.Errorf("podCIDR %q is %s, want %s", text, got, want)
		}
	}
	node := nodeObject("n", "", "fd00::/64")
	node.Spec.PodCIDRs = []string{"fd00::/64", "10.42.3.0/24"}
	if got := podCIDR(node); got != prefix("10.42.3.0/24") {
		t.Errorf("second podCIDR: %s", got)
	}
}

// TestLeases takes and gives back at random: an address is never in two hands, never one that is not a pod's, comes back
// to a sandbox that asks again, and rests while there are others.
func TestLeases(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cidr := prefix("10.42.5.0/28")
		var l leases
		given := map[string]netip.Addr{}
		var order []netip.Addr
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			id := fmt.Sprintf("s%d", rapid.IntRange(0, 19).Draw(t, "sandbox"))
			if rapid.IntRange(0, 2).Draw(t, "release") == 0 {
				_, had := given[id]
				if l.remove(id, "eth0") != had {
					t.Fatalf("removing %s, which was there: %v", id, had)
				}
				delete(given, id)
				continue
			}
			got, err := l.take(cidr, lease{SandboxID: id, IfName: "eth0"})
			before, had := given[id]
			if err != nil {
				if !errors.Is(err, ErrNoAddress) || had || len(given) != 13 {
					t.Fatalf("take with %d of 13 in use: %v", len(given), err)
				}
				continue
			}
			if had {
				if got.IP != before {
					t.Fatalf("%s had %s and now gets %s", id, before, got.IP)
				}
				continue
			}
			if !cidr.Contains(got.IP) || got.IP.Less(addr("10.42.5.2")) || !got.IP.Less(addr("10.42.5.15")) {
				t.Fatalf("%s is not a pod's address in %s", got.IP, cidr)
			}
			for other, ip := range given {
				if ip == got.IP {
					t.Fatalf("%s is given to %s and %s", ip, other, id)
				}
			}
			if n := len(order); n > 0 && order[n-1] == got.IP && len(given) < 12 {
				t.Fatalf("%s comes again at once while %d others are free", got.IP, 12-len(given))
			}
			given[id] = got.IP
			order = append(order, got.IP)
		}
		if len(l.Items) != len(given) {
			t.Fatalf("%d leases, want %d", len(l.Items), len(given))
		}
	})
}

func TestLeaseFile(t *testing.T) {
	f := leaseFile{t.TempDir()}
	cidr := prefix("10.42.5.0/24")
	take := func(id string) netip.Addr {
		var got lease
		if err := f.update(func(l *leases) (bool, error) {
			var err error
			got, err = l.take(cidr, lease{SandboxID: id, IfName: "eth0", Ports: []PortMapping{{HostPort: 80, ContainerPort: 80}}})
			return true, err
		}); err != nil {
			t.Fatal(err)
		}
		return got.IP
	}
	one := take("one")
	if again := take("one"); again != one {
		t.Errorf("%s, then %s", one, again)
	}
	// A failing change leaves the file as it was.
	boom := errors.New("boom")
	if err := f.update(func(l *leases) (bool, error) { l.Items = nil; return true, boom }); !errors.Is(err, boom) {
		t.Error(err)
	}
	l, err := f.read()
	if err != nil || len(l.Items) != 1 || l.Items[0].Ports[0].HostPort != 80 || l.Items[0].IP != one {
		t.Errorf("leases: %+v, %v", l, err)
	}
	// A new range leaves nothing of the old one to whoever asks again.
	cidr = prefix("10.42.6.0/24")
	if moved := take("one"); !cidr.Contains(moved) {
		t.Errorf("%s is not in %s", moved, cidr)
	}
	if err := os.WriteFile(f.path(), []byte(`{"lea`), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := f.read(); err != nil || len(l.Items) != 0 {
		t.Errorf("half a file: %+v, %v", l, err)
	}
}

func TestHostPortRules(t *testing.T) {
	got := hostPortRules([]lease{
		{IP: addr("10.42.0.3"), Ports: []PortMapping{{HostPort: 53, ContainerPort: 5353, Protocol: "UDP", HostIP: "127.0.0.1"}}},
		{IP: addr("10.42.0.2"), Ports: []PortMapping{{HostPort: 80, ContainerPort: 8080}}},
	})
	want := []string{
		"-s 10.42.0.2/32 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x2000/0x2000",
		"-s 127.0.0.0/8 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x2000/0x2000",
		"-p tcp -m tcp --dport 80 -j DNAT --to-destination 10.42.0.2:8080",
		"-s 10.42.0.3/32 -d 127.0.0.1/32 -p udp -m udp --dport 53 -j MARK --set-xmark 0x2000/0x2000",
		"-s 127.0.0.0/8 -d 127.0.0.1/32 -p udp -m udp --dport 53 -j MARK --set-xmark 0x2000/0x2000",
		"-d 127.0.0.1/32 -p udp -m udp --dport 53 -j DNAT --to-destination 10.42.0.3:5353",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for _, bad := range []PortMapping{
		{HostPort: 0, ContainerPort: 1}, {HostPort: 1, ContainerPort: 70000}, {HostPort: 1, ContainerPort: 1, Protocol: "icmp"},
		{HostPort: 1, ContainerPort: 1, HostIP: "1.2.3.4 -j ACCEPT"},
	} {
		if err := validPorts([]PortMapping{bad}); err == nil || !strings.Contains(err.Error(), "hostPort") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
