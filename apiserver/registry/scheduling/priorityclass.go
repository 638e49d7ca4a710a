package scheduling

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/mini-k8s/mini/apiserver/registry"
)

const (
	// systemPrefix begins the names that users may not take.
	systemPrefix = "system-"
	// highestUserPriority is the largest value of a class that is not the system's.
	highestUserPriority = 1_000_000_000
)

// System returns the classes that every cluster has.
func System() []*schedulingv1.PriorityClass {
	class := func(name string, value int32, description string) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, Description: description}
	}
	return []*schedulingv1.PriorityClass{
		class("system-node-critical", 2*highestUserPriority+1000, "Used for system critical pods that must not be moved from their current node."),
		class("system-cluster-critical", 2*highestUserPriority, "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
	}
}

// PriorityClass is the row of priorityclasses.
func PriorityClass() registry.Resource {
	return registry.Resource{
		GVK: schedulingv1.SchemeGroupVersion.WithKind("PriorityClass"), Name: "priorityclasses", Singular: "priorityclass", ShortNames: []string{"pc"},
		Default: registry.Defaulter(func(pc *schedulingv1.PriorityClass) {
			if pc.PreemptionPolicy == nil {
				pc.PreemptionPolicy = ptr.To(corev1.PreemptLowerPriority)
			}
		}),
		Strategy: registry.Strategy{
			PrepareForCreate: registry.Prepare(func(pc *schedulingv1.PriorityClass) { pc.Generation = 1 }),
			Validate:         registry.Validate(validate),
			ValidateUpdate: registry.ValidateUpdate(func(pc, old *schedulingv1.PriorityClass) field.ErrorList {
				errs := registry.ValidateMetaUpdate(pc, old)
				if pc.Value != old.Value {
					errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
				}
				return append(errs, registry.Immutable(pc.PreemptionPolicy, old.PreemptionPolicy, field.NewPath("preemptionPolicy"))...)
			}),
			UnconditionalUpdate: true,
		},
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Number("Value", "The priority that pods of this class get"),
				registry.Boolean("Global-Default", "Whether pods that name no class are of this one"),
				registry.AgeColumn(),
				registry.Column("PreemptionPolicy", "Whether pods of this class may preempt others"),
			},
			Cells: registry.Cells(func(pc *schedulingv1.PriorityClass) []any {
				return []any{pc.Name, int64(pc.Value), pc.GlobalDefault, registry.Age(pc.CreationTimestamp), string(ptr.Deref(pc.PreemptionPolicy, ""))}
			}),
		},
	}
}

func validate(pc *schedulingv1.PriorityClass) field.ErrorList {
	errs := registry.ValidateMeta(pc, false, apivalidation.NameIsDNSSubdomain)
	if strings.HasPrefix(pc.Name, systemPrefix) {
		if err := knownToSystem(pc); err != nil {
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"), fmt.Sprintf(
				"priority class names with '%s' prefix are reserved for system use only. error: %v", systemPrefix, err)))
		}
	} else if pc.Value > highestUserPriority {
		errs = append(errs, field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %d", highestUserPriority)))
	}
	if p := pc.PreemptionPolicy; p != nil {
		path := field.NewPath("preemptionPolicy")
		switch *p {
		case corev1.PreemptLowerPriority, corev1.PreemptNever:
		case "":
			errs = append(errs, field.Required(path, ""))
		default:
			errs = append(errs, field.NotSupported(path, *p, []corev1.PreemptionPolicy{corev1.PreemptLowerPriority, corev1.PreemptNever}))
		}
	}
	return errs
}

func knownToSystem(pc *schedulingv1.PriorityClass) error {
	for _, known := range System() {
		switch {
		case known.Name != pc.Name:
		case known.Value != pc.Value:
			return fmt.Errorf("value of %s PriorityClass must be %d", known.Name, known.Value)
		case known.GlobalDefault != pc.GlobalDefault:
			return fmt.Errorf("globalDefault of %s PriorityClass must be %t", known.Name, known.GlobalDefault)
		default:
			return nil
		}
	}
	return fmt.Errorf("%s is not a known system priority class", pc.Name)
}
