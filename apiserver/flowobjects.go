package apiserver

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sync/errgroup"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/client-go/kubernetes"
)

// keepFlowControl makes the flow schemas and priority levels that every cluster has, and makes them anew when they are
// deleted. Those that are there already get the spec of this version as long as the annotation says that it may be updated
// (KEP-1040); the mandatory ones always.
func (s *Server) keepFlowControl(ctx context.Context, client kubernetes.Interface) error {
	select {
	case <-s.bootstrapped:
	case <-ctx.Done():
		return nil
	}
	api := client.FlowcontrolV1()
	schemas := kept[*flowcontrolv1.FlowSchema]{
		list: func(ctx context.Context) ([]*flowcontrolv1.FlowSchema, error) {
			l, err := api.FlowSchemas().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
			return pointers(l.Items), err
		},
		create: func(ctx context.Context, o *flowcontrolv1.FlowSchema) (*flowcontrolv1.FlowSchema, error) {
			return api.FlowSchemas().Create(ctx, o, metav1.CreateOptions{})
		},
		update: func(ctx context.Context, o *flowcontrolv1.FlowSchema) (*flowcontrolv1.FlowSchema, error) {
			return api.FlowSchemas().Update(ctx, o, metav1.UpdateOptions{})
		},
		sameSpec: func(have, want *flowcontrolv1.FlowSchema) bool {
			same := equality.Semantic.DeepEqual(have.Spec, want.Spec)
			have.Spec = *want.Spec.DeepCopy()
			return same
		},
	}
	levels := kept[*flowcontrolv1.PriorityLevelConfiguration]{
		list: func(ctx context.Context) ([]*flowcontrolv1.PriorityLevelConfiguration, error) {
			l, err := api.PriorityLevelConfigurations().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
			return pointers(l.Items), err
		},
		create: func(ctx context.Context, o *flowcontrolv1.PriorityLevelConfiguration) (*flowcontrolv1.PriorityLevelConfiguration, error) {
			return api.PriorityLevelConfigurations().Create(ctx, o, metav1.CreateOptions{})
		},
		update: func(ctx context.Context, o *flowcontrolv1.PriorityLevelConfiguration) (*flowcontrolv1.PriorityLevelConfiguration, error) {
			return api.PriorityLevelConfigurations().Update(ctx, o, metav1.UpdateOptions{})
		},
		sameSpec: func(have, want *flowcontrolv1.PriorityLevelConfiguration) bool {
			want = want.DeepCopy()
			if want.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt { // its shares are the administrator's
				want.Spec.Exempt = have.Spec.Exempt
			}
			same := equality.Semantic.DeepEqual(have.Spec, want.Spec)
			have.Spec = want.Spec
			return same
		},
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		s.follow(ctx, "flow schemas", deletions(api.FlowSchemas().Watch), func() error {
			return schemas.ensure(ctx, bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas)
		})
		return nil
	})
	group.Go(func() error {
		s.follow(ctx, "priority levels", deletions(api.PriorityLevelConfigurations().Watch), func() error {
			return levels.ensure(ctx, bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations)
		})
		return nil
	})
	return group.Wait()
}

// deletions watches only for objects that go.
func deletions(open func(context.Context, metav1.ListOptions) (watch.Interface, error)) func(context.Context) (watch.Interface, error) {
	return func(ctx context.Context) (watch.Interface, error) {
		w, err := open(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		return watch.Filter(w, func(e watch.Event) (watch.Event, bool) { return e, e.Type == watch.Deleted }), nil
	}
}

func pointers[T any](items []T) []*T {
	out := make([]*T, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}

// kept is how objects of one kind are kept.
type kept[T interface {
	metav1.Object
	runtime.Object
}] struct {
	list           func(context.Context) ([]T, error)
	create, update func(context.Context, T) (T, error)
	sameSpec       func(have, want T) bool // have gets want's spec
}

// ensure makes what is missing, all at once as each write waits for the disk.
func (k kept[T]) ensure(ctx context.Context, mandatory, suggested []T) error {
	have, err := k.list(ctx)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	keep := func(want T, must bool) {
		i := slices.IndexFunc(have, func(o T) bool { return o.GetName() == want.GetName() })
		if i < 0 {
			o := want.DeepCopyObject().(T)
			o.SetAnnotations(map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: "true"})
			group.Go(func() error {
				_, err := k.create(ctx, o)
				return unlessThere(err)
			})
			return
		}
		o := have[i]
		if (must || o.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey] == "true") && !k.sameSpec(o, want) {
			group.Go(func() error {
				_, err := k.update(ctx, o)
				return err
			})
		}
	}
	for _, o := range mandatory {
		keep(o, true)
	}
	for _, o := range suggested {
		keep(o, false)
	}
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
