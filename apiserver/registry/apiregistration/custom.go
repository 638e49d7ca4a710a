package apiregistration

import (
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// Custom is the object that stands for a group and version of custom resources.
func Custom(gv schema.GroupVersion) *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{
		TypeMeta:   metav1.TypeMeta{APIVersion: apiregistrationv1.SchemeGroupVersion.String(), Kind: "APIService"},
		ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group, Labels: map[string]string{managedLabel: always}},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: customGroupPriority, VersionPriority: customVersionPriority,
		},
	}
}

// Changes are the writes that make APIServices agree with the custom resources that are served; each list is by name.
type Changes struct {
	Create, Update, Delete []*apiregistrationv1.APIService
}

// PlanCustom compares the APIServices there are, by name, with the custom versions that are served. Only objects with the
// label of those that a server always keeps are changed or deleted: an object that somebody else made in a version's name
// (an aggregated API) stays as it is. have is not changed.
func PlanCustom(have map[string]*apiregistrationv1.APIService, served map[schema.GroupVersion]bool) Changes {
	var c Changes
	want := map[string]bool{}
	for gv := range served {
		desired := Custom(gv)
		want[desired.Name] = true
		current := have[desired.Name]
		switch {
		case current == nil:
			c.Create = append(c.Create, desired)
		case current.Labels[managedLabel] != always:
		case !sameSpec(&current.Spec, &desired.Spec):
			next := current.DeepCopy()
			next.Spec = desired.Spec
			c.Update = append(c.Update, next)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if s := have[name]; !want[name] && s.Labels[managedLabel] == always && s.DeletionTimestamp == nil {
			c.Delete = append(c.Delete, s)
		}
	}
	byName := func(a, b *apiregistrationv1.APIService) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(c.Create, byName)
	slices.SortFunc(c.Update, byName)
	return c
}

// sameSpec is for two specs of which b is of an object without a Service.
func sameSpec(a, b *apiregistrationv1.APIServiceSpec) bool {
	return a.Service == nil && a.Group == b.Group && a.Version == b.Version && !a.InsecureSkipTLSVerify && len(a.CABundle) == 0 &&
		a.GroupPriorityMinimum == b.GroupPriorityMinimum && a.VersionPriority == b.VersionPriority
}
