package rest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"

	"github.com/google/uuid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"

	"github.com/mini-k8s/mini/apiserver/negotiate"
	"github.com/mini-k8s/mini/apiserver/request"
	"github.com/mini-k8s/mini/store"
)

// generateTries is how often a new suffix is tried when a generated name is taken.
const generateTries = 8

func (e *Endpoint) create(w http.ResponseWriter, r *http.Request, info request.Info) error {
	format, err := e.negotiate(r, false)
	if err != nil {
		return err
	}
	opts, err := parseWriteOptions(r, "CreateOptions", "")
	if err != nil {
		return err
	}
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	q := e.newWrite(w, r, info, e.main, opts)
	obj := e.kind.New()
	if err := q.decode(r.Header.Get("Content-Type"), body, obj, opts.validation); err != nil {
		return err
	}
	if e.res.Create != nil {
		return e.answerOnly(w, r, q, format, obj)
	}
	item, err := q.create(obj)
	if err != nil {
		return err
	}
	return e.writeItem(w, r, http.StatusCreated, format, item)
}

// answerOnly serves the kinds that are asked rather than stored.
func (e *Endpoint) answerOnly(w http.ResponseWriter, r *http.Request, q *write, format negotiate.Format, obj store.Object) error {
	if err := q.placeNew(obj); err != nil {
		return err
	}
	e.fill(obj)
	var attributes admission.Attributes
	if e.Admission != nil {
		attributes = q.attributes(obj, nil, admission.Create, q.createOptions())
		if _, err := q.mutate(attributes); err != nil {
			return err
		}
	}
	if s := q.view.strategy; s.Validate != nil {
		if errs := s.Validate(q.ctx, obj); len(errs) > 0 {
			return q.invalid(obj.GetName(), errs)
		}
	}
	if attributes != nil {
		if err := q.validateAdmission(attributes); err != nil {
			return err
		}
	}
	answer, err := e.res.Create(q.ctx, obj, q.opts.isDryRun())
	if err != nil {
		return err
	}
	if reviewed, ok := answer.(store.Object); ok {
		reviewed.GetObjectKind().SetGroupVersionKind(e.res.GVK)
		return e.writeItem(w, r, http.StatusCreated, format, &store.Item{Object: reviewed})
	}
	done := answer.(*metav1.Status)
	done.TypeMeta, done.Code = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, http.StatusCreated
	writeAny(w, r, http.StatusCreated, format, done)
	return nil
}

func (q *write) createOptions() *metav1.CreateOptions {
	return &metav1.CreateOptions{DryRun: q.opts.dryRun, FieldManager: q.opts.manager, FieldValidation: q.opts.validation}
}

// create takes a decoded object through the whole order of a create.
func (q *write) create(obj store.Object) (*store.Item, error) {
	generated, err := q.beforeCreate(obj)
	if err != nil {
		return nil, err
	}
	defer func() { q.settle(false) }()
	for try := 1; ; try++ {
		item, err := q.tryCreate(obj)
		switch {
		case err == nil:
			q.settle(true)
			return item, nil
		case !errors.Is(err, store.ErrExists):
			return nil, err
		case !generated:
			return nil, apierrors.NewAlreadyExists(q.e.group, obj.GetName())
		case try == generateTries:
			return nil, apierrors.NewGenerateNameConflict(q.e.group, obj.GetName(), 1)
		}
		obj.SetName(generateName(obj.GetGenerateName()))
	}
}

func (q *write) tryCreate(obj store.Object) (*store.Item, error) {
	if err := q.allocate(obj, nil); err != nil {
		return nil, err
	}
	stored, err := q.e.stored(obj)
	if err != nil {
		return nil, err
	}
	key := q.e.key(q.info.Namespace, obj.GetName())
	if !q.opts.isDryRun() {
		return q.e.Collection.Create(q.ctx, key, stored)
	}
	switch _, err := q.e.Collection.Get(q.ctx, key, ""); {
	case err == nil:
		return nil, store.ErrExists
	case !errors.Is(err, store.ErrNotFound):
		return nil, err
	}
	return &store.Item{Key: key, Object: stored}, nil
}

// beforeCreate makes a client's object ready to be stored.
func (q *write) beforeCreate(obj store.Object) (generated bool, err error) {
	if err := q.placeNew(obj); err != nil {
		return false, err
	}
	if obj.GetResourceVersion() != "" {
		return false, apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	e := q.e
	obj.SetUID(types.UID(uuid.NewString()))
	obj.SetCreationTimestamp(metav1.NewTime(e.Now().UTC().Truncate(1e9)))
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetSelfLink("")
	e.fill(obj)
	if !q.opts.applied {
		q.view.fields.update(e.kind.New(), obj, q.opts.manager)
	}

	var attributes admission.Attributes
	if e.Admission != nil {
		attributes = q.attributes(obj, nil, admission.Create, q.createOptions())
		changed, err := q.mutate(attributes)
		if err != nil {
			return false, err
		}
		if changed {
			e.fill(obj)
		}
	}
	if generated = obj.GetName() == "" && obj.GetGenerateName() != ""; generated {
		obj.SetName(generateName(obj.GetGenerateName()))
	}
	if s := q.view.strategy; s.PrepareForCreate != nil {
		s.PrepareForCreate(q.ctx, obj)
	}
	if s := q.view.strategy; s.Validate != nil {
		if errs := s.Validate(q.ctx, obj); len(errs) > 0 {
			return false, q.invalid(obj.GetName(), errs)
		}
	}
	if errs := q.validateMeta(obj, nil); len(errs) > 0 {
		return false, q.invalid(obj.GetName(), errs)
	}
	q.warn(obj, nil)
	if attributes != nil {
		if err := q.validateAdmission(attributes); err != nil {
			return false, err
		}
	}
	return generated, nil
}

// placeNew puts the object into the request's namespace and checks that it does not claim another. What a cluster-scoped object
// says about its namespace is forgotten, as upstream's BeforeCreate does.
func (q *write) placeNew(obj store.Object) error {
	if !q.e.res.Namespaced {
		obj.SetNamespace("")
	} else if ns := obj.GetNamespace(); ns != "" && ns != q.info.Namespace {
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	} else {
		obj.SetNamespace(q.info.Namespace)
	}
	if name := q.info.Name; name != "" {
		if obj.GetName() != "" && obj.GetName() != name {
			return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), name))
		}
		obj.SetName(name)
	}
	return nil
}

const nameLetters = "bcdfghjklmnpqrstvwxz2456789"

// generateName appends five random letters that spell no words, cutting the base so that the whole is a label (63 bytes).
func generateName(base string) string {
	if len(base) > 58 {
		base = base[:58]
	}
	suffix := make([]byte, 5)
	for i := range suffix {
		suffix[i] = nameLetters[rand.IntN(len(nameLetters))]
	}
	return base + string(suffix)
}
