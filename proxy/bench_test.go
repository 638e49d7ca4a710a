package proxy

import (
	"context"
	"fmt"
	"testing"

	"github.com/mini-k8s/mini/internal/iptables"
	"github.com/mini-k8s/mini/internal/netns/netnstest"
)

// BenchmarkChange measures one endpoint's change up to the kernel, with the machine's iptables.
func BenchmarkChange(b *testing.B) {
	netnstest.NeedRoot(b)
	for _, backend := range []string{"iptables-nft", "iptables-legacy"} {
		for _, n := range []int{10, 1000} {
			b.Run(fmt.Sprintf("%s/%d", backend, n), func(b *testing.B) {
				cmd, err := iptables.Find(backend)
				if err != nil {
					b.Skip(err)
				}
				ctx := context.Background()
				svcs, eps := many(n)
				frags := map[string]*fragment{}
				for i, svc := range svcs {
					frags["ns/"+svc.Name] = render(portsOf(svc, eps[i:i+1], "", nil), cluster, true)
				}
				table := iptables.NewTable(iptables.Config{Command: cmd, Prefix: chainPrefix, Anchors: anchors})
				if _, err := table.Set(ctx, assemble(frags, testFacts)); err != nil {
					b.Fatal(err)
				}
				i := 0
				for b.Loop() {
					i++
					s := slice("s0", "", 8080, ep{ip: fmt.Sprintf("10.42.250.%d", i%200+2)})
					frags["ns/s0"] = render(portsOf(svcs[0], list(s), "", nil), cluster, true)
					if _, err := table.Set(ctx, assemble(frags, testFacts)); err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				if err := iptables.Clean(ctx, cmd, chainPrefix, "nat", "filter"); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}
