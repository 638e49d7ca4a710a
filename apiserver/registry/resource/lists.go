package resource

import (
	"encoding/json"
	"fmt"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
)

// each judges every item of a list that may have at most so many.
func each[T any](items []T, most int, path *field.Path, judge func(*T, *field.Path) field.ErrorList) field.ErrorList {
	if len(items) > most {
		return field.ErrorList{field.TooMany(path, len(items), most)}
	}
	var errs field.ErrorList
	for i := range items {
		errs = append(errs, judge(&items[i], path.Index(i))...)
	}
	return errs
}

// unique is each for a list whose items must differ by a key.
func unique[T any, K comparable](items []T, most int, path *field.Path, key func(*T) K, judge func(*T, *field.Path) field.ErrorList) field.ErrorList {
	errs := each(items, most, path, judge)
	if len(items) > most {
		return errs
	}
	seen := sets.New[K]()
	for i := range items {
		k := key(&items[i])
		if seen.Has(k) {
			errs = append(errs, field.Duplicate(path.Index(i), k))
		}
		seen.Insert(k)
	}
	return errs
}

func itself(s *string) string { return *s }

func label(name string, path *field.Path) field.ErrorList {
	return registry.Invalid(path, name, validation.IsDNS1123Label(name))
}

func driver(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if len(name) > resourcev1.DriverNameMaxLength {
		errs = append(errs, field.TooLong(path, "", resourcev1.DriverNameMaxLength))
	}
	return append(errs, registry.Invalid(path, name, validation.IsDNS1123Subdomain(strings.ToLower(name)))...)
}

func pool(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if len(name) > resourcev1.PoolNameMaxLength {
		errs = append(errs, field.TooLong(path, "", resourcev1.PoolNameMaxLength))
	}
	for part := range strings.SplitSeq(name, "/") {
		errs = append(errs, registry.Invalid(path, part, validation.IsDNS1123Subdomain(part))...)
	}
	return errs
}

func identifier(id string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(id) > resourcev1.DeviceMaxIDLength {
		errs = append(errs, field.TooLong(path, "", resourcev1.DeviceMaxIDLength))
	}
	return append(errs, registry.Invalid(path, id, validation.IsCIdentifier(id))...)
}

// qualified judges "domain/identifier", of which the domain may be left out.
func qualified(name string, path *field.Path) field.ErrorList {
	domain, id, ok := strings.Cut(name, "/")
	if !ok {
		return identifier(name, path)
	}
	var errs field.ErrorList
	if domain == "" {
		errs = append(errs, field.Invalid(path, "", "the domain must not be empty"))
	} else {
		errs = append(errs, driver(domain, path)...)
	}
	if id == "" {
		return append(errs, field.Invalid(path, "", "the name must not be empty"))
	}
	return append(errs, identifier(id, path)...)
}

func fullyQualified(name string, path *field.Path) field.ErrorList {
	errs := qualified(name, path)
	if !strings.Contains(name, "/") {
		errs = append(errs, field.Invalid(path, name, "a fully qualified name must be a domain and a name separated by a slash"))
	}
	return errs
}

// object wants raw data to be a JSON object of limited size.
func object(raw runtime.RawExtension, limit int, path *field.Path) field.ErrorList {
	var v any
	if len(raw.Raw) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	if limit > 0 && len(raw.Raw) > limit {
		return field.ErrorList{field.TooLong(path, "", limit)}
	}
	if err := json.Unmarshal(raw.Raw, &v); err != nil {
		return field.ErrorList{field.Invalid(path, "<value omitted>", fmt.Sprintf("error parsing data as JSON: %v", err))}
	}
	if v == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	if _, ok := v.(map[string]any); !ok {
		return field.ErrorList{field.Invalid(path, "<value omitted>", "must be a valid JSON object")}
	}
	return nil
}
