package cni

import (
	"context"
	"testing"

	"github.com/mini-k8s/mini/internal/netns/netnstest"
)

// BenchmarkAddDel measures connecting and disconnecting one pod, beside 50 others.
func BenchmarkAddDel(b *testing.B) {
	netnstest.NeedRoot(b)
	ctx := context.Background()
	a := attacher{leases: leaseFile{b.TempDir()}, ports: func(context.Context, []lease) error { return nil }}
	seg := segment{Bridge: "bench0", PodCIDR: prefix("10.42.0.0/24"), ClusterCIDR: prefix("10.42.0.0/16"), MTU: 1500}
	if _, err := ensureBridge(seg); err != nil {
		b.Fatal(err)
	}
	for i := range 50 {
		if _, err := a.add(ctx, seg, "eth0", Pod{SandboxID: string(rune('a' + i)), NetNS: netnstest.Namespace(b)}); err != nil {
			b.Fatal(err)
		}
	}
	ns := netnstest.Namespace(b)
	b.Run("add", func(b *testing.B) {
		for b.Loop() {
			if _, err := a.add(ctx, seg, "eth0", Pod{SandboxID: "bench", NetNS: ns}); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := a.del(ctx, "bench", "eth0"); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	b.Run("del", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			if _, err := a.add(ctx, seg, "eth0", Pod{SandboxID: "bench", NetNS: ns}); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if err := a.del(ctx, "bench", "eth0"); err != nil {
				b.Fatal(err)
			}
		}
	})
	if err := a.prune(ctx, func(lease) bool { return false }); err != nil {
		b.Fatal(err)
	}
	if err := removeLink("bench0"); err != nil {
		b.Fatal(err)
	}
}
