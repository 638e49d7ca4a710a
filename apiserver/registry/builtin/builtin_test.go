package builtin_test

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/registry/builtin"
	"github.com/mini-k8s/mini/store"
)

var types = builtin.NewScheme()

func rows(t testing.TB) []registry.Resource {
	t.Helper()
	review := map[string]func(context.Context, store.Object) (store.Object, error){}
	for _, kind := range []string{
		"TokenReview", "SelfSubjectReview", "SubjectAccessReview", "LocalSubjectAccessReview", "SelfSubjectAccessReview", "SelfSubjectRulesReview",
	} {
		review[kind] = func(_ context.Context, o store.Object) (store.Object, error) { return o, nil }
	}
	rows, _ := builtin.Resources(registry.Deps{
		Review: review,
		CreateToken: func(_ context.Context, _, _ string, req *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
			return req, nil
		},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		NodePorts:    registry.PortRange{From: 30000, To: 32767},
	})
	return rows
}

func newObject(t testing.TB, row registry.Resource) store.Object {
	t.Helper()
	o, err := types.New(row.GVK)
	if err != nil {
		t.Fatal(err)
	}
	return o.(store.Object)
}

// TestRows checks what the generic handlers rely on for every row.
func TestRows(t *testing.T) {
	seen := map[string]bool{}
	for _, row := range rows(t) {
		t.Run(row.GVK.Group+"_"+row.Name, func(t *testing.T) {
			id := row.GVK.GroupVersion().String() + "/" + row.Name
			if seen[id] {
				t.Errorf("%s has two rows", id)
			}
			seen[id] = true
			if row.Singular == "" || row.GVK.Kind == "" || row.GVK.Version == "" {
				t.Errorf("incomplete names: %+v", row.GVK)
			}
			o := newObject(t, row)
			if row.Create != nil {
				if !slices.Equal(row.Verbs, []string{"create"}) {
					t.Errorf("a kind that is not stored only serves create, not %v", row.Verbs)
				}
				return
			}
			if row.Default != nil {
				row.Default(o)
			}
			cells := row.Table.Cells(o)
			if len(cells) != len(row.Table.Columns) {
				t.Errorf("%d cells for %d columns", len(cells), len(row.Table.Columns))
			}
			if !slices.ContainsFunc(row.Table.Columns, func(c metav1.TableColumnDefinition) bool { return c.Name == "Name" && c.Format == "name" }) {
				t.Error("no Name column")
			}
			if row.Strategy.Validate == nil || row.Strategy.ValidateUpdate == nil {
				t.Error("validates nothing")
			}
			if errs := row.Strategy.Validate(t.Context(), o); len(errs) == 0 {
				t.Error("an empty object is accepted")
			}
			for _, sub := range row.Subresources {
				if _, err := types.New(sub.Kind); err != nil {
					t.Errorf("%s: %v", sub.Name, err)
				}
				ways := 0
				for _, set := range []bool{sub.Strategy != nil, sub.Create != nil, sub.Change != nil, sub.Evict != nil} {
					if set {
						ways++
					}
				}
				if ways > 1 {
					t.Errorf("%s is served in %d ways", sub.Name, ways)
				}
				if len(sub.Verbs) == 0 {
					t.Errorf("%s has no verbs", sub.Name)
				}
			}
		})
	}
}

