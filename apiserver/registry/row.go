package registry

import (
	"context"

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
