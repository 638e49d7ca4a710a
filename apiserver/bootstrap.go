package apiserver

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// firstNamespaces exist in every cluster.
var firstNamespaces = []string{metav1.NamespaceSystem, metav1.NamespacePublic, metav1.NamespaceDefault, corev1.NamespaceNodeLease}

// bootstrap makes what must exist before anybody can work, and closes Ready.
func (s *Server) bootstrap(ctx context.Context, client kubernetes.Interface) error {
	// Each write waits for a sync of etcd's log, and those under way together share one: what does not depend on each other
	// is written side by side.
	for _, stage := range [][]func(context.Context) error{
		{s.config.Store.Healthy},
		{func(ctx context.Context) error { return makeNamespaces(ctx, client) }},
		{
			s.plugins.Bootstrap,
			func(ctx context.Context) error { return s.makeFirstObjects(ctx, client) },
			func(ctx context.Context) error { return s.syncKubernetesService(ctx, client) },
		},
	} {
		group, ctx := errgroup.WithContext(ctx)
		for _, step := range stage {
			if step != nil {
				group.Go(func() error { return s.untilDone(ctx, step) })
			}
		}
		if err := group.Wait(); err != nil {
			return err
		}
	}
	close(s.bootstrapped)
	for _, synced := range []<-chan struct{}{s.custom.Synced(), s.plugins.Synced} {
		if synced == nil {
			continue
		}
		select {
		case <-synced:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	close(s.ready)
	return nil
}

// untilDone repeats a step that depends on others (etcd electing a leader) with growing pauses.
func (s *Server) untilDone(ctx context.Context, step func(context.Context) error) error {
	pause := 5 * time.Millisecond
	for tries := 1; ; tries++ {
		err := step(ctx)
		if err == nil {
			return nil
		}
		if tries == 10 {
			s.logger.Warn("the first objects cannot be made yet", "error", err)
		}
		if err := wait(ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, 2*time.Second)
	}
}

// wait pauses, or ends early with ctx's error.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func makeNamespaces(ctx context.Context, client kubernetes.Interface) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, name := range firstNamespaces {
		group.Go(func() error {
			_, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
			if err != nil && !apierrors.IsAlreadyExists(err) {
				return fmt.Errorf("namespace %s: %w", name, err)
			}
			return nil
		})
	}
	return group.Wait()
}
