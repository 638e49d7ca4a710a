package rbac

import (
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	pathvalidation "k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
)

// Role is the row of roles.
func Role() registry.Resource {
	validate := func(r *rbacv1.Role) field.ErrorList {
		return validateRules(r.Rules, true)
	}
	return registry.Resource{
		GVK: rbacv1.SchemeGroupVersion.WithKind("Role"), Name: "roles", Singular: "role", Namespaced: true,
		Strategy: registry.Strategy{
			Validate: registry.Validate(func(r *rbacv1.Role) field.ErrorList {
				return append(apivalidation.ValidateObjectMeta(&r.ObjectMeta, true, pathvalidation.ValidatePathSegmentName, field.NewPath("metadata")), validate(r)...)
			}),
			ValidateUpdate: registry.ValidateUpdate(func(r, old *rbacv1.Role) field.ErrorList {
				return append(apivalidation.ValidateObjectMetaUpdate(&r.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata")), validate(r)...)
			}),
			CreateOnUpdate: true, UnconditionalUpdate: true,
		},
		Table: registry.Table{Columns: roleColumns(), Cells: registry.Cells(func(r *rbacv1.Role) []any { return []any{r.Name, created(r.CreationTimestamp)} })},
	}
}

// ClusterRole is the row of clusterroles.
func ClusterRole() registry.Resource {
	validate := func(r *rbacv1.ClusterRole) field.ErrorList {
		errs := validateRules(r.Rules, false)
		if a := r.AggregationRule; a != nil {
			path := field.NewPath("aggregationRule", "clusterRoleSelectors")
			if len(a.ClusterRoleSelectors) == 0 {
				errs = append(errs, field.Required(path, "at least one clusterRoleSelector required if aggregationRule is non-nil"))
			}
			for i := range a.ClusterRoleSelectors {
				errs = append(errs, metav1validation.ValidateLabelSelector(&a.ClusterRoleSelectors[i], metav1validation.LabelSelectorValidationOptions{}, path.Index(i))...)
			}
		}
		return errs
	}
	return registry.Resource{
		GVK: rbacv1.SchemeGroupVersion.WithKind("ClusterRole"), Name: "clusterroles", Singular: "clusterrole",
		Strategy: registry.Strategy{
			Validate: registry.Validate(func(r *rbacv1.ClusterRole) field.ErrorList {
				return append(apivalidation.ValidateObjectMeta(&r.ObjectMeta, false, pathvalidation.ValidatePathSegmentName, field.NewPath("metadata")), validate(r)...)
			}),
			ValidateUpdate: registry.ValidateUpdate(func(r, old *rbacv1.ClusterRole) field.ErrorList {
				return append(apivalidation.ValidateObjectMetaUpdate(&r.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata")), validate(r)...)
			}),
			CreateOnUpdate: true, UnconditionalUpdate: true,
		},
		Table: registry.Table{Columns: roleColumns(), Cells: registry.Cells(func(r *rbacv1.ClusterRole) []any { return []any{r.Name, created(r.CreationTimestamp)} })},
	}
}

// RoleBinding is the row of rolebindings.
func RoleBinding() registry.Resource {
	validate := func(b *rbacv1.RoleBinding) field.ErrorList {
		return append(validateRoleRef(&b.RoleRef, "Role", "ClusterRole"), validateSubjects(b.Subjects, true)...)
	}
	return registry.Resource{
		GVK: rbacv1.SchemeGroupVersion.WithKind("RoleBinding"), Name: "rolebindings", Singular: "rolebinding", Namespaced: true,
		Default: registry.Defaulter(func(b *rbacv1.RoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) }),
		Strategy: registry.Strategy{
			Validate: registry.Validate(func(b *rbacv1.RoleBinding) field.ErrorList {
				return append(apivalidation.ValidateObjectMeta(&b.ObjectMeta, true, pathvalidation.ValidatePathSegmentName, field.NewPath("metadata")), validate(b)...)
			}),
			ValidateUpdate: registry.ValidateUpdate(func(b, old *rbacv1.RoleBinding) field.ErrorList {
				errs := apivalidation.ValidateObjectMetaUpdate(&b.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
				return append(append(errs, validate(b)...), sameRole(b.RoleRef, old.RoleRef)...)
			}),
			CreateOnUpdate: true, UnconditionalUpdate: true,
		},
		Table: registry.Table{
			Columns: bindingColumns(),
			Cells: registry.Cells(func(b *rbacv1.RoleBinding) []any {
				return bindingCells(b.Name, b.RoleRef, b.Subjects, b.CreationTimestamp)
			}),
		},
	}
}

// ClusterRoleBinding is the row of clusterrolebindings.
func ClusterRoleBinding() registry.Resource {
	validate := func(b *rbacv1.ClusterRoleBinding) field.ErrorList {
		return append(validateRoleRef(&b.RoleRef, "ClusterRole"), validateSubjects(b.Subjects, false)...)
	}
	return registry.Resource{
		GVK: rbacv1.SchemeGroupVersion.WithKind("ClusterRoleBinding"), Name: "clusterrolebindings", Singular: "clusterrolebinding",
		Default: registry.Defaulter(func(b *rbacv1.ClusterRoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) }),
		Strategy: registry.Strategy{
			Validate: registry.Validate(func(b *rbacv1.ClusterRoleBinding) field.ErrorList {
				return append(apivalidation.ValidateObjectMeta(&b.ObjectMeta, false, pathvalidation.ValidatePathSegmentName, field.NewPath("metadata")), validate(b)...)
			}),
			ValidateUpdate: registry.ValidateUpdate(func(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
				errs := apivalidation.ValidateObjectMetaUpdate(&b.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
				return append(append(errs, validate(b)...), sameRole(b.RoleRef, old.RoleRef)...)
			}),
			CreateOnUpdate: true, UnconditionalUpdate: true,
		},
		Table: registry.Table{
			Columns: bindingColumns(),
			Cells: registry.Cells(func(b *rbacv1.ClusterRoleBinding) []any {
				return bindingCells(b.Name, b.RoleRef, b.Subjects, b.CreationTimestamp)
			}),
		},
	}
}

func roleColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{registry.NameColumn(), registry.Column("Created At", "When the role was created")}
}

func created(t metav1.Time) string { return t.UTC().Format(time.RFC3339) }

func bindingColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		registry.NameColumn(),
		registry.Column("Role", "The role that is granted"),
		registry.AgeColumn(),
		registry.Wide(registry.Column("Users", "Users in the binding")),
		registry.Wide(registry.Column("Groups", "Groups in the binding")),
		registry.Wide(registry.Column("ServiceAccounts", "ServiceAccounts in the binding")),
	}
}

func bindingCells(name string, ref rbacv1.RoleRef, subjects []rbacv1.Subject, t metav1.Time) []any {
	var users, groups, accounts []string
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			users = append(users, s.Name)
		case rbacv1.GroupKind:
			groups = append(groups, s.Name)
		case rbacv1.ServiceAccountKind:
			accounts = append(accounts, s.Namespace+"/"+s.Name)
		}
	}
	return []any{
		name, ref.Kind + "/" + ref.Name, registry.Age(t), strings.Join(users, ", "), strings.Join(groups, ", "), strings.Join(accounts, ", "),
	}
}

func defaultBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	if ref.APIGroup == "" {
		ref.APIGroup = rbacv1.GroupName
	}
	for i := range subjects {
		if s := &subjects[i]; s.APIGroup == "" && (s.Kind == rbacv1.UserKind || s.Kind == rbacv1.GroupKind) {
			s.APIGroup = rbacv1.GroupName
		}
	}
}

func validateRules(rules []rbacv1.PolicyRule, namespaced bool) field.ErrorList {
	var errs field.ErrorList
	for i, r := range rules {
		path := field.NewPath("rules").Index(i)
		if len(r.Verbs) == 0 {
			errs = append(errs, field.Required(path.Child("verbs"), "verbs must contain at least one value"))
		}
		if len(r.NonResourceURLs) > 0 {
			at := path.Child("nonResourceURLs")
			if namespaced {
				errs = append(errs, field.Invalid(at, r.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs"))
			}
			if len(r.APIGroups) > 0 || len(r.Resources) > 0 || len(r.ResourceNames) > 0 {
				errs = append(errs, field.Invalid(at, r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
			}
			continue
		}
		if len(r.APIGroups) == 0 {
			errs = append(errs, field.Required(path.Child("apiGroups"), "resource rules must supply at least one api group"))
		}
		if len(r.Resources) == 0 {
			errs = append(errs, field.Required(path.Child("resources"), "resource rules must supply at least one resource"))
		}
	}
	return errs
}

func validateRoleRef(ref *rbacv1.RoleRef, kinds ...string) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("roleRef")
	if ref.APIGroup != rbacv1.GroupName {
		errs = append(errs, field.NotSupported(path.Child("apiGroup"), ref.APIGroup, []string{rbacv1.GroupName}))
	}
	known := false
	for _, k := range kinds {
		known = known || ref.Kind == k
	}
	if !known {
		errs = append(errs, field.NotSupported(path.Child("kind"), ref.Kind, kinds))
	}
	if ref.Name == "" {
		return append(errs, field.Required(path.Child("name"), ""))
	}
	for _, msg := range pathvalidation.ValidatePathSegmentName(ref.Name, false) {
		errs = append(errs, field.Invalid(path.Child("name"), ref.Name, msg))
	}
	return errs
}

func sameRole(ref, old rbacv1.RoleRef) field.ErrorList {
	if ref != old {
		return field.ErrorList{field.Invalid(field.NewPath("roleRef"), ref, "cannot change roleRef")}
	}
	return nil
}

func validateSubjects(subjects []rbacv1.Subject, namespaced bool) field.ErrorList {
	var errs field.ErrorList
	for i, s := range subjects {
		path := field.NewPath("subjects").Index(i)
		if s.Name == "" {
			errs = append(errs, field.Required(path.Child("name"), ""))
		}
		switch s.Kind {
		case rbacv1.ServiceAccountKind:
			if s.Name != "" {
				for _, msg := range apivalidation.ValidateServiceAccountName(s.Name, false) {
					errs = append(errs, field.Invalid(path.Child("name"), s.Name, msg))
				}
			}
			if s.APIGroup != "" {
				errs = append(errs, field.NotSupported(path.Child("apiGroup"), s.APIGroup, []string{""}))
			}
			if !namespaced && s.Namespace == "" {
				errs = append(errs, field.Required(path.Child("namespace"), ""))
			}
		case rbacv1.UserKind, rbacv1.GroupKind:
			if s.APIGroup != rbacv1.GroupName {
				errs = append(errs, field.NotSupported(path.Child("apiGroup"), s.APIGroup, []string{rbacv1.GroupName}))
			}
		default:
			errs = append(errs, field.NotSupported(path.Child("kind"), s.Kind, []string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
		}
	}
	return errs
}
