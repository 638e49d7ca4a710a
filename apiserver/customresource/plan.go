package customresource

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// plan returns the status of each definition whose status should be another one: which of the names it asks for are its
// own, and the conditions that follow. Definitions of one group must not share names; who was first keeps them, and what is
// accepted once stays until the definition asks for something else or is gone.
func plan(all []*apiextensionsv1.CustomResourceDefinition, now metav1.Time) map[string]apiextensionsv1.CustomResourceDefinitionStatus {
	groups := map[string][]*apiextensionsv1.CustomResourceDefinition{}
	for _, crd := range all {
		groups[crd.Spec.Group] = append(groups[crd.Spec.Group], crd)
	}
	out := map[string]apiextensionsv1.CustomResourceDefinitionStatus{}
	for _, group := range groups {
		slices.SortFunc(group, func(a, b *apiextensionsv1.CustomResourceDefinition) int {
			return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
		})
		maps.Copy(out, planGroup(group, now))
	}
	return out
}

// planGroup goes on as long as one definition gives up names that another has been waiting for.
func planGroup(group []*apiextensionsv1.CustomResourceDefinition, now metav1.Time) map[string]apiextensionsv1.CustomResourceDefinitionStatus {
	out := map[string]apiextensionsv1.CustomResourceDefinitionStatus{}
	taken := map[string]apiextensionsv1.CustomResourceDefinitionNames{}
	for _, crd := range group {
		taken[crd.Name] = crd.Status.AcceptedNames
	}
	for range group {
		changed := false
		for _, crd := range group {
			if status, ok := out[crd.Name]; ok {
				next := *crd
				next.Status = status
				crd = &next
			}
			status := planStatus(crd, taken, now)
			taken[crd.Name] = status.AcceptedNames
			if !reflect.DeepEqual(status, crd.Status) {
				out[crd.Name], changed = status, true
			}
		}
		if !changed {
			break
		}
	}
	return out
}

// planStatus decides about one definition; taken are the names of those in its group, its own included.
func planStatus(crd *apiextensionsv1.CustomResourceDefinition, taken map[string]apiextensionsv1.CustomResourceDefinitionNames, now metav1.Time) apiextensionsv1.CustomResourceDefinitionStatus {
	status := *crd.Status.DeepCopy()
	if !reflect.DeepEqual(normal(crd.Spec.Names), normal(status.AcceptedNames)) || condition(&status, apiextensionsv1.NamesAccepted) == nil {
		names, accepted := acceptNames(crd, taken)
		status.AcceptedNames = names
		setCondition(&status, accepted, now)
	}
	established := condition(&status, apiextensionsv1.Established)
	switch {
	case established != nil && established.Status == apiextensionsv1.ConditionTrue:
	case condition(&status, apiextensionsv1.NamesAccepted).Status == apiextensionsv1.ConditionTrue:
		setCondition(&status, apiextensionsv1.CustomResourceDefinitionCondition{
			Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue,
			Reason: "InitialNamesAccepted", Message: "the initial names have been accepted",
		}, now)
	default:
		setCondition(&status, apiextensionsv1.CustomResourceDefinitionCondition{
			Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionFalse,
			Reason: "NotAccepted", Message: "not all names are accepted",
		}, now)
	}
	if c := approval(crd); c != nil {
		setCondition(&status, *c, now)
	}
	if c := nonStructural(crd); c != nil {
		setCondition(&status, *c, now)
	} else {
		status.Conditions = slices.DeleteFunc(status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
			return c.Type == apiextensionsv1.NonStructuralSchema
		})
	}
	return status
}

// normal makes names comparable: an empty list is none.
func normal(n apiextensionsv1.CustomResourceDefinitionNames) apiextensionsv1.CustomResourceDefinitionNames {
	if len(n.ShortNames) == 0 {
		n.ShortNames = nil
	}
	if len(n.Categories) == 0 {
		n.Categories = nil
	}
	return n
}

