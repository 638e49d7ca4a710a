package customresource

import (
	"bytes"
	"encoding/json"
	"reflect"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/jsonpath"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

// ageColumn is what a version without columns shows.
var ageColumn = apiextensionsv1.CustomResourceColumnDefinition{
	Name: "Age", Type: "date", JSONPath: ".metadata.creationTimestamp",
	Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
}

type column struct {
	kind string
	path *jsonpath.JSONPath
}

// newTable is how kubectl shows objects with the columns of a definition. A column that cannot be read ends the table
// before it, as upstream does.
func newTable(list []apiextensionsv1.CustomResourceColumnDefinition) registry.Table {
	if len(list) == 0 {
		list = []apiextensionsv1.CustomResourceColumnDefinition{ageColumn}
	}
	table := registry.Table{Columns: []metav1.TableColumnDefinition{{
		Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"],
	}}}
	var columns []column
	for _, c := range list {
		path, err := parsePath(c.Name, c.JSONPath)
		if err != nil {
			break
		}
		description := c.Description
		if description == "" {
			description = "Custom resource definition column (in JSONPath format): " + c.JSONPath
		}
		columns = append(columns, column{c.Type, path})
		table.Columns = append(table.Columns, metav1.TableColumnDefinition{
			Name: c.Name, Type: c.Type, Format: c.Format, Description: description, Priority: c.Priority,
		})
	}
	table.Cells = func(o store.Object) []any {
		cells := make([]any, 1, len(columns)+1)
		cells[0] = o.GetName()
		for _, c := range columns {
			cells = append(cells, c.cell(content(o)))
		}
		return cells
	}
	return table
}

// cell is nil where the object has no value of the column's type.
func (c column) cell(object map[string]any) any {
	value, ok := first(c.path, object)
	if !ok || value == nil {
		return nil
	}
	switch c.kind {
	case "string":
		var b bytes.Buffer
		if err := c.path.PrintResults(&b, []reflect.Value{reflect.ValueOf(value)}); err != nil {
			return nil
		}
		return b.String()
	case "integer":
		switch n := value.(type) {
		case int64:
			return n
		case float64:
			return int64(n)
		case json.Number:
			if i, err := n.Int64(); err == nil {
				return i
			}
		}
	case "number":
		switch n := value.(type) {
		case int64:
			return float64(n)
		case float64:
			return n
		case json.Number:
			if f, err := n.Float64(); err == nil {
				return f
			}
		}
	case "boolean":
		if b, ok := value.(bool); ok {
			return b
		}
	case "date":
		return age(value)
	}
	return nil
}

func age(value any) any {
	s, ok := value.(string)
	if !ok {
		return nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return "<invalid>"
	}
	return registry.Age(metav1.NewTime(t))
}
