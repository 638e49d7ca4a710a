package authz

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// Aggregation keeps the rules of ClusterRoles that have an aggregationRule: the union of the rules of the ClusterRoles it
// selects (admin, edit and view are such roles).
type Aggregation struct {
	client   kubernetes.Interface
	roles    rbaclisters.ClusterRoleLister
	informer cache.SharedIndexInformer
	logger   *slog.Logger
}

// NewAggregation reads through the factory and writes with the client.
func NewAggregation(client kubernetes.Interface, factory informers.SharedInformerFactory, logger *slog.Logger) *Aggregation {
	api := factory.Rbac().V1().ClusterRoles()
	return &Aggregation{client: client, roles: api.Lister(), informer: api.Informer(), logger: logger}
}

// Run works until ctx ends. It then returns nil.
func (g *Aggregation) Run(ctx context.Context) error {
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]())
	// Any role may be part of any aggregate: each change looks at all of them, and the queue takes a burst as one.
	all := func(any) {
		roles, _ := g.roles.List(labels.Everything())
		for _, role := range roles {
			if role.AggregationRule != nil {
				queue.Add(role.Name)
			}
		}
	}
	registration, err := g.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    all,
		UpdateFunc: func(_, role any) { all(role) },
		DeleteFunc: all,
	})
	if err != nil {
		return fmt.Errorf("ClusterRole aggregation: %w", err)
	}
	defer func() { _ = g.informer.RemoveEventHandler(registration) }()
	defer context.AfterFunc(ctx, queue.ShutDown)()
	if !cache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
		queue.ShutDown()
		return nil
	}
	for {
		name, stop := queue.Get()
		if stop {
			return nil
		}
		if err := g.sync(ctx, name); err != nil && ctx.Err() == nil {
			if !apierrors.IsConflict(err) {
				g.logger.Error("Cannot aggregate ClusterRole", "clusterRole", name, "err", err)
			}
			queue.AddRateLimited(name)
		} else {
			queue.Forget(name)
		}
		queue.Done(name)
	}
}

func (g *Aggregation) sync(ctx context.Context, name string) error {
	role, err := g.roles.Get(name)
	if apierrors.IsNotFound(err) || err == nil && role.AggregationRule == nil {
		return nil
	}
	if err != nil {
		return err
	}
	others, err := g.roles.List(labels.Everything())
	if err != nil {
		return err
	}
	rules, err := aggregateRules(role, others)
	if err != nil {
		return err
	}
	if equality.Semantic.DeepEqual(rules, role.Rules) {
		return nil
	}
	return g.write(ctx, name)
}

// write decides on what is stored: the lister may have the role before what it is made of, and rules must not go for that.
func (g *Aggregation) write(ctx context.Context, name string) error {
	list, err := g.client.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var role *rbacv1.ClusterRole
	others := make([]*rbacv1.ClusterRole, 0, len(list.Items))
	for i := range list.Items {
		others = append(others, &list.Items[i])
		if list.Items[i].Name == name {
			role = &list.Items[i]
		}
	}
	if role == nil || role.AggregationRule == nil {
		return nil
	}
	rules, err := aggregateRules(role, others)
	if err != nil || equality.Semantic.DeepEqual(rules, role.Rules) {
		return err
	}
	role.Rules = rules
	_, err = g.client.RbacV1().ClusterRoles().Update(ctx, role, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// aggregateRules is the union of the rules of those that the role selects, in the order of their names, each rule once.
// Rules that are written differently stay apart even if one covers the other, as upstream leaves them.
func aggregateRules(role *rbacv1.ClusterRole, others []*rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	others = slices.Clone(others)
	slices.SortFunc(others, func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
	var rules []rbacv1.PolicyRule
	var errs []error
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, other := range others {
			if other.Name == role.Name || !selector.Matches(labels.Set(other.Labels)) {
				continue
			}
			for _, rule := range other.Rules {
				if !slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(r, rule) }) {
					rules = append(rules, rule)
				}
			}
		}
	}
	return rules, errors.Join(errs...)
}