// acceptNames takes each name the definition asks for, unless another one has it.
func acceptNames(crd *apiextensionsv1.CustomResourceDefinition, taken map[string]apiextensionsv1.CustomResourceDefinitionNames) (apiextensionsv1.CustomResourceDefinitionNames, apiextensionsv1.CustomResourceDefinitionCondition) {
	resources, kinds := map[string]bool{}, map[string]bool{}
	for owner, n := range taken {
		if owner == crd.Name {
			continue // one's own names are no conflict
		}
		for _, name := range append([]string{n.Plural, n.Singular}, n.ShortNames...) {
			resources[name] = true
		}
		kinds[n.Kind], kinds[n.ListKind] = true, true
	}
	out := apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.NamesAccepted, Status: apiextensionsv1.ConditionTrue, Reason: "NoConflicts", Message: "no conflicts found",
	}
	conflict := func(reason string, errs ...string) {
		out.Status, out.Reason, out.Message = apiextensionsv1.ConditionFalse, reason, strings.Join(errs, ", ")
	}
	asked, names := crd.Spec.Names, *crd.Status.AcceptedNames.DeepCopy()
	take := func(reason, want string, have *string, used map[string]bool) {
		if want != *have && used[want] {
			conflict(reason, inUse(want))
			return
		}
		*have = want
	}
	take("PluralConflict", asked.Plural, &names.Plural, resources)
	take("SingularConflict", asked.Singular, &names.Singular, resources)
	var clashes []string
	for _, short := range asked.ShortNames {
		if !slices.Contains(names.ShortNames, short) && resources[short] {
			clashes = append(clashes, inUse(short))
		}
	}
	switch {
	case len(clashes) == 1:
		conflict("ShortNamesConflict", clashes...)
	case len(clashes) > 1:
		conflict("ShortNamesConflict", "["+strings.Join(clashes, ", ")+"]")
	default:
		names.ShortNames = slices.Clone(asked.ShortNames)
	}
	take("KindConflict", asked.Kind, &names.Kind, kinds)
	take("ListKindConflict", asked.ListKind, &names.ListKind, kinds)
	names.Categories = slices.Clone(asked.Categories)
	return names, out
}

func inUse(name string) string { return fmt.Sprintf("%q is already in use", name) }

// approval says whether a definition in one of the community's groups is known to the community; nil in other groups.
func approval(crd *apiextensionsv1.CustomResourceDefinition) *apiextensionsv1.CustomResourceDefinitionCondition {
	if !apihelpers.IsProtectedCommunityGroup(crd.Spec.Group) {
		return nil
	}
	out := &apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.KubernetesAPIApprovalPolicyConformant, Status: apiextensionsv1.ConditionFalse,
	}
	state, text := apihelpers.GetAPIApprovalState(crd.Annotations)
	out.Message = text
	switch state {
	case apihelpers.APIApproved:
		out.Status, out.Reason = apiextensionsv1.ConditionTrue, "ApprovedAnnotation"
	case apihelpers.APIApprovalInvalid:
		out.Reason = "InvalidAnnotation"
	case apihelpers.APIApprovalMissing:
		out.Reason = "MissingAnnotation"
	case apihelpers.APIApprovalBypassed:
		out.Reason = "UnapprovedAnnotation"
	default:
		out.Status, out.Reason = apiextensionsv1.ConditionUnknown, "UnknownAnnotation"
	}
	return out
}

// nonStructural is about definitions from the time before structural schemas were asked for, which say so themselves.
func nonStructural(crd *apiextensionsv1.CustomResourceDefinition) *apiextensionsv1.CustomResourceDefinitionCondition {
	if !crd.Spec.PreserveUnknownFields {
		return nil
	}
	text := field.Invalid(field.NewPath("spec", "preserveUnknownFields"), true, "must be false").Error()
	return &apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.NonStructuralSchema, Status: apiextensionsv1.ConditionTrue, Reason: "Violations", Message: text,
	}
}

func condition(status *apiextensionsv1.CustomResourceDefinitionStatus, t apiextensionsv1.CustomResourceDefinitionConditionType) *apiextensionsv1.CustomResourceDefinitionCondition {
	for i := range status.Conditions {
		if status.Conditions[i].Type == t {
			return &status.Conditions[i]
		}
	}
	return nil
}

// setCondition changes the time of a condition only with its status.
func setCondition(status *apiextensionsv1.CustomResourceDefinitionStatus, c apiextensionsv1.CustomResourceDefinitionCondition, now metav1.Time) {
	c.LastTransitionTime = now
	old := condition(status, c.Type)
	switch {
	case old == nil:
		status.Conditions = append(status.Conditions, c)
		return
	case old.Status == c.Status:
		c.LastTransitionTime = old.LastTransitionTime
	}
	c.ObservedGeneration = old.ObservedGeneration
	*old = c
}
