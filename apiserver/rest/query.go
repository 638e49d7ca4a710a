package rest

import (
	"net/url"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
)

// fromQuery fills the options of a connection (PodExecOptions, ServiceProxyOptions, …) with what the query says: a
// parameter has the name of the field's JSON tag. All their fields are texts, lists of texts and booleans; what else a kind
// may have is left empty, and parameters without a field are not options.
func fromQuery(query url.Values, options runtime.Object) {
	v := reflect.ValueOf(options).Elem()
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		values := query[name]
		if name == "" || len(values) == 0 {
			continue
		}
		switch f := v.Field(i).Addr().Interface().(type) {
		case *string:
			*f = values[0]
		case *[]string:
			*f = values
		case *bool:
			// As upstream has it: a parameter without a value says yes.
			*f = values[0] != "0" && !strings.EqualFold(values[0], "false")
		}
	}
}
