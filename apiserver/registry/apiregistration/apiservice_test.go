package apiregistration

import (
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/mini-k8s/mini/apiserver/registry/registrytest"
	"github.com/mini-k8s/mini/store"
)

func TestAPIService(t *testing.T) {
	row := APIService()
	remote := `{metadata: {name: v1.a.b}, spec: {group: a.b, version: v1, groupPriorityMinimum: 1, versionPriority: 1, service: {name: s, namespace: n}}}`
	registrytest.Run(t, []registrytest.Case{
		{Name: "local", Row: row, New: `{metadata: {name: v1.a.b}, spec: {group: a.b, version: v1, groupPriorityMinimum: 1, versionPriority: 1}}`, Then: func(t *testing.T, o store.Object) {
			if c := o.(*apiregistrationv1.APIService).Status.Conditions; len(c) != 1 || c[0].Type != "Available" || c[0].Status != "True" {
				t.Errorf("%+v", c)
			}
		}},
		{Name: "remote", Row: row, New: remote, Then: func(t *testing.T, o store.Object) {
			if s := o.(*apiregistrationv1.APIService); *s.Spec.Service.Port != 443 || len(s.Status.Conditions) != 0 {
				t.Errorf("%+v", s)
			}
		}},
		{Name: "name", Row: row, New: `{metadata: {name: x}, spec: {group: a.b, version: v1, groupPriorityMinimum: 1, versionPriority: 1}}`, Want: "must be `spec.version+\".\"+spec.group`: \"v1.a.b\""},
		{Name: "priorities", Row: row, New: `{metadata: {name: v1.a.b}, spec: {group: a.b, version: v1, groupPriorityMinimum: 20001}}`, Want: "spec.groupPriorityMinimum: Invalid value: 20001: must be positive and less than 20000, spec.versionPriority: Invalid value: 0: must be positive and less than 1000"},
		{Name: "local_bundle", Row: row, New: `{metadata: {name: v1.a.b}, spec: {group: a.b, version: v1, groupPriorityMinimum: 1, versionPriority: 1, caBundle: YQ==}}`, Want: "local APIServices may not have a caBundle"},
		{Name: "status", Row: row, View: "status", Old: remote, New: `{metadata: {name: v1.a.b}, status: {conditions: [{type: Available, status: Maybe}]}}`, Want: `status.conditions[0].status: Unsupported value: "Maybe"`},
	})
	for _, gv := range []schema.GroupVersion{{Version: "v1"}, {Group: "apps", Version: "v1"}, {Group: "autoscaling", Version: "v2"}, {Group: "other", Version: "v1"}} {
		if errs := row.Strategy.Validate(t.Context(), Local(gv)); len(errs) > 0 {
			t.Errorf("%v: %v", gv, errs)
		}
	}
}
