package apiserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/client-go/kubernetes"
	typedflowcontrolv1 "k8s.io/client-go/kubernetes/typed/flowcontrol/v1"
)

// keepFlowControl makes the flow schemas and priority levels that every cluster has, and makes them anew when they are
// deleted. Those that are there already get the spec of this version as long as the annotation says that it may be updated
// (KEP-1040); the mandatory ones always. Schemas say in their status whether their priority level is there.
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
	var mu sync.Mutex // the conditions have one writer
	mark := func(ctx context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		return markDangling(ctx, api)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		unmarked := func(ctx context.Context) (watch.Interface, error) {
			w, err := api.FlowSchemas().Watch(ctx, metav1.ListOptions{})
			if err != nil {
				return nil, err
			}
			return watch.Filter(w, func(e watch.Event) (watch.Event, bool) {
				schema, ok := e.Object.(*flowcontrolv1.FlowSchema)
				return e, e.Type == watch.Deleted || ok && !marked(schema)
			}), nil
		}
		s.follow(ctx, "flow schemas", unmarked, func() error {
			if err := schemas.ensure(ctx, bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas); err != nil {
				return err
			}
			return mark(ctx)
		})
		return nil
	})
	group.Go(func() error {
		comings := func(ctx context.Context) (watch.Interface, error) {
			now, err := api.PriorityLevelConfigurations().List(ctx, metav1.ListOptions{Limit: 1})
			if err != nil {
				return nil, err
			}
			w, err := api.PriorityLevelConfigurations().Watch(ctx, metav1.ListOptions{ResourceVersion: now.ResourceVersion})
			if err != nil {
				return nil, err
			}
			return watch.Filter(w, func(e watch.Event) (watch.Event, bool) { return e, e.Type == watch.Added || e.Type == watch.Deleted }), nil
		}
		s.follow(ctx, "priority levels", comings, func() error {
			if err := levels.ensure(ctx, bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations); err != nil {
				return err
			}
			return mark(ctx)
		})
		return nil
	})
	return group.Wait()
}

// markDangling says in the status of each flow schema whether its priority level is there.
func markDangling(ctx context.Context, api typedflowcontrolv1.FlowcontrolV1Interface) error {
	levels, err := api.PriorityLevelConfigurations().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	schemas, err := api.FlowSchemas().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for i := range schemas.Items {
		schema := &schemas.Items[i]
		there := slices.ContainsFunc(levels.Items, func(l flowcontrolv1.PriorityLevelConfiguration) bool {
			return l.Name == schema.Spec.PriorityLevelConfiguration.Name
		})
		want := dangling(schema, there)
		have := slices.IndexFunc(schema.Status.Conditions, func(c flowcontrolv1.FlowSchemaCondition) bool { return c.Type == want.Type })
		switch {
		case have < 0:
			schema.Status.Conditions = append(schema.Status.Conditions, want)
		case schema.Status.Conditions[have].Status == want.Status && schema.Status.Conditions[have].Message == want.Message:
			continue
		default:
			schema.Status.Conditions[have] = want
		}
		group.Go(func() error {
			_, err := api.FlowSchemas().UpdateStatus(ctx, schema, metav1.UpdateOptions{})
			if apierrors.IsConflict(err) || apierrors.IsNotFound(err) { // there is an event for it
				return nil
			}
			return err
		})
	}
	return group.Wait()
}

// dangling is the condition of a flow schema whose priority level is there or not.
func dangling(schema *flowcontrolv1.FlowSchema, there bool) flowcontrolv1.FlowSchemaCondition {
	c := flowcontrolv1.FlowSchemaCondition{
		Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionFalse, LastTransitionTime: metav1.Now(),
		Reason: "Found", Message: "and it exists",
	}
	if !there {
		c.Status, c.Reason, c.Message = flowcontrolv1.ConditionTrue, "NotFound", "but there is no such object"
	}
	c.Message = fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q %s", schema.Spec.PriorityLevelConfiguration.Name, c.Message)
	return c
}

// marked says whether a flow schema has a condition about the priority level that it names now.
func marked(schema *flowcontrolv1.FlowSchema) bool {
	return slices.ContainsFunc(schema.Status.Conditions, func(c flowcontrolv1.FlowSchemaCondition) bool {
		return c.Type == flowcontrolv1.FlowSchemaConditionDangling &&
			(c.Message == dangling(schema, true).Message || c.Message == dangling(schema, false).Message)
	})
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
