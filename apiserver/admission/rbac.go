package admission

import (
	"context"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/admission"

	"github.com/mini-k8s/mini/apiserver/authz"
)

// rbacEscalation checks every write of a role or binding, whatever it changes: a label alone can make a role part of a
// bigger one.
type rbacEscalation struct {
	check *authz.Escalation
}

var _ admission.ValidationInterface = (*rbacEscalation)(nil)

func (*rbacEscalation) Handles(op admission.Operation) bool { return writes(op) }

func (e *rbacEscalation) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().Group != rbacv1.GroupName || a.GetSubresource() != "" {
		return nil
	}
	u := a.GetUserInfo()
	switch obj := a.GetObject().(type) {
	case *rbacv1.Role:
		return e.check.Role(ctx, u, obj.Namespace, obj.Name, obj.Rules, nil)
	case *rbacv1.ClusterRole:
		return e.check.Role(ctx, u, "", obj.Name, obj.Rules, obj.AggregationRule)
	case *rbacv1.RoleBinding:
		return e.check.Binding(ctx, u, obj.Namespace, obj.Name, obj.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		return e.check.Binding(ctx, u, "", obj.Name, obj.RoleRef)
	}
	return nil
}
