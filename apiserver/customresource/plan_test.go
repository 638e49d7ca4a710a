package customresource

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

func named(plural, kind string, minute int, short ...string) *apiextensionsv1.CustomResourceDefinition {
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: plural + ".example.com", CreationTimestamp: metav1.NewTime(time.Unix(int64(60*minute), 0))},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com",
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Singular: plural + "one", Kind: kind, ListKind: kind + "List", ShortNames: short},
		},
	}
}

// apply makes the planned statuses true.
func apply(all []*apiextensionsv1.CustomResourceDefinition) int {
	planned := plan(all, metav1.NewTime(time.Unix(9000, 0)))
	for _, crd := range all {
		if status, ok := planned[crd.Name]; ok {
			crd.Status = status
		}
	}
	return len(planned)
}

func reasons(crd *apiextensionsv1.CustomResourceDefinition) (out []string) {
	for _, c := range crd.Status.Conditions {
		out = append(out, string(c.Type)+"="+string(c.Status)+" "+c.Reason+": "+c.Message)
	}
	return out
}

// TestConflicts: who was first has the names; they are free again when he is gone.
func TestConflicts(t *testing.T) {
	first, second := named("as", "A", 1, "x"), named("bs", "A", 2, "x", "y")
	all := []*apiextensionsv1.CustomResourceDefinition{second, first}
	if n := apply(all); n != 2 {
		t.Errorf("%d changes", n)
	}
	if diff := cmp.Diff([]string{"NamesAccepted=True NoConflicts: no conflicts found", "Established=True InitialNamesAccepted: the initial names have been accepted"}, reasons(first)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{`NamesAccepted=False ListKindConflict: "AList" is already in use`, "Established=False NotAccepted: not all names are accepted"}, reasons(second)); diff != "" {
		t.Error(diff)
	}
	if n := second.Status.AcceptedNames; n.Plural != "bs" || n.Kind != "" || n.ShortNames != nil {
		t.Errorf("%+v", n)
	}
	apply(all[:1])
	if !isTrue(second, apiextensionsv1.Established) || second.Status.AcceptedNames.Kind != "A" {
		t.Errorf("%+v", second.Status)
	}
}

// TestEstablishedStays: a definition that asks for a name it cannot have keeps serving under those it has.
func TestEstablishedStays(t *testing.T) {
	first, second := named("as", "A", 1), named("bs", "B", 2)
	all := []*apiextensionsv1.CustomResourceDefinition{first, second}
	apply(all)
	second.Spec.Names.Kind = "A"
	apply(all)
	if isTrue(second, apiextensionsv1.NamesAccepted) || !isTrue(second, apiextensionsv1.Established) || second.Status.AcceptedNames.Kind != "B" {
		t.Errorf("%+v", second.Status)
	}
}

// TestPlanProperties: whatever definitions ask for, a second look changes nothing, and no two of them have a name.
func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		var all []*apiextensionsv1.CustomResourceDefinition
		for i, plural := range rapid.SliceOfNDistinct(name, 1, 4, rapid.ID).Draw(t, "plurals") {
			all = append(all, named(plural, name.Draw(t, "kind"), i%2, rapid.SliceOfN(name, 0, 2).Draw(t, "short")...))
		}
		for range 3 {
			apply(all)
			if n := apply(all); n > 0 {
				t.Fatalf("a second plan has %d changes", n)
			}
			kinds := map[string]string{}
			for _, crd := range all {
				if other, taken := kinds[crd.Status.AcceptedNames.Kind]; taken && crd.Status.AcceptedNames.Kind != "" {
					t.Fatalf("%s and %s are both of kind %s", crd.Name, other, crd.Status.AcceptedNames.Kind)
				}
				kinds[crd.Status.AcceptedNames.Kind] = crd.Name
			}
			all[rapid.IntRange(0, len(all)-1).Draw(t, "which")].Spec.Names.Kind = name.Draw(t, "newKind")
		}
	})
}
