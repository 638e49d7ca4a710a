package apps

import (
	"encoding/json"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
)

// ControllerRevision is the row of controllerrevisions: what DaemonSets and StatefulSets looked like.
func ControllerRevision() registry.Resource {
	return registry.Resource{
		GVK: appsv1.SchemeGroupVersion.WithKind("ControllerRevision"), Name: "controllerrevisions", Singular: "controllerrevision", Namespaced: true,
		Strategy: registry.Strategy{
			Validate: registry.Validate(func(r *appsv1.ControllerRevision) field.ErrorList {
				return append(validateControllerRevision(r), validateRevisionData(r.Data.Raw, field.NewPath("data"))...)
			}),
			ValidateUpdate: registry.ValidateUpdate(func(r, old *appsv1.ControllerRevision) field.ErrorList {
				errs := apivalidation.ValidateObjectMetaUpdate(&r.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
				errs = append(errs, validateControllerRevision(r)...)
				return append(errs, apivalidation.ValidateImmutableField(r.Data, old.Data, field.NewPath("data"))...)
			}),
			UnconditionalUpdate: true,
		},
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Column("Controller", "Whose revision it is"),
				registry.Column("Revision", "The number of the revision"),
				registry.AgeColumn(),
			},
			Cells: registry.Cells(func(r *appsv1.ControllerRevision) []any {
				controller := registry.None
				if ref := metav1.GetControllerOf(r); ref != nil {
					controller = strings.ToLower(schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).GroupKind().String()) + "/" + ref.Name
				}
				return []any{r.Name, controller, r.Revision, registry.Age(r.CreationTimestamp)}
			}),
		},
	}
}

func validateControllerRevision(r *appsv1.ControllerRevision) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&r.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	return append(errs, apivalidation.ValidateNonnegativeField(r.Revision, field.NewPath("revision"))...)
}

func validateRevisionData(data []byte, path *field.Path) field.ErrorList {
	if data == nil {
		return field.ErrorList{field.Required(path, "data is mandatory")}
	}
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		return field.ErrorList{field.Invalid(path, "<value omitted>", fmt.Sprintf("error parsing data: %v", err.Error()))}
	}
	if v == nil {
		return field.ErrorList{field.Required(path, "data is mandatory")}
	}
	if _, ok := v.(map[string]any); !ok {
		return field.ErrorList{field.Required(path, "data must be a valid JSON object")}
	}
	return nil
}
