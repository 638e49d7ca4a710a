package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/mini-k8s/mini/apiserver/codec"
	"github.com/mini-k8s/mini/apiserver/request"
	"github.com/mini-k8s/mini/store"
)

// maxPatchOperations bounds a JSON patch, whose cost can grow with the square of its length.
const maxPatchOperations = 10000

func (e *Endpoint) patch(w http.ResponseWriter, r *http.Request, info request.Info, v *view) error {
	format, err := e.negotiate(r, false)
	if err != nil {
		return err
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	kind := types.PatchType(media)
	if err != nil || !e.patchable(kind, v) {
		return e.badPatchType(v)
	}
	opts, err := parseWriteOptions(r, "PatchOptions", kind)
	if err != nil {
		return err
	}
	opts.patched = true
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	q := e.newWrite(w, r, info, v, opts)
	var next func(*store.Item) (store.Object, error)
	apply := isApply(kind)
	if apply {
		next, err = q.applyPatch(kind, body)
	} else {
		next, err = q.plainPatch(kind, body)
	}
	if err != nil {
		return err
	}
	item, err := q.mutateStored(next, apply && v.name == "")
	if err != nil {
		return err
	}
	code := http.StatusOK
	if q.created {
		code = http.StatusCreated
	}
	return e.writeItem(w, r, code, format, item)
}

func (e *Endpoint) patchable(kind types.PatchType, v *view) bool {
	switch kind {
	case types.JSONPatchType, types.MergePatchType:
		return true
	case types.StrategicMergePatchType:
		return e.kind.Typed()
	case types.ApplyYAMLPatchType, types.ApplyCBORPatchType:
		return v.fields != nil
	}
	return false
}

// isApply tells server-side apply from the patches.
func isApply(kind types.PatchType) bool {
	return kind == types.ApplyYAMLPatchType || kind == types.ApplyCBORPatchType
}

func (e *Endpoint) badPatchType(v *view) error {
	accepted := []types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyYAMLPatchType, types.ApplyCBORPatchType}
	text := ""
	for _, t := range accepted {
		if e.patchable(t, v) {
			if text != "" {
				text += ", "
			}
			text += string(t)
		}
	}
	return withCode(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
		"the body of the request was in an unknown format - accepted media types include: "+text)
}

// plainPatch returns how to apply a JSON, merge or strategic patch.
func (q *write) plainPatch(kind types.PatchType, body []byte) (func(*store.Item) (store.Object, error), error) {
	apply, err := newPatcher(q.e.kind, kind, body, q.opts.strict())
	if err != nil {
		return nil, err
	}
	return func(current *store.Item) (store.Object, error) {
		original, err := q.e.kind.JSON(current)
		if err != nil {
			return nil, err
		}
		obj := q.e.kind.New()
		if err := apply.into(q.ctx, original, obj, q.opts.validation, q.e.coerce); err != nil {
			return nil, err
		}
		return obj, q.samePlace(obj)
	}, nil
}

// samePlace refuses a patch that renames or moves.
func (q *write) samePlace(obj store.Object) error {
	if obj.GetName() != q.info.Name {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), q.info.Name))
	}
	if q.e.res.Namespaced && obj.GetNamespace() != q.info.Namespace {
		return apierrors.NewBadRequest("the namespace of the object does not match the namespace on the request")
	}
	return nil
}

func unprocessablePatch(value string, err error) error {
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), value, err.Error())})
}

// patcher is a patch that has been read.
type patcher struct {
	apply  func(original []byte) (patched []byte, err error)
	strict []error // what is wrong with the patch itself and lenient servers ignore
	patch  any     // a strategic patch as Go writes it, for messages
}

