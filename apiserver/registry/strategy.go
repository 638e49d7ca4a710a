package registry

import (
	"context"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/store"
)

// Counted adds to s the generation of a kind: 1 on create, one more with each update that changes what of returns. Hooks
// that s already has run first.
func Counted[T store.Object](s Strategy, of func(T) any) Strategy {
	create, update := s.PrepareForCreate, s.PrepareForUpdate
	s.PrepareForCreate = func(ctx context.Context, o store.Object) {
		if create != nil {
			create(ctx, o)
		}
		o.SetGeneration(1)
	}
	s.PrepareForUpdate = func(ctx context.Context, o, old store.Object) {
		if update != nil {
			update(ctx, o, old)
		}
		o.SetGeneration(old.GetGeneration())
		if !apiequality.Semantic.DeepEqual(of(o.(T)), of(old.(T))) {
			o.SetGeneration(old.GetGeneration() + 1)
		}
	}
	return s
}

// OwnStatus adds to s that the status is not written with the object: it is empty on create and stays on update.
func OwnStatus[T store.Object, S any](s Strategy, status func(T) *S) Strategy {
	create, update := s.PrepareForCreate, s.PrepareForUpdate
	s.PrepareForCreate = func(ctx context.Context, o store.Object) {
		var none S
		*status(o.(T)) = none
		if create != nil {
			create(ctx, o)
		}
	}
	s.PrepareForUpdate = func(ctx context.Context, o, old store.Object) {
		*status(o.(T)) = *status(old.(T))
		if update != nil {
			update(ctx, o, old)
		}
	}
	return s
}

// StatusView is the strategy of a status subresource, which keeps what spec points to.
func StatusView[T store.Object, S any](spec func(T) *S, validate func(obj, old T) field.ErrorList) *Strategy {
	return &Strategy{
		PrepareForUpdate: func(_ context.Context, o, old store.Object) { *spec(o.(T)) = *spec(old.(T)) },
		ValidateUpdate:   ValidateUpdate(validate),
	}
}

// KeepMeta makes of a view one that keeps labels, annotations, finalizers and owners as well; most older kinds let their
// status views write those.
func KeepMeta(view *Strategy) *Strategy {
	update := view.PrepareForUpdate
	view.PrepareForUpdate = func(ctx context.Context, o, old store.Object) {
		update(ctx, o, old)
		o.SetLabels(old.GetLabels())
		o.SetAnnotations(old.GetAnnotations())
		o.SetFinalizers(old.GetFinalizers())
		o.SetOwnerReferences(old.GetOwnerReferences())
	}
	return view
}

// ValidateMeta judges the metadata of a new object; name says what its name may be.
func ValidateMeta(o metav1.Object, namespaced bool, name apivalidation.ValidateNameFunc) field.ErrorList {
	return apivalidation.ValidateObjectMetaAccessor(o, namespaced, name, field.NewPath("metadata"))
}

// ValidateMetaUpdate judges a change of metadata.
func ValidateMetaUpdate(o, old metav1.Object) field.ErrorList {
	return apivalidation.ValidateObjectMetaAccessorUpdate(o, old, field.NewPath("metadata"))
}

// Immutable refuses a change of one field.
func Immutable(value, old any, path *field.Path) field.ErrorList {
	return apivalidation.ValidateImmutableField(value, old, path)
}

// Invalid is one error for each message.
func Invalid(path *field.Path, value any, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, m := range messages {
		errs = append(errs, field.Invalid(path, value, m))
	}
	return errs
}
