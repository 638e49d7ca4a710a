package rest

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/mini-k8s/mini/apiserver/codec"
	"github.com/mini-k8s/mini/store"
)

// fieldTracker keeps metadata.managedFields of one view of a kind (KEP-555). The schema is loaded at its first use.
type fieldTracker struct {
	e     *Endpoint
	sub   string
	reset bool // the kind has a status, which its main resource does not write and its status does alone

	load    sync.Once
	manager *managedfields.FieldManager
	err     error
}

func (e *Endpoint) newFieldTracker(sub string, reset bool) *fieldTracker {
	if e.TypeConverter == nil {
		return nil
	}
	return &fieldTracker{e: e, sub: sub, reset: reset}
}

func (t *fieldTracker) get() (*managedfields.FieldManager, error) {
	t.load.Do(func() {
		gvk := t.e.res.GVK
		objects := kindObjects{kind: t.e.kind, fill: t.e.res.Default, versions: t.e.res.Versions}
		construct := managedfields.NewDefaultFieldManager
		if !t.e.kind.Typed() {
			construct = managedfields.NewDefaultCRDFieldManager
		}
		t.manager, t.err = construct(t.e.TypeConverter(), objects, objects, objects, gvk, gvk.GroupVersion(), t.sub, t.resetFields())
	})
	return t.manager, t.err
}

// resetFields are those that this view does not write, whatever the client sends.
func (t *fieldTracker) resetFields() map[fieldpath.APIVersion]fieldpath.Filter {
	if !t.reset {
		return nil
	}
	set := fieldpath.NewSet(fieldpath.MakePathOrDie("status"))
	if t.sub == "status" {
		set = fieldpath.NewSet(fieldpath.MakePathOrDie("spec"))
		if !t.e.kind.Typed() {
			set.Insert(fieldpath.MakePathOrDie("metadata"))
		}
	}
	version := fieldpath.APIVersion(t.e.res.GVK.GroupVersion().String())
	return fieldpath.NewExcludeFilterSetMap(map[fieldpath.APIVersion]*fieldpath.Set{version: set})
}

// update records in obj that manager has made it of live; live is the empty object on create. Where the fields cannot be
// worked out those of live stay, so that a write never fails for them.
func (t *fieldTracker) update(live, obj store.Object, manager string) {
	if t == nil {
		return
	}
	fm, err := t.get()
	if err != nil {
		t.e.Logger.Error("managed fields are not tracked", "resource", t.e.group.String(), "error", err)
		obj.SetManagedFields(live.GetManagedFields())
		return
	}
	fm.UpdateNoErrors(live, obj, manager)
}

// apply merges the configuration into live (server-side apply) and returns the new object.
func (t *fieldTracker) apply(live store.Object, config *unstructured.Unstructured, manager string, force bool) (store.Object, error) {
	fm, err := t.get()
	if err != nil {
		return nil, err
	}
	merged, err := fm.Apply(live, config, manager, force)
	if err != nil {
		var api apierrors.APIStatus
		if !errors.As(err, &api) { // the configuration does not fit the schema; upstream says so without a reason
			err = withCode(http.StatusInternalServerError, metav1.StatusReasonUnknown, err.Error())
		}
		return nil, err
	}
	obj, ok := merged.(store.Object)
	if !ok {
		return nil, fmt.Errorf("apply made a %T", merged)
	}
	obj.GetObjectKind().SetGroupVersionKind(t.e.res.GVK)
	return obj, nil
}

// kindObjects lets the field manager make, default and convert objects of one kind. A kind with a Go type has only one
// version here, so converting is from unstructured to the Go type at most; versions of other kinds differ in their name.
type kindObjects struct {
	kind     *codec.Kind
	fill     func(store.Object)
	versions []string
}

var (
	_ runtime.ObjectConvertor = kindObjects{}
	_ runtime.ObjectDefaulter = kindObjects{}
	_ runtime.ObjectCreater   = kindObjects{}
)

func (k kindObjects) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	if gvk != k.kind.GVK {
		return nil, runtime.NewNotRegisteredErrForKind("mini", gvk)
	}
	return k.kind.New(), nil
}

func (k kindObjects) Default(obj runtime.Object) {
	if o, ok := obj.(store.Object); ok && k.fill != nil {
		k.fill(o)
	}
}

func (k kindObjects) Convert(in, _, _ any) error {
	return fmt.Errorf("%T cannot be converted in place", in)
}

func (k kindObjects) ConvertToVersion(in runtime.Object, gv runtime.GroupVersioner) (runtime.Object, error) {
	from := in.GetObjectKind().GroupVersionKind()
	if !k.kind.Typed() {
		return k.rename(in, from, gv)
	}
	if to, ok := gv.KindForGroupVersionKinds([]schema.GroupVersionKind{from}); !ok || to != k.kind.GVK {
		return nil, runtime.NewNotRegisteredGVKErrForTarget("mini", from, gv)
	}
	u, ok := in.(*unstructured.Unstructured)
	if !ok {
		return in, nil
	}
	obj := k.kind.New()
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, obj); err != nil {
		return nil, err
	}
	return obj, nil
}

// rename shows an unstructured object in another version. It shares everything below its first level.
func (k kindObjects) rename(in runtime.Object, from schema.GroupVersionKind, gv runtime.GroupVersioner) (runtime.Object, error) {
	u, isUnstructured := in.(*unstructured.Unstructured)
	to, ok := gv.KindForGroupVersionKinds([]schema.GroupVersionKind{from})
	if !ok || !isUnstructured || to.GroupKind() != k.kind.GVK.GroupKind() || !slices.Contains(k.versions, to.Version) {
		return nil, runtime.NewNotRegisteredGVKErrForTarget("mini", from, gv)
	}
	if to == from {
		return in, nil
	}
	renamed := &unstructured.Unstructured{Object: maps.Clone(u.Object)}
	renamed.SetGroupVersionKind(to)
	return renamed, nil
}

func (k kindObjects) ConvertFieldLabel(gvk schema.GroupVersionKind, label, value string) (string, string, error) {
	return "", "", fmt.Errorf("field label %q of %s is not converted here", label, gvk)
}
