package authz

import (
	"context"
	"fmt"
	"maps"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/auth/rbac/validation"

	"golang.org/x/sync/errgroup"
)

// ensureParallel bounds the writes in flight: they share etcd's fsyncs.
const ensureParallel = 64

// EnsurePolicy writes what the cluster lacks of the policy: objects that are missing, and in those that are there missing
// labels, annotations, rules, selectors and subjects. Nothing is taken away that somebody added, and objects annotated
// rbac.authorization.kubernetes.io/autoupdate=false stay as they are. A binding whose roleRef differs is made again, as
// that cannot be changed. The namespaces of Roles must exist. It may run on several servers at once.
func EnsurePolicy(ctx context.Context, client kubernetes.Interface, policy Policy) error {
	api := client.RbacV1()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(ensureParallel)

	roles, err := api.ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("default ClusterRoles: %w", err)
	}
	bindings, err := api.ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("default ClusterRoleBindings: %w", err)
	}
	ensureEach(group, ctx, "ClusterRole", policy.ClusterRoles, roles.Items, writer[rbacv1.ClusterRole]{
		create: api.ClusterRoles().Create, update: api.ClusterRoles().Update, get: api.ClusterRoles().Get, merge: mergeClusterRole,
	})
	ensureEach(group, ctx, "ClusterRoleBinding", policy.ClusterRoleBindings, bindings.Items, writer[rbacv1.ClusterRoleBinding]{
		create: api.ClusterRoleBindings().Create, update: api.ClusterRoleBindings().Update, get: api.ClusterRoleBindings().Get, merge: mergeClusterRoleBinding,
		recreate: func(old, want *rbacv1.ClusterRoleBinding) bool { return old.RoleRef != want.RoleRef }, remove: api.ClusterRoleBindings().Delete,
	})
	for ns, want := range byNamespace(policy.Roles) {
		roles, err := api.Roles(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("default Roles: %w", err)
		}
		ensureEach(group, ctx, "Role", want, roles.Items, writer[rbacv1.Role]{
			create: api.Roles(ns).Create, update: api.Roles(ns).Update, get: api.Roles(ns).Get, merge: mergeRole,
		})
	}
	for ns, want := range byNamespace(policy.RoleBindings) {
		bindings, err := api.RoleBindings(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("default RoleBindings: %w", err)
		}
		ensureEach(group, ctx, "RoleBinding", want, bindings.Items, writer[rbacv1.RoleBinding]{
			create: api.RoleBindings(ns).Create, update: api.RoleBindings(ns).Update, get: api.RoleBindings(ns).Get, merge: mergeRoleBinding,
			recreate: func(old, want *rbacv1.RoleBinding) bool { return old.RoleRef != want.RoleRef }, remove: api.RoleBindings(ns).Delete,
		})
	}
	return group.Wait()
}

// object is a pointer to a role or binding.
type object[T any] interface {
	*T
	metav1.Object
}

// writer is how one kind is read, merged and written. merge adds to old what want has more, and says whether it did.
type writer[T any] struct {
	create   func(context.Context, *T, metav1.CreateOptions) (*T, error)
	update   func(context.Context, *T, metav1.UpdateOptions) (*T, error)
	get      func(context.Context, string, metav1.GetOptions) (*T, error)
	remove   func(context.Context, string, metav1.DeleteOptions) error
	merge    func(old, want *T) bool
	recreate func(old, want *T) bool
}

func ensureEach[T any, P object[T]](group *errgroup.Group, ctx context.Context, kind string, want []P, have []T, w writer[T]) {
	existing := make(map[string]P, len(have))
	for i := range have {
		existing[P(&have[i]).GetName()] = &have[i]
	}
	for _, one := range want {
		group.Go(func() error {
			if err := ensure(ctx, one, existing[one.GetName()], w); err != nil {
				return fmt.Errorf("default %s %s: %w", kind, one.GetName(), err)
			}
			return nil
		})
	}
}

// ensure repeats when another server writes the same object at the same time.
func ensure[T any, P object[T]](ctx context.Context, want, old P, w writer[T]) error {
	for range 10 {
		err := write(ctx, want, old, w)
		if !apierrors.IsAlreadyExists(err) && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return err
		}
		current, err := w.get(ctx, want.GetName(), metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		old = nil
		if err == nil {
			old = current
		}
	}
	return fmt.Errorf("it changes all the time")
}

func write[T any, P object[T]](ctx context.Context, want, old P, w writer[T]) error {
	if old == nil {
		_, err := w.create(ctx, want, metav1.CreateOptions{})
		return err
	}
	if old.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] == "false" {
		return nil
	}
	if w.recreate != nil && w.recreate(old, want) {
		uid := old.GetUID()
		if err := w.remove(ctx, want.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}); err != nil {
			return err
		}
		_, err := w.create(ctx, want, metav1.CreateOptions{})
		return err
	}
	changed := addMissing(old.GetLabels(), want.GetLabels(), old.SetLabels)
	changed = addMissing(old.GetAnnotations(), want.GetAnnotations(), old.SetAnnotations) || changed
	if changed = w.merge(old, want) || changed; !changed {
		return nil
	}
	_, err := w.update(ctx, old, metav1.UpdateOptions{})
	return err
}

func addMissing(have, want map[string]string, set func(map[string]string)) bool {
	merged := maps.Clone(have)
	if merged == nil {
		merged = map[string]string{}
	}
	changed := false
	for k, v := range want {
		if merged[k] != v {
			merged[k] = v
			changed = true
		}
	}
	if changed {
		set(merged)
	}
	return changed
}

func mergeClusterRole(old, want *rbacv1.ClusterRole) bool {
	if want.AggregationRule == nil {
		return mergeRules(&old.Rules, want.Rules)
	}
	if old.AggregationRule == nil {
		old.AggregationRule = want.AggregationRule
		return true
	}
	changed := false
	for _, selector := range want.AggregationRule.ClusterRoleSelectors {
		if !slices.ContainsFunc(old.AggregationRule.ClusterRoleSelectors, func(s metav1.LabelSelector) bool { return equality.Semantic.DeepEqual(s, selector) }) {
			old.AggregationRule.ClusterRoleSelectors = append(old.AggregationRule.ClusterRoleSelectors, selector)
			changed = true
		}
	}
	return changed
}

func mergeRole(old, want *rbacv1.Role) bool { return mergeRules(&old.Rules, want.Rules) }

func mergeRules(have *[]rbacv1.PolicyRule, want []rbacv1.PolicyRule) bool {
	covered, missing := validation.Covers(*have, want)
	if !covered {
		*have = append(*have, missing...)
	}
	return !covered
}

func mergeClusterRoleBinding(old, want *rbacv1.ClusterRoleBinding) bool {
	return mergeSubjects(&old.Subjects, want.Subjects)
}

func mergeRoleBinding(old, want *rbacv1.RoleBinding) bool {
	return mergeSubjects(&old.Subjects, want.Subjects)
}

func mergeSubjects(have *[]rbacv1.Subject, want []rbacv1.Subject) bool {
	changed := false
	for _, s := range want {
		if !slices.Contains(*have, s) {
			*have = append(*have, s)
			changed = true
		}
	}
	return changed
}

func byNamespace[P metav1.Object](objects []P) map[string][]P {
	out := map[string][]P{}
	for _, o := range objects {
		out[o.GetNamespace()] = append(out[o.GetNamespace()], o)
	}
	return out
}
