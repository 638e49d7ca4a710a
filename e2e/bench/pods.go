package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	onePods  = 20
	manyPods = 40
)

// pods measures how long pods take to start and to go.
func (b *bench) pods() error {
	ctx, cancel := context.WithTimeout(b.ctx, 5*time.Minute)
	defer cancel()
	events, err := b.client.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	defer events.Stop()
	if _, err := b.start(ctx, events, "warm", 1); err != nil {
		return err
	}
	var took []time.Duration
	for i := range onePods {
		begin := time.Now()
		if _, err := b.start(ctx, events, fmt.Sprint("one-", i), 1); err != nil {
			return err
		}
		took = append(took, time.Since(begin))
	}
	fmt.Fprintf(b.out, "pod create to Ready, one at a time, %d pods\tp50 %s\tp99 %s\t(%s)\n", onePods, ms(percentile(took, 50)), ms(percentile(took, 99)), spread(took))
	if _, err := b.remove(ctx, events); err != nil {
		return err
	}
	many, err := b.start(ctx, events, "many", manyPods)
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "%d pods at once, create to all Ready\t%.2f s\n", manyPods, many.Seconds())
	fmt.Fprintf(b.out, "memory with %d pods\t%.0f MB RSS\n", manyPods, float64(memory(b.cluster.Nodes[0].PID).rss)/1e6)
	gone, err := b.remove(ctx, events)
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "delete %d pods, grace 1 s\t%.2f s\n", manyPods, gone.Seconds())
	return nil
}

// start creates n pods and returns how long it took until all were Ready.
func (b *bench) start(ctx context.Context, events watch.Interface, name string, n int) (time.Duration, error) {
	begin := time.Now()
	grace := int64(1)
	for i := range n {
		_, err := b.client.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", name, i), Labels: map[string]string{"bench": name}},
			Spec: corev1.PodSpec{
				TerminationGracePeriodSeconds: &grace,
				Containers:                    []corev1.Container{{Name: "hello", Image: "docker.io/mini/hello:1"}},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			return 0, err
		}
	}
	ready := map[string]bool{}
	err := each(ctx, events, func(e watch.EventType, p *corev1.Pod) bool {
		if p.Labels["bench"] == name && isReady(p) {
			ready[p.Name] = true
		}
		return len(ready) == n
	})
	if err != nil {
		err = fmt.Errorf("%d of %d pods Ready: %w", len(ready), n, err)
	}
	return time.Since(begin), err
}

// remove deletes every pod and returns how long it took until all were gone.
func (b *bench) remove(ctx context.Context, events watch.Interface) (time.Duration, error) {
	list, err := b.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := b.client.CoreV1().Pods("default").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		return 0, err
	}
	left := len(list.Items)
	err = each(ctx, events, func(e watch.EventType, _ *corev1.Pod) bool {
		if e == watch.Deleted {
			left--
		}
		return left == 0
	})
	if err != nil {
		err = fmt.Errorf("%d pods left: %w", left, err)
	}
	return time.Since(begin), err
}

// each hands pod events to see until it says enough.
func each(ctx context.Context, events watch.Interface, see func(watch.EventType, *corev1.Pod) (enough bool)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-events.ResultChan():
			if !ok {
				return fmt.Errorf("the watch was closed")
			}
			if p, isPod := e.Object.(*corev1.Pod); isPod && see(e.Type, p) {
				return nil
			}
		}
	}
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
