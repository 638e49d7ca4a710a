package registry

import (
	"context"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/store"
)

// The functions below fit functions on a concrete type into the hooks of a row. The generic handlers call a row's hooks
// only with objects of the row's own type, so that the assertion inside cannot fail.

// Defaulter fits a function that fills defaults.
func Defaulter[T store.Object](f func(T)) func(store.Object) {
	return func(o store.Object) { f(o.(T)) }
}

// Prepare fits a PrepareForCreate or PrepareForDelete hook.
func Prepare[T store.Object](f func(T)) func(context.Context, store.Object) {
	return func(_ context.Context, o store.Object) { f(o.(T)) }
}

// PrepareUpdate fits a PrepareForUpdate hook.
func PrepareUpdate[T store.Object](f func(obj, old T)) func(context.Context, store.Object, store.Object) {
	return func(_ context.Context, o, old store.Object) { f(o.(T), old.(T)) }
}

// Validate fits a Validate hook.
func Validate[T store.Object](f func(T) field.ErrorList) func(context.Context, store.Object) field.ErrorList {
	return func(_ context.Context, o store.Object) field.ErrorList { return f(o.(T)) }
}

// ValidateUpdate fits a ValidateUpdate hook.
func ValidateUpdate[T store.Object](f func(obj, old T) field.ErrorList) func(context.Context, store.Object, store.Object) field.ErrorList {
	return func(_ context.Context, o, old store.Object) field.ErrorList { return f(o.(T), old.(T)) }
}

// Warn fits a Warnings hook; old is the zero T on create.
func Warn[T store.Object](f func(obj, old T) []string) func(context.Context, store.Object, store.Object) []string {
	return func(_ context.Context, o, old store.Object) []string {
		was, _ := old.(T)
		return f(o.(T), was)
	}
}

// Select fits a Fields function.
func Select[T store.Object](f func(T) fields.Set) func(store.Object) fields.Set {
	return func(o store.Object) fields.Set { return f(o.(T)) }
}

// Cells fits the cells of a Table.
func Cells[T store.Object](f func(T) []any) func(store.Object) []any {
	return func(o store.Object) []any { return f(o.(T)) }
}

// SpecStatus makes the hooks that nearly every kind with a spec and a status has: a create starts at generation 1 with an
// empty status, an update keeps the status and counts a change of the spec as a generation, and the status subresource
// keeps the spec. Rows add validation and what else is particular to them; see Then for more preparation.
func SpecStatus[T store.Object, Spec, Status any](parts func(T) (*Spec, *Status)) (main, status Strategy) {
	main.PrepareForCreate = Prepare(func(o T) {
		_, st := parts(o)
		*st = *new(Status)
		o.SetGeneration(1)
	})
	main.PrepareForUpdate = PrepareUpdate(func(o, old T) {
		spec, st := parts(o)
		oldSpec, oldStatus := parts(old)
		*st = *oldStatus
		o.SetGeneration(old.GetGeneration())
		if !apiequality.Semantic.DeepEqual(*spec, *oldSpec) {
			o.SetGeneration(old.GetGeneration() + 1)
		}
	})
	main.UnconditionalUpdate = true
	status.PrepareForUpdate = PrepareUpdate(func(o, old T) {
		spec, _ := parts(o)
		oldSpec, _ := parts(old)
		*spec = *oldSpec
	})
	return main, status
}

// Then adds more to a PrepareForCreate hook.
func Then[T store.Object](hook func(context.Context, store.Object), more func(T)) func(context.Context, store.Object) {
	return func(ctx context.Context, o store.Object) {
		hook(ctx, o)
		more(o.(T))
	}
}

// ThenUpdate adds more to a PrepareForUpdate hook.
func ThenUpdate[T store.Object](hook func(context.Context, store.Object, store.Object), more func(obj, old T)) func(context.Context, store.Object, store.Object) {
	return func(ctx context.Context, o, old store.Object) {
		hook(ctx, o, old)
		more(o.(T), old.(T))
	}
}

// Warnings joins Warnings hooks.
func Warnings(hooks ...func(context.Context, store.Object, store.Object) []string) func(context.Context, store.Object, store.Object) []string {
	return func(ctx context.Context, o, old store.Object) []string {
		var all []string
		for _, hook := range hooks {
			all = append(all, hook(ctx, o, old)...)
		}
		return all
	}
}
