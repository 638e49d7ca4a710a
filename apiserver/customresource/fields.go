package customresource

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/util/jsonpath"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

// fieldPath is the path of a scale subresource's field, which validation has held to plain names: ".spec.replicas".
func fieldPath(path string) []string { return strings.Split(strings.TrimPrefix(path, "."), ".") }

func newScale(spec *apiextensionsv1.CustomResourceSubresourceScale) *registry.Scale {
	replicas, current := fieldPath(spec.SpecReplicasPath), fieldPath(spec.StatusReplicasPath)
	var selector []string
	if spec.LabelSelectorPath != nil && *spec.LabelSelectorPath != "" {
		selector = fieldPath(*spec.LabelSelectorPath)
	}
	return &registry.Scale{
		Get: func(o store.Object) (int32, int32, string) {
			wanted, _, _ := unstructured.NestedInt64(content(o), replicas...)
			have, _, _ := unstructured.NestedInt64(content(o), current...)
			labels := ""
			if selector != nil {
				labels, _, _ = unstructured.NestedString(content(o), selector...)
			}
			return int32(wanted), int32(have), labels
		},
		Check: func(o store.Object, write bool) error {
			_, found, err := unstructured.NestedInt64(content(o), replicas...)
			if err == nil {
				_, _, err = unstructured.NestedInt64(content(o), current...)
			}
			if err == nil && selector != nil {
				_, _, err = unstructured.NestedString(content(o), selector...)
			}
			if err == nil && !found && !write {
				err = apierrors.NewInternalError(fmt.Errorf("the spec replicas field %q does not exist", spec.SpecReplicasPath))
			}
			return err
		},
		Set: func(o store.Object, n int32) {
			// Check has walked the path: what is on it is an object or missing.
			_ = unstructured.SetNestedField(content(o), int64(n), replicas...)
		},
	}
}

// validateScale checks the fields that the scale subresource shows.
func (v *servedVersion) validateScale(object map[string]any, status bool) (errs field.ErrorList) {
	if v.spec.Subresources == nil || v.spec.Subresources.Scale == nil {
		return nil
	}
	spec := v.spec.Subresources.Scale
	if !status {
		errs = append(errs, validateReplicas(object, spec.SpecReplicasPath)...)
	}
	errs = append(errs, validateReplicas(object, spec.StatusReplicasPath)...)
	if spec.LabelSelectorPath != nil {
		if value, _, err := unstructured.NestedString(object, fieldPath(*spec.LabelSelectorPath)...); err != nil {
			errs = append(errs, field.Invalid(field.NewPath(*spec.LabelSelectorPath), value, err.Error()))
		}
	}
	return errs
}

func validateReplicas(object map[string]any, path string) field.ErrorList {
	n, _, err := unstructured.NestedInt64(object, fieldPath(path)...)
	text := ""
	switch {
	case err != nil:
		text = err.Error()
	case n < 0:
		text = "should be a non-negative integer"
	case n > math.MaxInt32:
		text = fmt.Sprintf("should be less than or equal to %v", math.MaxInt32)
	default:
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath(path), n, text)}
}

// selectable returns the row's Fields, nil if the version has none.
func selectable(list []apiextensionsv1.SelectableField) func(store.Object) fields.Set {
	type selected struct {
		name string
		path *jsonpath.JSONPath
	}
	var all []selected
	for _, f := range list {
		path, err := parsePath("selectable field", f.JSONPath)
		if err != nil { // validation has refused it
			continue
		}
		all = append(all, selected{strings.TrimPrefix(f.JSONPath, "."), path})
	}
	if len(all) == 0 {
		return nil
	}
	return func(o store.Object) fields.Set {
		set := make(fields.Set, len(all))
		for _, f := range all {
			set[f.name] = ""
			if value, ok := first(f.path, content(o)); ok && value != nil {
				set[f.name] = fmt.Sprint(value)
			}
		}
		return set
	}
}

var errManyPaths = errors.New("it is more than one path")

// parsePath reads a path as it stands in definitions: ".spec.size".
func parsePath(name, path string) (*jsonpath.JSONPath, error) {
	p := jsonpath.New(name).AllowMissingKeys(true)
	if strings.ContainsAny(path, "{}") {
		return nil, fmt.Errorf("%q: %w", path, errManyPaths)
	}
	if err := p.Parse("{" + path + "}"); err != nil {
		return nil, err
	}
	return p, nil
}

// first is what a path finds first.
func first(path *jsonpath.JSONPath, object map[string]any) (any, bool) {
	results, err := path.FindResults(object)
	if err != nil || len(results) == 0 || len(results[0]) == 0 {
		return nil, false
	}
	value := results[0][0]
	if value.Kind() == reflect.Invalid || !value.CanInterface() {
		return nil, false
	}
	return value.Interface(), true
}
