package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	objects  = 2000
	writers  = 16
	watchers = 100
	writes   = 50
)

// api measures the API server's rows of the budget table.
func (b *bench) api() error {
	if err := b.namespace("bench"); err != nil {
		return err
	}
	maps := b.client.CoreV1().ConfigMaps("bench")
	payload := strings.Repeat("x", 1000)
	err := errors.Join(
		b.row("create 1 KB ConfigMap", writers, objects, func(ctx context.Context, i int) error {
			_, err := maps.Create(ctx, configMap(i, payload), metav1.CreateOptions{})
			return err
		}),
		b.row("get", writers, 3*objects, func(ctx context.Context, i int) error {
			_, err := maps.Get(ctx, objectName(i%objects), metav1.GetOptions{})
			return err
		}),
		b.row("update", writers, objects, func(ctx context.Context, i int) error {
			_, err := maps.Update(ctx, &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Name: objectName(i)}, Data: map[string]string{"v": payload, "n": fmt.Sprint(i)},
			}, metav1.UpdateOptions{})
			return err
		}),
		b.row("list 2000 from cache (protobuf)", 4, 200, func(ctx context.Context, _ int) error {
			list, err := maps.List(ctx, metav1.ListOptions{ResourceVersion: "0"})
			if err == nil && len(list.Items) < objects {
				err = fmt.Errorf("the list has %d objects", len(list.Items))
			}
			return err
		}),
	)
	if err != nil {
		return err
	}
	return b.fanOut("bench", watchers, writes)
}

// row runs do n times by parallel clients and prints the rate, the latencies and the server's CPU time for each call.
func (b *bench) row(what string, clients, n int, do func(ctx context.Context, i int) error) error {
	took := make([]time.Duration, n)
	errs := make([]error, clients)
	var next atomic.Int64
	var wg sync.WaitGroup
	cpu, begin := b.cpu(), time.Now()
	for c := range clients {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				start := time.Now()
				if err := do(b.ctx, i); err != nil {
					errs[c] = fmt.Errorf("%s: %w", what, err)
					return
				}
				took[i] = time.Since(start)
			}
		})
	}
	wg.Wait()
	all, used := time.Since(begin), b.cpu()-cpu
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Fprintf(b.out, "%s, %d clients\t%.0f/s\t%.2f ms server CPU each\tp50 %.1f ms, p99 %.1f ms\n", what, clients, float64(n)/all.Seconds(),
		used.Seconds()*1000/float64(n), percentile(took, 50).Seconds()*1000, percentile(took, 99).Seconds()*1000)
	return nil
}

// fanOut lets many watchers see each of some writes in a namespace; the delay is from before the write to the watcher's hands.
func (b *bench) fanOut(namespace string, watchers, writes int) error {
	ctx, cancel := context.WithTimeout(b.ctx, 2*time.Minute)
	defer cancel()
	started := make([]time.Time, writes)
	delays := make([][]time.Duration, watchers)
	errs := make([]error, watchers)
	var ready, done sync.WaitGroup
	ready.Add(watchers)
	for w := range watchers {
		client, err := kubernetes.NewForConfig(b.config)
		if err != nil {
			return err
		}
		watch, err := client.CoreV1().ConfigMaps(namespace).Watch(ctx, metav1.ListOptions{LabelSelector: "fan=out"})
		if err != nil {
			return err
		}
		done.Go(func() {
			defer watch.Stop()
			ready.Done()
			for len(delays[w]) < writes {
				select {
				case <-ctx.Done():
					errs[w] = fmt.Errorf("a watcher saw %d of %d writes", len(delays[w]), writes)
					return
				case e, ok := <-watch.ResultChan():
					if !ok {
						errs[w] = errors.New("a watch was closed")
						return
					}
					if cm, isMap := e.Object.(*corev1.ConfigMap); isMap {
						var i int
						if _, err := fmt.Sscanf(cm.Name, "fan-%d", &i); err == nil {
							delays[w] = append(delays[w], time.Since(started[i]))
						}
					}
				}
			}
		})
	}
	ready.Wait()
	cpu, begin := b.cpu(), time.Now()
	for i := range writes {
		started[i] = time.Now()
		_, err := b.client.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("fan-%d", i), Labels: map[string]string{"fan": "out"}},
		}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
	}
	done.Wait()
	took, used := time.Since(begin), b.cpu()-cpu
	if err := errors.Join(errs...); err != nil {
		return err
	}
	var all []time.Duration
	for _, d := range delays {
		all = append(all, d...)
	}
	fmt.Fprintf(b.out, "watch fan-out, %d watchers x %d writes\t%.0f events/s\t%.1f us server CPU each\tp50 %.1f ms, p99 %.1f ms\n", watchers, writes,
		float64(len(all))/took.Seconds(), used.Seconds()*1e6/float64(len(all)), percentile(all, 50).Seconds()*1000, percentile(all, 99).Seconds()*1000)
	return nil
}