// TestStorageRoundTrip checks that every stored kind survives its encoding, through FromStored and ToStored where a row has
// them, and that what is kept otherwise than as protobuf of its own version is known. Module e2e/conformance holds the
// encodings against upstream's.
func TestStorageRoundTrip(t *testing.T) {
	known := map[string]string{
		"customresourcedefinitions":       `{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1beta1"`,
		"apiservices":                     `{"kind":"APIService","apiVersion":"apiregistration.k8s.io/v1"`,
		"mutatingadmissionpolicies":       "k8s\x00\n?\n$admissionregistration.k8s.io/v1beta1\x12\x17MutatingAdmissionPolicy",
		"mutatingadmissionpolicybindings": "k8s\x00\nF\n$admissionregistration.k8s.io/v1beta1\x12\x1eMutatingAdmissionPolicyBinding",
	}
	all := rows(t)
	for _, row := range all {
		if row.Create != nil || row.Computed != nil {
			continue
		}
		t.Run(row.GVK.Group+"_"+row.Name, func(t *testing.T) {
			o := newObject(t, row)
			o.SetName("n")
			o.SetLabels(map[string]string{"a": "b"})
			if crd, ok := o.(*apiextensionsv1.CustomResourceDefinition); ok {
				crd.Spec.Scope = apiextensionsv1.ClusterScoped // v1beta1 has a default for it
			}
			if row.Default != nil {
				row.Default(o)
			}
			o.GetObjectKind().SetGroupVersionKind(row.GVK)
			stored := o
			var err error
			if row.ToStored != nil {
				if stored, err = row.ToStored(o); err != nil {
					t.Fatal(err)
				}
				stored.GetObjectKind().SetGroupVersionKind(row.StoredKind())
			}
			config, err := registry.Collection(types, all, row.StorageKey(), row.StoredKind())
			if err != nil {
				t.Fatal(err)
			}
			data, err := config.Codec.Encode(stored)
			if err != nil {
				t.Fatal(err)
			}
			want := known[row.Name]
			if want == "" {
				var plain bytes.Buffer
				if err := protobuf.NewSerializer(types, types).Encode(stored, &plain); err != nil {
					t.Fatal(err)
				}
				want = plain.String()
			}
			if !strings.HasPrefix(string(data), want) {
				t.Errorf("stored as %q", data)
			}
			got, err := config.Codec.Decode(data)
			if err != nil {
				t.Fatal(err)
			}
			if row.FromStored != nil {
				if got, err = row.FromStored(got); err != nil {
					t.Fatal(err)
				}
				got.GetObjectKind().SetGroupVersionKind(row.GVK)
			}
			if diff := cmp.Diff(runtime.Object(o), runtime.Object(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestDocumented holds the table in docs/api.md to the rows.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string][]string{}
	for line := range strings.SplitSeq(string(text), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 8 {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		documented[cells[1]+"/"+cells[3]] = cells
	}
	for _, row := range rows(t) {
		id := row.GVK.GroupVersion().String() + "/" + row.Name
		cells := documented[id]
		if cells == nil {
			t.Errorf("%s is not in the table", id)
			continue
		}
		delete(documented, id)
		var subs []string
		if row.Status != nil {
			subs = append(subs, "status")
		}
		if row.Scale != nil {
			subs = append(subs, "scale")
		}
		for _, sub := range row.Subresources {
			subs = append(subs, sub.Name)
		}
		slices.Sort(subs)
		listed := strings.FieldsFunc(cells[5], func(r rune) bool { return r == ',' || r == ' ' })
		slices.Sort(listed)
		if !slices.Equal(subs, listed) {
			t.Errorf("%s has subresources %v, the table says %v", id, subs, listed)
		}
		if got := strings.Join(row.ShortNames, ", "); got != cells[4] || row.GVK.Kind != cells[2] {
			t.Errorf("%s is %s (%s), the table says %s (%s)", id, row.GVK.Kind, got, cells[2], cells[4])
		}
		place := row.Key
		if place == "" {
			place = row.Name
		}
		if row.Create == nil && !strings.HasPrefix(cells[6], place) {
			t.Errorf("%s is stored in %s, the table says %s", id, place, cells[6])
		}
	}
	for id := range documented {
		if !strings.Contains(id, "---") && !strings.HasPrefix(id, "Group and version") {
			t.Errorf("%s is in the table and not served", id)
		}
	}
}

// TestGroups: every stable API group of Kubernetes 1.36 is served in its preferred version.
func TestGroups(t *testing.T) {
	served := map[string]bool{}
	for _, row := range rows(t) {
		served[row.GVK.GroupVersion().String()] = true
	}
	for _, gv := range []string{
		"v1", "admissionregistration.k8s.io/v1", "apiextensions.k8s.io/v1", "apiregistration.k8s.io/v1", "apps/v1", "authentication.k8s.io/v1",
		"authorization.k8s.io/v1", "autoscaling/v1", "autoscaling/v2", "batch/v1", "certificates.k8s.io/v1", "coordination.k8s.io/v1",
		"discovery.k8s.io/v1", "events.k8s.io/v1", "flowcontrol.apiserver.k8s.io/v1", "networking.k8s.io/v1", "node.k8s.io/v1", "policy/v1",
		"rbac.authorization.k8s.io/v1", "resource.k8s.io/v1", "scheduling.k8s.io/v1", "storage.k8s.io/v1",
	} {
		if !served[gv] {
			t.Errorf("%s is not served", gv)
		}
	}
}
