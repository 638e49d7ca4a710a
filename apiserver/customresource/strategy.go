package customresource

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

func content(o store.Object) map[string]any { return o.(*unstructured.Unstructured).Object }

// strategy is that of the resource itself.
func (v *servedVersion) strategy() registry.Strategy {
	return registry.Strategy{
		PrepareForCreate: func(_ context.Context, o store.Object) {
			if v.hasStatus() {
				delete(content(o), "status")
			}
			o.SetGeneration(1)
		},
		PrepareForUpdate: func(_ context.Context, o, old store.Object) {
			if v.hasStatus() {
				keepField(content(o), content(old), "status")
			}
			if changed(content(o), content(old)) {
				o.SetGeneration(old.GetGeneration() + 1)
			}
		},
		Validate:       func(ctx context.Context, o store.Object) field.ErrorList { return v.validate(ctx, o, nil, false) },
		ValidateUpdate: func(ctx context.Context, o, old store.Object) field.ErrorList { return v.validate(ctx, o, old, false) },
		Warnings:       finalizerWarnings,
	}
}

// statusStrategy writes nothing but the status.
func (v *servedVersion) statusStrategy() *registry.Strategy {
	return &registry.Strategy{
		PrepareForUpdate: func(_ context.Context, o, old store.Object) {
			u := o.(*unstructured.Unstructured)
			status, managed := u.Object, u.GetManagedFields()
			u.Object = old.DeepCopyObject().(*unstructured.Unstructured).Object
			u.SetManagedFields(managed)
			keepField(u.Object, status, "status")
		},
		ValidateUpdate: func(ctx context.Context, o, old store.Object) field.ErrorList { return v.validate(ctx, o, old, true) },
	}
}

// keepField makes a field what it is in from, which shares it.
func keepField(object, from map[string]any, name string) {
	if value, ok := from[name]; ok {
		object[name] = value
	} else {
		delete(object, name)
	}
}

// changed says whether anything but the metadata differs.
func changed(object, old map[string]any) bool {
	a, b := maps.Clone(object), maps.Clone(old)
	delete(a, "metadata")
	delete(b, "metadata")
	return !apiequality.Semantic.DeepEqual(a, b)
}

// validate checks an object, or its status alone. What an update does not change, and an earlier schema allowed, is not
// held against it (ratcheting, KEP-4008).
func (v *servedVersion) validate(ctx context.Context, o, old store.Object, status bool) field.ErrorList {
	c, err := v.checks()
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	object := content(o)
	if errs := v.validateType(o.(*unstructured.Unstructured)); len(errs) > 0 {
		return errs
	}
	var errs field.ErrorList
	var options []cel.Option
	var oldObject any // no old object is nil to CEL, which a nil map is not
	metadata := field.NewPath("metadata")
	if old == nil {
		errs = apivalidation.ValidateObjectMetaAccessor(o, v.row.Namespaced, apivalidation.NameIsDNSSubdomain, metadata)
		errs = append(errs, validation.ValidateCustomResource(nil, object, c.object)...)
	} else {
		oldObject = content(old)
		correlated := common.NewCorrelatedObject(object, oldObject, &model.Structural{Structural: c.schema})
		options = append(options, cel.WithRatcheting(correlated))
		errs = apivalidation.ValidateObjectMetaAccessorUpdate(o, old, metadata)
		errs = append(errs, c.update(object, content(old), correlated, status)...)
	}
	errs = append(errs, v.validateScale(object, status)...)
	if !status {
		errs = append(errs, objectmeta.Validate(ctx, nil, object, c.schema, false)...)
	}
	if found := listtype.ValidateListSetsAndMaps(nil, c.schema, object); len(found) > 0 &&
		(old == nil || len(listtype.ValidateListSetsAndMaps(nil, c.schema, content(old))) == 0) {
		errs = append(errs, found...)
	}
	if c.rules == nil {
		return errs
	}
	if slices.ContainsFunc(errs, blocks) {
		return append(errs, field.Invalid(nil, nil, "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"))
	}
	found, _ := c.rules.Validate(ctx, nil, c.schema, object, oldObject, celconfig.RuntimeCELCostBudget, options...)
	return append(errs, found...)
}

