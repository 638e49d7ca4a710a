package rest

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/warning"

	"github.com/mini-k8s/mini/apiserver/codec"
	"github.com/mini-k8s/mini/apiserver/request"
	"github.com/mini-k8s/mini/store"
)

// write is one writing request on its way to the store.
type write struct {
	e    *Endpoint
	ctx  context.Context
	info request.Info
	view *view
	opts writeOptions

	finish  func(ok bool) // gives back what the last attempt allocated
	created bool
	gone    bool         // the write removed the object
	result  store.Object // what the last attempt wants to be there (or leave for the last time)
}

func (e *Endpoint) newWrite(w http.ResponseWriter, r *http.Request, info request.Info, v *view, opts writeOptions) *write {
	return &write{e: e, ctx: withWarnings(r.Context(), w), info: info, view: v, opts: opts}
}

// withWarnings lets hooks and admission plugins warn the client: each text becomes a Warning header, once.
func withWarnings(ctx context.Context, w http.ResponseWriter) context.Context {
	return warning.WithWarningRecorder(ctx, &warner{header: w.Header()})
}

type warner struct {
	mu     sync.Mutex
	header http.Header
	seen   map[string]bool
	size   int
}

// maxWarnings bounds the headers, which clients limit.
const maxWarnings = 4 << 10

// Warn adds a Warning header to an answer that has not begun.
func Warn(w http.ResponseWriter, text string) {
	(&warner{header: w.Header()}).AddWarning("", text)
}

func (a *warner) AddWarning(agent, text string) {
	if agent == "" {
		agent = "-"
	}
	value, err := utilnet.NewWarningHeader(299, agent, strings.ToValidUTF8(text, "\uFFFD"))
	if err != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.seen[value] || a.size+len(value) > maxWarnings {
		return
	}
	if a.seen == nil {
		a.seen = map[string]bool{}
	}
	a.seen[value] = true
	a.size += len(value)
	a.header.Add("Warning", value)
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	limited := http.MaxBytesReader(w, r.Body, MaxBodyBytes)
	if r.ContentLength > MaxBodyBytes { // read nevertheless: who is still sending when the connection ends misses the answer
		_, err := io.Copy(io.Discard, limited)
		return nil, bodyError(err)
	}
	if n := r.ContentLength; n > 0 {
		body := make([]byte, n)
		if _, err := io.ReadFull(limited, body); err != nil {
			return nil, bodyError(err)
		}
		return body, nil
	}
	body, err := io.ReadAll(limited)
	if err != nil {
		return nil, bodyError(err)
	}
	return body, nil
}

func bodyError(err error) error {
	if _, ok := err.(*http.MaxBytesError); ok {
		return err
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the request body cannot be read: %v", err))
}

// decode reads an object of the endpoint's own kind and deals with strict errors as fieldValidation says.
func (q *write) decode(contentType string, body []byte, obj store.Object, validation string) error {
	return decode(q.ctx, contentType, body, obj, validation, q.e.coerce)
}

// coerce drops what the kind has no fields for, and says what that was.
func (e *Endpoint) coerce(obj runtime.Object) (strict []error, err error) {
	if e.res.Coerce == nil {
		return nil, nil
	}
	unknown, err := e.res.Coerce(obj.(store.Object))
	for _, path := range unknown {
		strict = append(strict, fmt.Errorf("unknown field %q", path))
	}
	return strict, err
}

// decode reads an object of the kind it has from the body and deals with strict errors as fieldValidation says; coerce
// may find more of them.
func decode(ctx context.Context, contentType string, body []byte, obj runtime.Object, validation string, coerce func(runtime.Object) ([]error, error)) error {
	want := obj.GetObjectKind().GroupVersionKind()
	strict, err := codec.Body(contentType, body, obj, validation != metav1.FieldValidationIgnore)
	if err == nil && coerce != nil {
		var more []error
		more, err = coerce(obj)
		strict = append(strict, more...)
	}
	switch {
	case runtime.IsMissingKind(err):
		return apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s)", want.Kind, err, summary(body)))
	case err != nil:
		return decodeError(err, want.Kind, want.Version)
	case len(strict) == 0 || validation == metav1.FieldValidationIgnore:
		return nil
	case validation == metav1.FieldValidationStrict:
		return decodeError(runtime.NewStrictDecodingError(strict), want.Kind, want.Version)
	}
	warnStrict(ctx, strict)
	return nil
}

