package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
)

// watchers measures how the cost of an event grows with the number of those who watch for it.
func (b *bench) watchers() error {
	fmt.Fprintf(b.out, "\t\t\t\n")
	for _, watchers := range []int{1, 10, 100, 1000} {
		namespace := fmt.Sprintf("fan-out-%d", watchers)
		if err := errors.Join(b.namespace(namespace), b.quiet(), b.fanOut(namespace, watchers, 20)); err != nil {
			return err
		}
	}
	return nil
}

// atSize fills a namespace with ConfigMaps of 1 KB and measures each verb there by 1, 16 and 64 clients. Before each row the
// server comes to rest: what the row before left to do is not counted to it.
func (b *bench) atSize(size int) error {
	namespace := fmt.Sprintf("scale-%d", size)
	if err := b.namespace(namespace); err != nil {
		return err
	}
	maps := b.client.CoreV1().ConfigMaps(namespace)
	payload := strings.Repeat("x", 1000)
	var created atomic.Int64
	create := func(ctx context.Context, _ int) error {
		_, err := maps.Create(ctx, configMap(int(created.Add(1))-1, payload), metav1.CreateOptions{})
		return err
	}
	before, err := b.memoryAtRest()
	if err != nil {
		return err
	}
	if err := b.row(fmt.Sprintf("fill to %d objects", size), 16, size, create); err != nil {
		return err
	}
	after, err := b.memoryAtRest()
	if err != nil {
		return err
	}
	each := func(after, before int64) float64 { return float64(after-before) / float64(size) / 1e3 }
	fmt.Fprintf(b.out, "memory for each of %d objects of 1 KB\t%.1f KB of Go's heap\t%.1f KB RSS without files\t%.1f KB of mapped files: etcd's\n", size,
		each(after.heap, before.heap), each(after.anonymous, before.anonymous), each(after.rss-after.anonymous, before.rss-before.anonymous))
	row := func(what string, clients, n int, do func(ctx context.Context, i int) error) error {
		if err := b.quiet(); err != nil {
			return err
		}
		return b.row(what, clients, n, do)
	}
	for _, clients := range []int{1, 16, 64} {
		// The lists are few and large: a list of everything costs what its objects cost.
		lists := max(2*clients, 200000/size)
		of := fmt.Sprintf(" of %d", size)
		err := errors.Join(
			row("create beside"+of, clients, 500, create),
			row("get"+of, clients, 3000, func(ctx context.Context, i int) error {
				_, err := maps.Get(ctx, objectName(i%size), metav1.GetOptions{})
				return err
			}),
			row("update"+of, clients, 500, func(ctx context.Context, i int) error {
				_, err := maps.Update(ctx, configMap(i, payload+fmt.Sprint(clients)), metav1.UpdateOptions{})
				return err
			}),
			row("patch"+of, clients, 500, func(ctx context.Context, i int) error {
				patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"clients":"%d"}}}`, clients)
				_, err := maps.Patch(ctx, objectName(i), types.MergePatchType, patch, metav1.PatchOptions{})
				return err
			}),
			row("list a page of 500"+of, clients, 100, func(ctx context.Context, _ int) error {
				_, err := maps.List(ctx, metav1.ListOptions{Limit: 500})
				return err
			}),
			row("list all"+of, clients, lists, b.listRaw(namespace, metav1.ListOptions{})),
			row("watch, with the first state"+of, clients, lists, b.watchInitial(namespace, size)),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

func objectName(i int) string { return fmt.Sprintf("object-%05d", i) }

func configMap(i int, payload string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: objectName(i)}, Data: map[string]string{"v": payload}}
}

func (b *bench) namespace(name string) error {
	_, err := b.client.CoreV1().Namespaces().Create(b.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	return err
}

// listRaw lists without decoding: the machine's cores should go to the server, not to 64 clients' garbage.
func (b *bench) listRaw(namespace string, o metav1.ListOptions) func(context.Context, int) error {
	return func(ctx context.Context, _ int) error {
		body, err := b.client.CoreV1().RESTClient().Get().Namespace(namespace).Resource("configmaps").VersionedParams(&o, scheme.ParameterCodec).Stream(ctx)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, body)
		return errors.Join(err, body.Close())
	}
}

// watchInitial opens a watch that sends the state of the namespace first, and reads until the bookmark after it.
func (b *bench) watchInitial(namespace string, size int) func(context.Context, int) error {
	yes := true
	options := metav1.ListOptions{
		Watch: true, SendInitialEvents: &yes, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	}
	return func(ctx context.Context, _ int) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		watch, err := b.client.CoreV1().ConfigMaps(namespace).Watch(ctx, options)
		if err != nil {
			return err
		}
		defer watch.Stop()
		seen := 0
		for e := range watch.ResultChan() {
			switch {
			case e.Type == "BOOKMARK":
				if seen < size {
					return fmt.Errorf("the first state has %d objects, not %d", seen, size)
				}
				return nil
			case e.Type == "ERROR":
				return fmt.Errorf("the watch failed: %v", e.Object)
			}
			seen++
		}
		return errors.New("the watch ended before its bookmark")
	}
}