// into patches an object's JSON and decodes the result. Strict errors of the patch and of the result are dealt with as
// fieldValidation says.
func (p *patcher) into(ctx context.Context, original []byte, obj runtime.Object, validation string, coerce func(runtime.Object) ([]error, error)) error {
	patched, err := guarded(p.apply, original)
	if err != nil {
		return err
	}
	value := string(patched)
	if p.patch != nil {
		value = fmt.Sprintf("%+v", p.patch)
	}
	strict, err := codec.Body(codec.MediaJSON, patched, obj, validation != metav1.FieldValidationIgnore)
	if err == nil && coerce != nil {
		var more []error
		more, err = coerce(obj)
		strict = append(strict, more...)
	}
	strict = append(slices.Clip(p.strict), strict...)
	switch {
	case err != nil:
		return unprocessablePatch(value, err)
	case len(strict) == 0 || validation == metav1.FieldValidationIgnore:
		return nil
	case validation == metav1.FieldValidationStrict:
		return unprocessablePatch(value, runtime.NewStrictDecodingError(strict))
	}
	warnStrict(ctx, strict)
	return nil
}

// guarded turns a panic of the patch libraries, which some senseless patches cause, into a refusal of the patch.
func guarded(apply func([]byte) ([]byte, error), original []byte) (patched []byte, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = withCode(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, fmt.Sprintf("the patch cannot be applied: %v", v))
		}
	}()
	return apply(original)
}

// newPatcher reads a JSON, merge or strategic patch once.
func newPatcher(of *codec.Kind, kind types.PatchType, body []byte, strict bool) (*patcher, error) {
	if err := codec.CheckDepth(body); err != nil {
		return nil, badPatch(err)
	}
	switch kind {
	case types.JSONPatchType:
		return jsonPatcher(body, strict)
	case types.MergePatchType:
		return mergePatcher(body, strict)
	}
	return strategicPatcher(of, body, strict)
}

func badPatch(err error) error {
	return apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
}

func jsonPatcher(body []byte, strict bool) (*patcher, error) {
	p := &patcher{}
	if strict {
		var operations []struct {
			Op    string `json:"op"`
			Path  string `json:"path"`
			From  string `json:"from"`
			Value any    `json:"value"`
		}
		found, err := kjson.UnmarshalStrict(body, &operations)
		if err != nil {
			return nil, badPatch(err)
		}
		for _, err := range found {
			p.strict = append(p.strict, fmt.Errorf("json patch %w", err))
		}
	}
	patch, err := jsonpatch.DecodePatch(body)
	if err != nil {
		return nil, badPatch(err)
	}
	if len(patch) > maxPatchOperations {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf(
			"The allowed maximum operations in a JSON patch is %d, got %d", maxPatchOperations, len(patch)))
	}
	p.apply = func(original []byte) ([]byte, error) {
		if err := checkWork(jsonPatchWork(patch, len(body), original)); err != nil {
			return nil, err
		}
		patched, err := patch.Apply(original)
		if err != nil {
			return nil, apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
		}
		return patched, nil
	}
	return p, nil
}

// fieldsOf reads a patch that is an object.
func fieldsOf(body []byte, strict bool) (fields map[string]any, found []error, err error) {
	if strict {
		found, err = kjson.UnmarshalStrict(body, &fields)
	} else {
		err = kjson.UnmarshalCaseSensitivePreserveInts(body, &fields)
	}
	if err != nil {
		err = badPatch(err)
	}
	return fields, found, err
}

func mergePatcher(body []byte, strict bool) (*patcher, error) {
	_, found, err := fieldsOf(body, strict)
	if err != nil {
		return nil, err
	}
	depth, _, _ := codec.Measure(body)
	return &patcher{strict: found, apply: func(original []byte) ([]byte, error) {
		if err := checkWork(depth * (len(original) + len(body))); err != nil {
			return nil, err
		}
		patched, err := jsonpatch.MergePatch(original, body)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return patched, nil
	}}, nil
}

func strategicPatcher(of *codec.Kind, body []byte, strict bool) (*patcher, error) {
	fields, found, err := fieldsOf(body, strict)
	if err != nil {
		return nil, err
	}
	shape, err := strategicpatch.NewPatchMetaFromStruct(of.New())
	if err != nil {
		return nil, err
	}
	return &patcher{strict: found, patch: fields, apply: func(original []byte) ([]byte, error) {
		var doc, patch map[string]any
		if err := json.Unmarshal(original, &doc); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(body, &patch); err != nil { // it is changed by the merge
			return nil, err
		}
		if err := checkWork(strategicWork(doc, patch)); err != nil {
			return nil, err
		}
		merged, err := strategicpatch.StrategicMergeMapPatchUsingLookupPatchMeta(doc, patch, shape)
		if err != nil {
			return nil, strategicError(err)
		}
		return json.Marshal(merged)
	}}, nil
}