// summary is the beginning of a body, readable where it is JSON.
func summary(body []byte) string {
	if len(body) == 0 {
		return "<empty>"
	}
	more := ""
	if len(body) > 30 {
		body, more = body[:30], " ..."
	}
	if body[0] == '{' {
		return string(body) + more
	}
	return hex.EncodeToString(body) + more
}

func warnStrict(ctx context.Context, strict []error) {
	for _, err := range strict {
		warning.AddWarning(ctx, "", err.Error())
	}
}

func decodeError(err error, kind, version string) error {
	var mismatch *codec.KindError
	switch e := err.(type) {
	case *codec.KindError:
		mismatch = e
		return apierrors.NewBadRequest(mismatch.Error())
	}
	if err == codec.ErrMediaType {
		return err
	}
	return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", kind, version, kind, err))
}

// attributes are what admission sees.
func (q *write) attributes(obj, old store.Object, op admission.Operation, options runtime.Object) admission.Attributes {
	var newObject, oldObject runtime.Object // an interface holding a nil store.Object would not be nil
	if obj != nil {
		newObject = obj
	}
	if old != nil {
		oldObject = old
	}
	e := q.e
	name := q.info.Name
	if name == "" && obj != nil {
		name = obj.GetName()
	}
	return q.audited(admission.NewAttributesRecord(newObject, oldObject, e.res.GVK, q.info.Namespace, name,
		e.res.GVK.GroupVersion().WithResource(e.res.Name), q.view.name, op, options, q.opts.isDryRun(), request.UserFrom(q.ctx)))
}

func (q *write) mutate(a admission.Attributes) (changed bool, err error) {
	m, ok := q.e.Admission.(admission.MutationInterface)
	if !ok || !m.Handles(a.GetOperation()) {
		return false, nil
	}
	return true, m.Admit(q.ctx, a, q.e.plugins)
}

func (q *write) validateAdmission(a admission.Attributes) error {
	v, ok := q.e.Admission.(admission.ValidationInterface)
	if !ok || !v.Handles(a.GetOperation()) {
		return nil
	}
	return v.Validate(q.ctx, a, q.e.plugins)
}

// fill completes an object with the row's defaults.
func (e *Endpoint) fill(obj store.Object) {
	if e.res.Default != nil {
		e.res.Default(obj)
	}
}

// stored turns an object of this kind into the one its collection holds.
func (e *Endpoint) stored(obj store.Object) (store.Object, error) {
	if e.res.ToStored == nil {
		return obj, nil
	}
	return e.res.ToStored(obj)
}

// item wraps an object that is not in the store for answering.
func (e *Endpoint) item(obj store.Object) (*store.Item, error) {
	obj, err := e.stored(obj)
	return &store.Item{Object: obj}, err
}

// allocate runs the row's Allocate for an attempt; release first what an attempt before it took.
func (q *write) allocate(obj, old store.Object) error {
	q.settle(false)
	if q.view.strategy.Allocate == nil {
		return nil
	}
	finish, err := q.view.strategy.Allocate(q.ctx, obj, old, q.opts.isDryRun())
	q.finish = finish
	return err
}

// settle tells the row how its last attempt ended; it may be called again.
func (q *write) settle(ok bool) {
	if q.finish != nil {
		finish := q.finish
		q.finish = nil
		finish(ok)
	}
}

func (q *write) invalid(name string, errs field.ErrorList) error {
	return apierrors.NewInvalid(q.e.invalidKind(), name, errs)
}

func (q *write) warn(obj, old store.Object) {
	if q.view.strategy.Warnings == nil {
		return
	}
	for _, text := range q.view.strategy.Warnings(q.ctx, obj, old) {
		warning.AddWarning(q.ctx, "", text)
	}
}

// validateMeta checks what holds for the metadata of every kind; rows check their own names.
func (q *write) validateMeta(obj, old store.Object) field.ErrorList {
	root := field.NewPath("metadata")
	if old == nil {
		return validation.ValidateObjectMetaAccessor(obj, q.e.res.Namespaced, path.ValidatePathSegmentName, root)
	}
	return validation.ValidateObjectMetaAccessorUpdate(obj, old, root)
}
