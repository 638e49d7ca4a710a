package rest

import (
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"

	"github.com/mini-k8s/mini/apiserver/request"
	"github.com/mini-k8s/mini/store"
)

func (e *Endpoint) update(w http.ResponseWriter, r *http.Request, info request.Info, v *view) error {
	format, err := e.negotiate(r, false)
	if err != nil {
		return err
	}
	opts, err := parseWriteOptions(r, "UpdateOptions", "")
	if err != nil {
		return err
	}
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	q := e.newWrite(w, r, info, v, opts)
	first := e.kind.New()
	if err := q.decode(r.Header.Get("Content-Type"), body, first, opts.validation); err != nil {
		return err
	}
	if name := first.GetName(); name != "" && name != info.Name {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", name, info.Name))
	}
	if first.GetName() == "" {
		return apierrors.NewBadRequest("the name of the object (based on URL) was undeterminable: name must be provided")
	}
	if ns := first.GetNamespace(); e.res.Namespaced && ns != "" && ns != info.Namespace {
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	item, err := q.mutateStored(func(*store.Item) (store.Object, error) {
		if obj := first; obj != nil { // asked again, the object has been through the hooks: decode once more
			first = nil
			return obj, nil
		}
		obj := e.kind.New()
		return obj, q.decode(r.Header.Get("Content-Type"), body, obj, metav1.FieldValidationIgnore)
	}, v.name == "" && v.strategy.CreateOnUpdate)
	if err != nil {
		return err
	}
	code := http.StatusOK
	if q.created {
		code = http.StatusCreated
	}
	return e.writeItem(w, r, code, format, item)
}

// mutateStored runs the order of an update in the store's read-modify-write. next makes the new object from the current
// item, which is nil if there is none and mayCreate; it may be called again.
func (q *write) mutateStored(next func(current *store.Item) (store.Object, error), mayCreate bool) (*store.Item, error) {
	e := q.e
	defer func() { q.settle(false) }()
	item, err := e.Collection.Mutate(q.ctx, e.key(q.info.Namespace, q.info.Name), func(current *store.Item) (store.Change, error) {
		q.created, q.gone = current == nil, false
		if current == nil && !mayCreate {
			return store.Change{}, apierrors.NewNotFound(e.group, q.info.Name)
		}
		obj, err := next(current)
		if err != nil {
			return store.Change{}, err
		}
		change, err := q.change(current, obj)
		if err != nil || q.opts.isDryRun() {
			return store.Change{}, err
		}
		return change, nil
	})
	if err != nil {
		return nil, err
	}
	q.settle(true)
	if q.gone || q.opts.isDryRun() {
		if q.result.GetResourceVersion() == "" && item != nil {
			q.result.SetResourceVersion(item.Object.GetResourceVersion())
		}
		return e.item(q.result)
	}
	return item, nil
}

// change takes obj through the hooks against what is there and says what the store shall do.
func (q *write) change(current *store.Item, obj store.Object) (store.Change, error) {
	e := q.e
	q.result = obj
	if current == nil {
		if obj.GetUID() != "" {
			return store.Change{}, apierrors.NewConflict(e.group, q.info.Name, fmt.Errorf(
				"Precondition failed: UID in precondition: %v, UID in object meta: ", obj.GetUID())) //nolint:staticcheck // upstream's text
		}
		obj.SetResourceVersion("")
		if _, err := q.beforeCreate(obj); err != nil {
			return store.Change{}, err
		}
		if err := q.allocate(obj, nil); err != nil {
			return store.Change{}, err
		}
		stored, err := e.stored(obj)
		return store.Change{Put: stored}, err
	}
	old, err := e.kind.Object(current)
	if err != nil {
		return store.Change{}, err
	}
	if err := q.beforeUpdate(obj, old); err != nil {
		return store.Change{}, err
	}
	if q.finished(obj) {
		if err := q.allocate(nil, old); err != nil {
			return store.Change{}, err
		}
		q.gone = true
		return store.Change{Delete: true}, nil
	}
	if err := q.allocate(obj, old); err != nil {
		return store.Change{}, err
	}
	stored, err := e.stored(obj)
	return store.Change{Put: stored}, err
}

// finished says whether an object being deleted has nothing left that holds it.
func (q *write) finished(obj store.Object) bool {
	if obj.GetDeletionTimestamp() == nil || len(obj.GetFinalizers()) > 0 {
		return false
	}
	if grace := obj.GetDeletionGracePeriodSeconds(); grace != nil && *grace != 0 {
		return false
	}
	held := q.e.res.Strategy.Held
	return held == nil || !held(obj)
}

// beforeUpdate checks the optimistic lock, keeps what clients do not own, and runs the hooks.
func (q *write) beforeUpdate(obj, old store.Object) error {
	e, name := q.e, q.info.Name
	if err := q.checkLock(obj, old); err != nil {
		return err
	}
	obj.SetName(old.GetName())
	obj.SetNamespace(old.GetNamespace())
	obj.SetUID(old.GetUID())
	obj.SetCreationTimestamp(old.GetCreationTimestamp())
	obj.SetDeletionTimestamp(old.GetDeletionTimestamp())
	obj.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	obj.SetGeneration(old.GetGeneration())
	if obj.GetGenerateName() == "" {
		obj.SetGenerateName(old.GetGenerateName())
	}
	obj.SetSelfLink("")
	e.fill(obj)
	if !q.opts.applied {
		q.view.fields.update(old, obj, q.opts.manager)
	}
	var attributes admission.Attributes
	if e.Admission != nil {
		attributes = q.attributes(obj, old, admission.Update, &metav1.UpdateOptions{
			DryRun: q.opts.dryRun, FieldManager: q.opts.manager, FieldValidation: q.opts.validation,
		})
		changed, err := q.mutate(attributes)
		if err != nil {
			return err
		}
		if changed {
			e.fill(obj)
		}
	}
	s := q.view.strategy
	if s.PrepareForUpdate != nil {
		s.PrepareForUpdate(q.ctx, obj, old)
	}
	obj.SetResourceVersion(old.GetResourceVersion())
	if s.ValidateUpdate != nil {
		if errs := s.ValidateUpdate(q.ctx, obj, old); len(errs) > 0 {
			return q.invalid(name, errs)
		}
	}
	if errs := q.validateMeta(obj, old); len(errs) > 0 {
		return q.invalid(name, errs)
	}
	q.warn(obj, old)
	if attributes != nil {
		return q.validateAdmission(attributes)
	}
	return nil
}

// checkLock compares the uid and resourceVersion that the client sent with what is there.
func (q *write) checkLock(obj, old store.Object) error {
	if uid := obj.GetUID(); uid != "" && uid != old.GetUID() {
		return apierrors.NewConflict(q.e.group, q.info.Name, fmt.Errorf(
			"Precondition failed: UID in precondition: %v, UID in object meta: %v", uid, old.GetUID())) //nolint:staticcheck // upstream's text
	}
	switch version := obj.GetResourceVersion(); {
	case version == "" || version == "0":
		if !q.opts.patched && !q.e.res.Strategy.UnconditionalUpdate && !q.view.strategy.UnconditionalUpdate {
			return q.invalid(q.info.Name, field.ErrorList{field.Invalid(
				field.NewPath("metadata", "resourceVersion"), uint64(0), "must be specified for an update")})
		}
	case version != old.GetResourceVersion():
		return apierrors.NewConflict(q.e.group, q.info.Name, errors.New(modifiedText))
	}
	return nil
}
