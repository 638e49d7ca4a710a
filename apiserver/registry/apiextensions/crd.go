package apiextensions

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

// Key is where definitions lie in etcd below /registry/.
const Key = "apiextensions.k8s.io/customresourcedefinitions"

// Kind is the kind of the row.
var Kind = apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition")

// CustomResourceDefinition is the row of customresourcedefinitions.
func CustomResourceDefinition() registry.Resource {
	status := registry.Strategy{
		PrepareForUpdate: registry.PrepareUpdate(func(crd, old *apiextensionsv1.CustomResourceDefinition) { crd.Spec = old.Spec }),
		ValidateUpdate:   validateUpdate(validation.ValidateUpdateCustomResourceDefinitionStatus),
	}
	return registry.Resource{
		GVK: Kind, Name: "customresourcedefinitions", Singular: "customresourcedefinition",
		ShortNames: []string{"crd", "crds"}, Categories: []string{"api-extensions"},
		Key: Key, Codec: Codec{},
		Default: registry.Defaulter(apiextensionsv1.SetObjectDefaults_CustomResourceDefinition),
		Strategy: registry.Strategy{
			PrepareForCreate: registry.Prepare(func(crd *apiextensionsv1.CustomResourceDefinition) {
				// An empty list rather than none: `kubectl wait` gives up on an object whose conditions are null.
				crd.Status, crd.Generation = apiextensionsv1.CustomResourceDefinitionStatus{Conditions: []apiextensionsv1.CustomResourceDefinitionCondition{}}, 1
				noteStored(crd)
			}),
			PrepareForUpdate: registry.PrepareUpdate(func(crd, old *apiextensionsv1.CustomResourceDefinition) {
				crd.Status, crd.Generation = *old.Status.DeepCopy(), old.Generation
				if !apiequality.Semantic.DeepEqual(crd.Spec, old.Spec) {
					crd.Generation++
				}
				noteStored(crd)
			}),
			Validate:         validate,
			ValidateUpdate:   validateUpdate(validation.ValidateCustomResourceDefinitionUpdate),
			Warnings:         registry.Warn(warnings),
			PrepareForDelete: registry.Prepare(markTerminating),
			// The first delete only marks: the objects go first, and the finalizer it adds waits for them.
			Held: func(o store.Object) bool { return o.GetDeletionTimestamp() == nil },
		},
		Status: &status,
		Table:  registry.Table{Columns: columns(), Cells: registry.Cells(cells)},
	}
}

// noteStored keeps status.storedVersions complete: objects may be stored in the storage version from now on.
func noteStored(crd *apiextensionsv1.CustomResourceDefinition) {
	for _, v := range crd.Spec.Versions {
		if v.Storage && !slices.Contains(crd.Status.StoredVersions, v.Name) {
			crd.Status.StoredVersions = append(crd.Status.StoredVersions, v.Name)
		}
	}
}

func markTerminating(crd *apiextensionsv1.CustomResourceDefinition) {
	if !apihelpers.CRDHasFinalizer(crd, apiextensionsv1.CustomResourceCleanupFinalizer) {
		crd.Finalizers = append(slices.Clone(crd.Finalizers), apiextensionsv1.CustomResourceCleanupFinalizer)
	}
	apihelpers.SetCRDCondition(crd, apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue, Reason: "InstanceDeletionPending",
		Message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
	})
}

// internal turns a definition into the form that upstream's validation takes. The conversion shares memory with what it
// is given and writes into it, so that it gets a copy.
func internal(o store.Object) (*apiextensions.CustomResourceDefinition, error) {
	out := &apiextensions.CustomResourceDefinition{}
	in := o.(*apiextensionsv1.CustomResourceDefinition).DeepCopy()
	err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(in, out, nil)
	return out, err
}

func validate(ctx context.Context, o store.Object) field.ErrorList {
	crd, err := internal(o)
	if err != nil {
		return unreadable(err)
	}
	return validation.ValidateCustomResourceDefinition(ctx, crd)
}

func validateUpdate(f func(ctx context.Context, crd, old *apiextensions.CustomResourceDefinition) field.ErrorList) func(context.Context, store.Object, store.Object) field.ErrorList {
	return func(ctx context.Context, o, oldObject store.Object) field.ErrorList {
		crd, err := internal(o)
		if err != nil {
			return unreadable(err)
		}
		old, err := internal(oldObject)
		if err != nil {
			return unreadable(err)
		}
		return f(ctx, crd, old)
	}
}

// unreadable says that a default or an example in a schema is not JSON.
func unreadable(err error) field.ErrorList {
	return field.ErrorList{field.Invalid(field.NewPath("spec"), nil, err.Error())}
}

func columns() []metav1.TableColumnDefinition {
	established := registry.Column("Established", "Established status")
	established.Type = "boolean"
	created := registry.Column("Created At", "When this object was created")
	created.Type = "date"
	return []metav1.TableColumnDefinition{
		registry.NameColumn(),
		registry.Column("Scope", "Cluster/Namespaced"),
		registry.Column("Versions", "Served versions"),
		created,
		registry.Wide(registry.Column("Group", "API group")),
		registry.Wide(registry.Column("Kind", "CustomResource kind")),
		registry.Wide(registry.Column("ShortNames", "Short names")),
		registry.Wide(established),
	}
}

func cells(crd *apiextensionsv1.CustomResourceDefinition) []any {
	var versions []string
	for _, v := range crd.Spec.Versions {
		if !v.Served {
			continue
		}
		name := v.Name
		if v.Storage {
			name += "(storage)"
		}
		versions = append(versions, name)
	}
	slices.Sort(versions)
	return []any{
		crd.Name, string(crd.Spec.Scope), strings.Join(versions, ","), crd.CreationTimestamp.UTC().Format(time.RFC3339),
		crd.Spec.Group, crd.Spec.Names.Kind, strings.Join(crd.Spec.Names.ShortNames, ","),
		apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established),
	}
}

// warnings are about what is allowed in a schema and yet does not do what its author may think; of an update, only what is
// new in it.
func warnings(crd, old *apiextensionsv1.CustomResourceDefinition) []string {
	now, before := remarks(crd), map[string]bool{}
	if old != nil {
		for _, text := range remarks(old) {
			before[text] = true
		}
	}
	return slices.DeleteFunc(now, func(text string) bool { return before[text] })
}

func remarks(crd *apiextensionsv1.CustomResourceDefinition) []string {
	var formats, sets []string
	for _, v := range crd.Spec.Versions {
		if v.Schema == nil {
			continue
		}
		eachSchema(v.Schema.OpenAPIV3Schema, func(s *apiextensionsv1.JSONSchemaProps) {
			if s.Format != "" && unknownFormat(s) {
				formats = append(formats, fmt.Sprintf("unrecognized format %q", s.Format))
			}
			if s.XListType == nil || *s.XListType != "set" || s.Items == nil || s.Items.Schema == nil {
				return
			}
			if t := s.Items.Schema.Type; t == "object" || t == "array" {
				sets = append(sets, fmt.Sprintf("x-kubernetes-list-type: set for items of type %q is not supported by server-side apply or CEL validation rules", t))
			}
		})
	}
	slices.Sort(sets)
	return append(formats, slices.Compact(sets)...)
}
