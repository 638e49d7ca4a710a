package nodeipam

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	"pgregory.net/rapid"

	"github.com/mini-k8s/mini/controller/controllertest"
)

func TestPoolBounds(t *testing.T) {
	for name, tc := range map[string]struct {
		rng  string
		bits int
		ok   bool
		size int
		last string
	}{
		"sixteen_of_24":  {"10.42.0.0/16", 24, true, 256, "10.42.255.0/24"},
		"one":            {"10.42.7.0/24", 24, true, 1, "10.42.7.0/24"},
		"unmasked_range": {"10.42.7.9/16", 24, true, 256, "10.42.255.0/24"},
		"v6":             {"fd00:42::/48", 64, true, 65536, "fd00:42:0:ffff::/64"},
		"v6_capped":      {"fd00::/8", 64, true, 65536, "fd00:0:0:ffff::/64"},
		"too_small":      {"10.42.0.0/25", 24, false, 0, ""},
		"no_addresses":   {"10.42.0.0/16", 33, false, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := newPool(netip.MustParsePrefix(tc.rng), tc.bits)
			if (err == nil) != tc.ok {
				t.Fatalf("error %v", err)
			}
			if tc.ok && (p.size != tc.size || p.block(p.size-1).String() != tc.last) {
				t.Errorf("%d blocks to %s", p.size, p.block(p.size-1))
			}
		})
	}
}

// Blocks in use at the same time never overlap, whatever comes and goes and whatever was set by hand; and a block that was
// given back is found again.
func TestPoolProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, err := newPool(netip.MustParsePrefix("10.42.0.0/20"), 24)
		if err != nil {
			t.Fatal(err)
		}
		held := map[string]netip.Prefix{}
		foreign := map[string]netip.Prefix{}
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			name := fmt.Sprintf("n%d", i)
			switch rapid.IntRange(0, 3).Draw(t, "op") {
			case 0, 1:
				b, ok := p.allocate(name)
				used := map[netip.Prefix]bool{}
				for n := range 16 {
					blk := p.block(n)
					for _, h := range held {
						used[blk] = used[blk] || h.Overlaps(blk)
					}
					for _, h := range foreign {
						used[blk] = used[blk] || h.Overlaps(blk)
					}
				}
				free := 0
				for n := range 16 {
					if !used[p.block(n)] {
						free++
					}
				}
				if ok != (free > 0) {
					t.Fatalf("allocate says %v with %d free", ok, free)
				}
				if ok && used[b] {
					t.Fatalf("%s given out twice", b)
				}
				if ok {
					held[name] = b
				}
			case 2:
				for n, b := range held {
					p.release(b, n)
					delete(held, n)
					break
				}
			case 3:
				bits := rapid.IntRange(19, 28).Draw(t, "bits")
				addr := netip.AddrFrom4([4]byte{10, 42, byte(rapid.IntRange(0, 31).Draw(t, "third")), byte(rapid.IntRange(0, 255).Draw(t, "fourth"))})
				if bits < 21 && rapid.Bool().Draw(t, "rare") {
					bits = 26
				}
				f := netip.PrefixFrom(addr, bits).Masked()
				p.occupy(f, name)
				foreign[name] = f
			}
		}
		for n, b := range held {
			p.release(b, n)
		}
		for n, b := range foreign {
			p.release(b, n)
		}
		if len(p.users) != 0 {
			t.Fatalf("blocks leak: %v", p.users)
		}
	})
}

func node(name, cidr string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if cidr != "" {
		n.Spec.PodCIDR, n.Spec.PodCIDRs = cidr, []string{cidr}
	}
	return n
}

func start(t *testing.T, rng string, objs ...runtime.Object) *controllertest.World {
	w := controllertest.New(t, objs...)
	c, err := New(Config{Client: w.Client, Informers: w.Informers, Feeds: w.Feeds, Events: w.Events, Logger: w.Logger,
		ClusterCIDR: netip.MustParsePrefix(rng), BlockBits: 24})
	if err != nil {
		t.Fatal(err)
	}
	w.Start(c)
	synctest.Wait()
	return w
}

func cidrOf(t *testing.T, w *controllertest.World, name string) string {
	t.Helper()
	synctest.Wait()
	n, err := w.Client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n.Spec.PodCIDR != "" && (len(n.Spec.PodCIDRs) != 1 || n.Spec.PodCIDRs[0] != n.Spec.PodCIDR) {
		t.Fatalf("node %s: podCIDR %s, podCIDRs %v", name, n.Spec.PodCIDR, n.Spec.PodCIDRs)
	}
	return n.Spec.PodCIDR
}

func TestNodesGetBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, "10.42.0.0/22", node("old", "10.42.1.0/24"), node("new", ""), node("alien", "192.168.0.0/24"))
		if got := cidrOf(t, w, "new"); got != "10.42.0.0/24" {
			t.Errorf("first free block: %q", got)
		}
		if got := w.Writes(); len(got) != 1 {
			t.Errorf("writes: %v", got)
		}
		ctx := context.Background()
		for _, name := range []string{"n2", "n3", "n4"} {
			if _, err := w.Client.CoreV1().Nodes().Create(ctx, node(name, ""), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if a, b, c := cidrOf(t, w, "n2"), cidrOf(t, w, "n3"), cidrOf(t, w, "n4"); a != "10.42.2.0/24" || b != "10.42.3.0/24" || c != "" {
			t.Errorf("n2 %q n3 %q n4 %q: want the two that are left, and none", a, b, c)
		}
		if err := w.Client.CoreV1().Nodes().Delete(ctx, "old", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := cidrOf(t, w, "n4"); got != "10.42.1.0/24" {
			t.Errorf("waiting node after another went: %q", got)
		}
	})
}

// A write whose answer is lost is repeated with the same block.
func TestLostAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fails atomic.Int32 // the fake client calls from the controller's goroutine
		fails.Store(3)
		w := controllertest.New(t, node("a", ""), node("b", ""))
		w.Client.PrependReactor("patch", "nodes", func(a clienttesting.Action) (bool, runtime.Object, error) {
			if a.(clienttesting.PatchAction).GetName() == "a" && fails.Add(-1) >= 0 {
				return true, nil, fmt.Errorf("connection reset")
			}
			return false, nil, nil
		})
		c, err := New(Config{Client: w.Client, Informers: w.Informers, Feeds: w.Feeds, Events: w.Events, Logger: w.Logger,
			ClusterCIDR: netip.MustParsePrefix("10.42.0.0/23"), BlockBits: 24})
		if err != nil {
			t.Fatal(err)
		}
		w.Start(c)
		synctest.Wait()
		for fails.Load() > 0 || cidrOf(t, w, "a") == "" {
			time.Sleep(time.Millisecond)
		}
		if a, b := cidrOf(t, w, "a"), cidrOf(t, w, "b"); a == "" || b == "" || a == b {
			t.Errorf("a %q b %q", a, b)
		}
	})
}
