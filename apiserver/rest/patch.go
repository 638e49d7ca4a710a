package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"

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
	apply := kind == types.ApplyPatchType
	if apply {
		next, err = q.applyPatch(body)
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
	case types.ApplyPatchType:
		return v.fields != nil
	}
	return false
}

func (e *Endpoint) badPatchType(v *view) error {
	accepted := []types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyPatchType}
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
	apply, err := patcher(q.ctx, q.e.kind, kind, body, q.opts.validation)
	if err != nil {
		return nil, err
	}
	return func(current *store.Item) (store.Object, error) {
		original, err := q.e.kind.JSON(current)
		if err != nil {
			return nil, err
		}
		patched, err := guarded(apply, original)
		if err != nil {
			return nil, err
		}
		obj := q.e.kind.New()
		strict, err := codec.Body(codec.MediaJSON, patched, obj, q.opts.strict())
		if err != nil {
			return nil, unprocessablePatch(string(patched), err)
		}
		if len(strict) > 0 {
			if q.opts.validation == metav1.FieldValidationStrict {
				return nil, unprocessablePatch(string(body), runtime.NewStrictDecodingError(strict))
			}
			warnStrict(q.ctx, strict)
		}
		return obj, q.samePlace(obj)
	}, nil
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

// patcher parses the patch once and returns how it changes an object's JSON.
func patcher(ctx context.Context, of *codec.Kind, kind types.PatchType, body []byte, validation string) (func([]byte) ([]byte, error), error) {
	if kind == types.JSONPatchType {
		patch, err := jsonpatch.DecodePatch(body)
		if err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
		}
		if len(patch) > maxPatchOperations {
			return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf(
				"The allowed maximum operations in a JSON patch is %d, got %d", maxPatchOperations, len(patch)))
		}
		return func(original []byte) ([]byte, error) {
			patched, err := patch.Apply(original)
			if err != nil {
				return nil, apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
			}
			return patched, nil
		}, nil
	}
	var fieldsOf map[string]any
	strict, err := kjson.UnmarshalStrict(body, &fieldsOf)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	if len(strict) > 0 && validation == metav1.FieldValidationStrict {
		return nil, apierrors.NewBadRequest(runtime.NewStrictDecodingError(strict).Error())
	}
	if validation == metav1.FieldValidationWarn {
		warnStrict(ctx, strict)
	}
	if kind == types.MergePatchType {
		return func(original []byte) ([]byte, error) {
			patched, err := jsonpatch.MergePatch(original, body)
			if err != nil {
				return nil, apierrors.NewBadRequest(err.Error())
			}
			return patched, nil
		}, nil
	}
	shape, err := strategicpatch.NewPatchMetaFromStruct(of.New())
	if err != nil {
		return nil, err
	}
	return func(original []byte) ([]byte, error) {
		var doc, patch map[string]any
		if err := json.Unmarshal(original, &doc); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(body, &patch); err != nil { // it is changed by the merge
			return nil, err
		}
		merged, err := strategicpatch.StrategicMergeMapPatchUsingLookupPatchMeta(doc, patch, shape)
		if err != nil {
			return nil, strategicError(err)
		}
		return json.Marshal(merged)
	}, nil
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
func (q *write) applyPatch(body []byte) (func(*store.Item) (store.Object, error), error) {
	data, err := yaml.YAMLToJSON(body)
	if q.opts.strict() && err == nil {
		if _, strictErr := yaml.YAMLToJSONStrict(body); strictErr != nil {
			if q.opts.validation == metav1.FieldValidationStrict {
				return nil, apierrors.NewBadRequest(fmt.Sprintf("error strict decoding YAML: %v", strictErr))
			}
			warnStrict(q.ctx, []error{strictErr})
		}
	}
	content := map[string]any{}
	if err == nil {
		err = kjson.UnmarshalCaseSensitivePreserveInts(data, &content)
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", err))
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
			live.SetNamespace(q.info.Namespace)
			live.SetName(q.info.Name)
		}
		return q.view.fields.apply(live, config.DeepCopy(), q.opts.manager, force)
	}, nil
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