// update checks values against the schema.
func (c *checks) update(object, old map[string]any, correlated *common.CorrelatedObject, status bool) field.ErrorList {
	if !status {
		return validation.ValidateCustomResourceUpdate(nil, object, old, c.object, validation.WithRatcheting(correlated))
	}
	value, ok := object["status"]
	if !ok || c.status == nil {
		return nil
	}
	var options []validation.ValidationOption
	if c.schema != nil {
		options = append(options, validation.WithRatcheting(correlated.Key("status")))
	}
	return validation.ValidateCustomResourceUpdate(field.NewPath("status"), value, old["status"], c.status, options...)
}

// blocks says that CEL rules cannot be asked about an object with such an error: its values may not have the types that
// rules were compiled for.
func blocks(err *field.Error) bool {
	switch err.Type {
	case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
		return true
	}
	return false
}

func (v *servedVersion) validateType(u *unstructured.Unstructured) (errs field.ErrorList) {
	if kind := u.GetKind(); kind != v.gvk.Kind {
		errs = append(errs, field.Invalid(field.NewPath("kind"), kind, "must be "+v.gvk.Kind))
	}
	if want := v.gvk.GroupVersion().String(); u.GetAPIVersion() != want {
		errs = append(errs, field.Invalid(field.NewPath("apiVersion"), u.GetAPIVersion(), "must be "+want))
	}
	return errs
}

var knownFinalizers = []string{metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents, string(corev1.FinalizerKubernetes)}

// finalizerWarnings are about new finalizers that could be somebody else's as well.
func finalizerWarnings(_ context.Context, o, old store.Object) (out []string) {
	var before []string
	if old != nil {
		before = old.GetFinalizers()
	}
	added := slices.DeleteFunc(slices.Clone(o.GetFinalizers()), func(f string) bool { return slices.Contains(before, f) })
	slices.Sort(added)
	for _, f := range slices.Compact(added) {
		for _, text := range utilvalidation.IsQualifiedName(f) {
			out = append(out, fmt.Sprintf("metadata.finalizers: %q: %s", f, text))
		}
		if strings.Contains(f, "/") || slices.Contains(knownFinalizers, f) {
			continue
		}
		path := ""
		if strings.Contains(f, ".") {
			path = " including a path (/)"
		}
		out = append(out, fmt.Sprintf("metadata.finalizers: %q: prefer a domain-qualified finalizer name%s to avoid accidental conflicts with other finalizer writers", f, path))
	}
	return out
}

// refusing is the admission chain of a resource whose definition may be going: then it admits no new objects.
type refusing struct {
	next        admission.Interface // may be nil
	terminating *atomic.Bool
}

var (
	_ admission.MutationInterface   = refusing{}
	_ admission.ValidationInterface = refusing{}
)

func (a refusing) Handles(op admission.Operation) bool {
	return op == admission.Create || a.next != nil && a.next.Handles(op)
}

func (a refusing) refused(attributes admission.Attributes) error {
	if attributes.GetOperation() == admission.Create && a.terminating.Load() {
		return apierrors.NewForbidden(attributes.GetResource().GroupResource(), attributes.GetName(),
			errors.New("create not allowed while custom resource definition is terminating"))
	}
	return nil
}

// Admit implements admission.MutationInterface.
func (a refusing) Admit(ctx context.Context, attributes admission.Attributes, o admission.ObjectInterfaces) error {
	if err := a.refused(attributes); err != nil {
		return err
	}
	if next, ok := a.next.(admission.MutationInterface); ok && a.next.Handles(attributes.GetOperation()) {
		return next.Admit(ctx, attributes, o)
	}
	return nil
}

// Validate implements admission.ValidationInterface.
func (a refusing) Validate(ctx context.Context, attributes admission.Attributes, o admission.ObjectInterfaces) error {
	if err := a.refused(attributes); err != nil {
		return err
	}
	if next, ok := a.next.(admission.ValidationInterface); ok && a.next.Handles(attributes.GetOperation()) {
		return next.Validate(ctx, attributes, o)
	}
	return nil
}
