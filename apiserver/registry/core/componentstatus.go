package core

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

// ComponentStatus is the row of componentstatuses: deprecated upstream, still asked for by people and dashboards. The scheduler
// and the controllers live in the process that answers, which ends when one of them does: that it answers says that they run.
func ComponentStatus(deps registry.Deps) registry.Resource {
	meta := func(o *corev1.ComponentStatus) field.ErrorList {
		return apivalidation.ValidateObjectMeta(&o.ObjectMeta, false, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	}
	return registry.Resource{
		GVK: corev1.SchemeGroupVersion.WithKind("ComponentStatus"), Name: "componentstatuses", Singular: "componentstatus", ShortNames: []string{"cs"},
		Verbs: []string{"get", "list"},
		Strategy: registry.Strategy{
			Validate:       registry.Validate(meta),
			ValidateUpdate: registry.ValidateUpdate(func(o, _ *corev1.ComponentStatus) field.ErrorList { return meta(o) }),
		},
		Computed: func(ctx context.Context) []store.Object {
			var etcd error
			if deps.StoreHealthy != nil {
				etcd = deps.StoreHealthy(ctx)
			}
			return []store.Object{componentStatus("controller-manager", nil), componentStatus("etcd-0", etcd), componentStatus("scheduler", nil)}
		},
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Column("Status", "Whether the component is healthy"),
				registry.Column("Message", "What the component says"),
				registry.Column("Error", "Why the component is not healthy"),
			},
			Cells: registry.Cells(func(o *corev1.ComponentStatus) []any {
				for _, c := range o.Conditions {
					if c.Type == corev1.ComponentHealthy {
						status := "Unhealthy"
						if c.Status == corev1.ConditionTrue {
							status = "Healthy"
						}
						return []any{o.Name, status, c.Message, c.Error}
					}
				}
				return []any{o.Name, "Unknown", "", ""}
			}),
		},
	}
}

func componentStatus(name string, err error) *corev1.ComponentStatus {
	c := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
	if err != nil {
		c.Status, c.Message, c.Error = corev1.ConditionFalse, "", err.Error()
	}
	o := &corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: name}, Conditions: []corev1.ComponentCondition{c}}
	o.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ComponentStatus"))
	return o
}
