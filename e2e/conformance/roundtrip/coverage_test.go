package roundtrip

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// coverage is the fields of kinds, as "group.Kind.a.b[].c{}", and whether some object had them.
type coverage map[string]bool

// add takes note of the fields that an object has, as the kind's Go type knows them.
func (c coverage) add(t *testing.T, s *storage, kind string, object []byte) {
	t.Helper()
	if s.scheme == nil {
		return
	}
	typed, err := s.scheme.New(s.served)
	if err != nil {
		t.Fatal(err)
	}
	var content map[string]any
	if err := json.Unmarshal(object, &content); err != nil {
		t.Fatal(err)
	}
	c.walk(s.served.Group+"."+kind, reflect.TypeOf(typed).Elem(), content, nil)
}

var marshaler = reflect.TypeFor[json.Marshaler]()

// walk goes through a type and, as far as there is one, a value of it. Types that are their own field end it.
func (c coverage) walk(path string, typ reflect.Type, value any, above []reflect.Type) {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	c[path] = c[path] || value != nil
	if typ.Implements(marshaler) || reflect.PointerTo(typ).Implements(marshaler) || slices.Contains(above, typ) {
		return
	}
	above = append(slices.Clone(above), typ)
	switch typ.Kind() {
	case reflect.Struct:
		content, _ := value.(map[string]any)
		for f := range typ.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			switch {
			case name == "-":
			case name != "":
				c.walk(path+"."+name, f.Type, content[name], above)
			case value == nil:
				c.walk(path, f.Type, nil, above)
			default:
				c.walk(path, f.Type, content, above)
			}
		}
	case reflect.Slice:
		if typ.Elem().Kind() == reflect.Uint8 {
			return
		}
		list, _ := value.([]any)
		for _, v := range append(list, nil) {
			c.walk(path+"[]", typ.Elem(), v, above)
		}
	case reflect.Map:
		entries, _ := value.(map[string]any)
		for _, v := range entries {
			c.walk(path+"{}", typ.Elem(), v, above)
		}
		c.walk(path+"{}", typ.Elem(), nil, above)
	}
}

// never are fields that no object in etcd has.
var never = []string{
	"metadata.resourceVersion", "metadata.selfLink",
	"metadata.namespace", // of a cluster-scoped kind
	"Secret.stringData",  // a client's way to write data
}

// check wants every field to have been in some object.
func (c coverage) check(t *testing.T) {
	t.Helper()
	var missing []difference
	for path, seen := range c {
		if !seen && !c.inMissing(path) {
			missing = append(missing, difference{strings.TrimRight(path, "[]{}"), path})
		}
	}
	rest := ledger{append(slices.Clone(never), older...), map[string]bool{}}
	missing, _ = rest.remove(missing)
	for _, d := range missing {
		t.Errorf("no example has %s", d.text)
	}
}

// inMissing says that a field is part of another one that no object had.
func (c coverage) inMissing(path string) bool {
	for i := range path {
		if seen, ok := c[path[:i]]; ok && !seen && strings.ContainsRune(".[{", rune(path[i])) {
			return true
		}
	}
	return false
}
