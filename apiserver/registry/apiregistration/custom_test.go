package apiregistration

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

func TestPlanCustom(t *testing.T) {
	gv := schema.GroupVersion{Group: "example.com", Version: "v1"}
	with := func(change func(*apiregistrationv1.APIService)) *apiregistrationv1.APIService {
		s := Custom(gv)
		change(s)
		return s
	}
	for name, c := range map[string]struct {
		have                   *apiregistrationv1.APIService
		served                 bool
		create, update, delete []string
	}{
		"nothing":              {},
		"new":                  {served: true, create: []string{"v1.example.com"}},
		"there":                {have: Custom(gv), served: true},
		"gone":                 {have: Custom(gv), delete: []string{"v1.example.com"}},
		"going":                {have: with(func(s *apiregistrationv1.APIService) { s.DeletionTimestamp = &metav1.Time{} })},
		"changed by somebody":  {have: with(func(s *apiregistrationv1.APIService) { s.Spec.VersionPriority = 7 }), served: true, update: []string{"v1.example.com"}},
		"made into a remote":   {have: with(func(s *apiregistrationv1.APIService) { s.Spec.Service = &apiregistrationv1.ServiceReference{} }), served: true, update: []string{"v1.example.com"}},
		"somebody else's":      {have: with(func(s *apiregistrationv1.APIService) { s.Labels, s.Spec.VersionPriority = nil, 7 }), served: true},
		"somebody else's only": {have: with(func(s *apiregistrationv1.APIService) { s.Labels = nil })},
		"of a built-in group":  {have: Local(schema.GroupVersion{Group: "apps", Version: "v1"})},
	} {
		t.Run(name, func(t *testing.T) {
			have, served := map[string]*apiregistrationv1.APIService{}, map[schema.GroupVersion]bool{}
			if c.have != nil {
				have[c.have.Name] = c.have
			}
			if c.served {
				served[gv] = true
			}
			got := PlanCustom(have, served)
			for what, lists := range map[string][2][]string{
				"create": {names(got.Create), c.create}, "update": {names(got.Update), c.update}, "delete": {names(got.Delete), c.delete},
			} {
				if !slices.Equal(lists[0], lists[1]) {
					t.Errorf("%s: %v, want %v", what, lists[0], lists[1])
				}
			}
			for _, s := range slices.Concat(got.Create, got.Update) {
				if !sameSpec(&s.Spec, &Custom(gv).Spec) || s.Labels[managedLabel] != "true" {
					t.Errorf("%+v", s)
				}
			}
		})
	}
}

func names(list []*apiregistrationv1.APIService) []string {
	var out []string
	for _, s := range list {
		out = append(out, s.Name)
	}
	return out
}
