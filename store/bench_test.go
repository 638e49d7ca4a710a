package store

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// filled is a collection of n config maps of 1 KB.
func filled(b *testing.B, n int) (*Store, *collection) {
	b.Helper()
	s := open(b, Config{})
	c := configMaps(s)
	var wg sync.WaitGroup
	for w := range 32 {
		wg.Go(func() {
			for i := w; i < n; i += 32 {
				name := fmt.Sprintf("cm-%05d", i)
				if _, err := c.Create(context.Background(), "ns/"+name, configMap("ns", name, "v", kilobyte)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return s, c
}

var kilobyte = strings.Repeat("x", 1000)

func BenchmarkOpen(b *testing.B) {
	base := b.TempDir()
	for i := 0; b.Loop(); i++ {
		_, stop := openUntil(b, Config{DataDir: fmt.Sprintf("%s/%d", base, i)})
		b.StopTimer()
		stop()
		b.StartTimer()
	}
}

func BenchmarkCreate(b *testing.B) {
	_, c := filled(b, 0)
	var n atomic.Int64
	b.SetParallelism(8) // 16 clients on two cores
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			name := fmt.Sprintf("cm-%d", n.Add(1))
			if _, err := c.Create(context.Background(), "ns/"+name, configMap("ns", name, "v", kilobyte)); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkGet(b *testing.B) {
	_, c := filled(b, 2000)
	for _, version := range []string{"", "0"} {
		b.Run("rv="+version, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := c.Get(context.Background(), fmt.Sprintf("ns/cm-%05d", i%2000), version); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkUpdate(b *testing.B) {
	_, c := filled(b, 2000)
	var n atomic.Int64
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			name := fmt.Sprintf("cm-%05d", i%2000)
			if _, err := c.Mutate(context.Background(), "ns/"+name, func(*Item) (Change, error) {
				return Change{Put: configMap("ns", name, "v", kilobyte, "n", fmt.Sprint(i))}, nil
			}); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkList2000(b *testing.B) {
	_, c := filled(b, 2000)
	b.ReportAllocs()
	for b.Loop() {
		if l, err := c.List(context.Background(), ListOptions{}); err != nil || len(l.Items) != 2000 {
			b.Fatal(l, err)
		}
	}
}

func BenchmarkListPaged(b *testing.B) {
	_, c := filled(b, 2000)
	b.ReportAllocs()
	for b.Loop() {
		opts := ListOptions{Limit: 500}
		for n := 0; ; {
			l, err := c.List(context.Background(), opts)
			if err != nil {
				b.Fatal(err)
			}
			if n += len(l.Items); l.Continue == "" {
				if n != 2000 {
					b.Fatal(n)
				}
				break
			}
			opts.Continue = l.Continue
		}
	}
}

// One write, seen by all watchers.
func BenchmarkFanOut(b *testing.B) {
	for _, watchers := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(watchers), func(b *testing.B) {
			s := open(b, Config{})
			c := configMaps(s)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var seen sync.WaitGroup
			for range watchers {
				w, err := c.Watch(ctx, WatchOptions{})
				if err != nil {
					b.Fatal(err)
				}
				go func() {
					for range w.Events() {
						seen.Done()
					}
				}()
			}
			for i := 0; b.Loop(); i++ {
				seen.Add(watchers)
				set(b, c, "ns/a", "v", fmt.Sprint(i))
				seen.Wait()
			}
			b.ReportMetric(float64(b.N*watchers)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkMemory is the heap that an object of 1 KB costs, etcd's own index included, and what a watcher costs.
func BenchmarkMemory(b *testing.B) {
	heap := func() float64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	const n = 5000
	for b.Loop() {
		empty := open(b, Config{})
		before := heap()
		_, c := filled(b, n)
		time.Sleep(time.Second) // etcd's database follows its log
		b.ReportMetric((heap()-before)/n, "B/object")
		before = heap()
		ctx, cancel := context.WithCancel(context.Background())
		for range 1000 {
			if _, err := c.Watch(ctx, WatchOptions{FromNow: true}); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric((heap()-before)/1000, "B/watcher")
		cancel()
		runtime.KeepAlive(empty)
	}
}
