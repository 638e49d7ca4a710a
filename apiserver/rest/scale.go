package rest

import (
	"encoding/json"
	"mime"
	"net/http"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/codec"
	"github.com/mini-k8s/mini/apiserver/negotiate"
	"github.com/mini-k8s/mini/apiserver/request"
	"github.com/mini-k8s/mini/store"
)

var scaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// scaleOf shows an object as its Scale.
func (e *Endpoint) scaleOf(obj store.Object) *autoscalingv1.Scale {
	replicas, current, selector := e.res.Scale.Get(obj)
	return &autoscalingv1.Scale{
		TypeMeta: metav1.TypeMeta{Kind: scaleKind.Kind, APIVersion: scaleKind.GroupVersion().String()},
		ObjectMeta: metav1.ObjectMeta{
			Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp(),
		},
		Spec:   autoscalingv1.ScaleSpec{Replicas: replicas},
		Status: autoscalingv1.ScaleStatus{Replicas: current, Selector: selector},
	}
}

func (e *Endpoint) serveScale(w http.ResponseWriter, r *http.Request, info request.Info) error {
	format, ok := negotiate.Pick(r, func(f negotiate.Format) bool { return f.As == "" })
	if !ok {
		return notAcceptable()
	}
	switch info.Verb {
	case "get":
		obj, err := e.parentOf(r, info)
		if err != nil {
			return err
		}
		if check := e.res.Scale.Check; check != nil {
			if err := check(obj, false); err != nil {
				return err
			}
		}
		writeAny(w, r, http.StatusOK, format, e.scaleOf(obj))
		return nil
	case "update", "patch":
		return e.writeScale(w, r, info, format)
	}
	return e.notSupported(info.Verb)
}

func (e *Endpoint) writeScale(w http.ResponseWriter, r *http.Request, info request.Info, format negotiate.Format) error {
	contentType := r.Header.Get("Content-Type")
	var kind types.PatchType
	optionsKind := "UpdateOptions"
	if info.Verb == "patch" {
		media, _, err := mime.ParseMediaType(contentType)
		kind = types.PatchType(media)
		if err != nil || isApply(kind) || !e.patchable(kind, e.main) {
			return e.badPatchType(&view{})
		}
		optionsKind = "PatchOptions"
	}
	opts, err := parseWriteOptions(r, optionsKind, kind)
	if err != nil {
		return err
	}
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	opts.patched = true // the lock is on the Scale, see below
	q := e.newWrite(w, r, info, e.scale, opts)
	item, err := q.mutateStored(func(current *store.Item) (store.Object, error) {
		shared, err := e.kind.Object(current)
		if err != nil {
			return nil, err
		}
		if check := e.res.Scale.Check; check != nil {
			if err := check(shared, true); err != nil {
				return nil, err
			}
		}
		before := e.scaleOf(shared)
		scale := &autoscalingv1.Scale{TypeMeta: before.TypeMeta}
		if kind == "" {
			err = decode(q.ctx, contentType, body, scale, opts.validation, nil)
		} else {
			err = q.patchScale(before, scale, kind, body)
		}
		if err != nil {
			return nil, err
		}
		if err := checkScale(scale, info.Name); err != nil {
			return nil, err
		}
		obj := shared.DeepCopyObject().(store.Object)
		obj.SetResourceVersion(scale.ResourceVersion)
		if scale.UID != "" {
			obj.SetUID(scale.UID)
		}
		e.res.Scale.Set(obj, scale.Spec.Replicas)
		return obj, nil
	}, false)
	if err != nil {
		return err
	}
	obj, err := e.kind.Object(item)
	if err != nil {
		return err
	}
	writeAny(w, r, http.StatusOK, format, e.scaleOf(obj))
	return nil
}

func (q *write) patchScale(before, scale *autoscalingv1.Scale, kind types.PatchType, body []byte) error {
	original, err := json.Marshal(before)
	if err != nil {
		return err
	}
	kinds, err := codec.NewKind(q.e.Scheme, scaleKind, nil)
	if err != nil {
		return err
	}
	apply, err := newPatcher(kinds, kind, body, q.opts.strict())
	if err != nil {
		return err
	}
	return apply.into(q.ctx, original, scale, q.opts.validation, nil)
}

func checkScale(scale *autoscalingv1.Scale, name string) error {
	if scale.Name != "" && scale.Name != name {
		return apierrors.NewBadRequest("the name of the object (" + scale.Name + ") does not match the name on the URL (" + name + ")")
	}
	if scale.Spec.Replicas < 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: scaleKind.Group, Kind: scaleKind.Kind}, name, field.ErrorList{
			field.Invalid(field.NewPath("spec", "replicas"), scale.Spec.Replicas, "must be greater than or equal to 0"),
		})
	}
	return nil
}