// strategicError tells a patch that is wrong from one that does not fit the object.
func strategicError(err error) error {
	if errors.Is(err, mergepatch.ErrBadJSONDoc) || errors.Is(err, mergepatch.ErrBadPatchFormatForPrimitiveList) ||
		errors.Is(err, mergepatch.ErrBadPatchFormatForRetainKeys) || errors.Is(err, mergepatch.ErrBadPatchFormatForSetElementOrderList) ||
		errors.Is(err, mergepatch.ErrUnsupportedStrategicMergePatchFormat) {
		return apierrors.NewBadRequest(err.Error())
	}
	return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
}

// applyPatch returns how to apply a configuration on the server's side (KEP-555).
func (q *write) applyPatch(kind types.PatchType, body []byte) (func(*store.Item) (store.Object, error), error) {
	read := readConfiguration
	if kind == types.ApplyCBORPatchType {
		read = func(body []byte, _ bool) (map[string]any, error, error) { // a key that is there twice is never accepted
			content, err := codec.CBORFields(body)
			return content, nil, err
		}
	}
	content, strict, err := read(body, q.opts.strict())
	if err != nil {
		return nil, badPatch(err)
	}
	config := &unstructured.Unstructured{Object: content}
	if err := q.checkApply(config); err != nil {
		return nil, err
	}
	force := q.opts.force != nil && *q.opts.force
	q.opts.applied = true
	return func(current *store.Item) (store.Object, error) {
		live := q.e.kind.New()
		if current != nil {
			shared, err := q.e.kind.Object(current)
			if err != nil {
				return nil, err
			}
			live = shared.DeepCopyObject().(store.Object)
		} else {
			if q.e.res.Namespaced { // the path of a Namespace names it as its own namespace too
				live.SetNamespace(q.info.Namespace)
			}
			live.SetName(q.info.Name)
		}
		merged, err := q.view.fields.apply(live, config.DeepCopy(), q.opts.manager, force)
		switch {
		case err != nil || strict == nil: // what the schema says comes first, as upstream does
			return merged, err
		case q.opts.validation == metav1.FieldValidationStrict:
			return nil, apierrors.NewBadRequest(fmt.Sprintf("error strict decoding patch: %v", strict))
		}
		warnStrict(q.ctx, []error{strict})
		return merged, nil
	}, nil
}

// readConfiguration reads YAML or JSON. strict is what a lenient server ignores, looked for only if wantStrict.
func readConfiguration(body []byte, wantStrict bool) (content map[string]any, strict, err error) {
	data, err := yaml.YAMLToJSON(body)
	if err != nil {
		return nil, nil, err
	}
	if err := codec.CheckDepth(data); err != nil {
		return nil, nil, err
	}
	if wantStrict {
		strict = yaml.UnmarshalStrict(body, &map[string]any{})
	}
	content = map[string]any{}
	return content, strict, kjson.UnmarshalCaseSensitivePreserveInts(data, &content)
}

// checkApply checks what a configuration must say about itself.
func (q *write) checkApply(config *unstructured.Unstructured) error {
	e := q.e
	if config.GetKind() == "" {
		return apierrors.NewBadRequest("Object 'Kind' is missing in the applied configuration")
	}
	if gvk := config.GroupVersionKind(); gvk.Kind != e.res.GVK.Kind || gvk.Group != e.res.GVK.Group {
		return apierrors.NewBadRequest((&codec.KindError{Got: gvk, Want: e.res.GVK}).Error())
	}
	if name := config.GetName(); name != "" && name != q.info.Name {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", name, q.info.Name))
	}
	if ns := config.GetNamespace(); e.res.Namespaced && ns != "" && ns != q.info.Namespace {
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	config.SetName(q.info.Name)
	if e.res.Namespaced {
		config.SetNamespace(q.info.Namespace)
	}
	return nil
}
