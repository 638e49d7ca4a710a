package table

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/mini-k8s/mini/apiserver/codec"
	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

// Printer makes the tables of one request.
type Printer struct {
	columns []metav1.TableColumnDefinition
	cells   func(store.Object) []any
	kind    *codec.Kind
	as      codec.Encoding // JSON or CBOR
	version string         // "v1" or "v1beta1"
	include metav1.IncludeObjectPolicy
}

// New returns a printer of tables that are sent in JSON or CBOR; version is the version of meta.k8s.io the client asked for.
func New(t *registry.Table, kind *codec.Kind, as codec.Encoding, version string, include metav1.IncludeObjectPolicy, now time.Time) *Printer {
	p := &Printer{columns: t.Columns, cells: t.Cells, kind: kind, as: as, version: version, include: include}
	if p.cells == nil {
		p.columns = []metav1.TableColumnDefinition{
			{Name: "Name", Type: "string", Format: "name", Description: "Name must be unique within a namespace."},
			{Name: "Age", Type: "string", Description: "CreationTimestamp is the server time when this object was created."},
		}
		p.cells = func(obj store.Object) []any {
			age := "<unknown>"
			if created := obj.GetCreationTimestamp(); !created.IsZero() {
				age = duration.HumanDuration(now.Sub(created.Time))
			}
			return []any{obj.GetName(), age}
		}
	}
	return p
}

// List returns the table of a list or of one object. Its bytes are shared with the items.
func (p *Printer) List(meta metav1.ListMeta, items []*store.Item) (*metav1.Table, error) {
	t := &metav1.Table{
		TypeMeta:          metav1.TypeMeta{Kind: "Table", APIVersion: "meta.k8s.io/" + p.version},
		ListMeta:          meta,
		ColumnDefinitions: p.columns,
		Rows:              make([]metav1.TableRow, 0, len(items)),
	}
	for _, item := range items {
		row, err := p.row(item)
		if err != nil {
			return nil, err
		}
		t.Rows = append(t.Rows, row)
	}
	return t, nil
}

func (p *Printer) row(item *store.Item) (metav1.TableRow, error) {
	obj, err := p.kind.Object(item)
	if err != nil {
		return metav1.TableRow{}, err
	}
	row := metav1.TableRow{Cells: p.cells(obj)}
	if len(row.Cells) != len(p.columns) {
		return row, fmt.Errorf("table of %s: %d cells for %d columns", p.kind.GVK.Kind, len(row.Cells), len(p.columns))
	}
	switch p.include {
	case metav1.IncludeNone:
		return row, nil
	case metav1.IncludeObject:
		if p.as == codec.CBOR {
			row.Object.Raw, err = p.kind.TaggedCBOR(item)
		} else {
			row.Object.Raw, err = p.kind.JSON(item)
		}
	default:
		row.Object.Raw, err = p.partial(obj)
	}
	return row, err
}

func (p *Printer) partial(obj store.Object) ([]byte, error) {
	partial := codec.Partial(obj)
	partial.APIVersion = "meta.k8s.io/" + p.version
	if p.as == codec.CBOR {
		return codec.EncodeCBOR(partial)
	}
	return json.Marshal(partial)
}

// Event appends a watch frame whose object is a table of one row.
func (p *Printer) Event(b []byte, eventType string, item *store.Item) ([]byte, error) {
	t, err := p.List(metav1.ListMeta{ResourceVersion: item.Object.GetResourceVersion()}, []*store.Item{item})
	if err != nil {
		return b, err
	}
	return codec.ObjectEvent(b, p.as, eventType, t)
}

// Bookmark appends a bookmark frame: a table of one row without cells, whose object has only the revision.
func (p *Printer) Bookmark(b []byte, revision int64, initialEventsEnd bool) ([]byte, error) {
	obj := p.kind.New()
	obj.SetResourceVersion(strconv.FormatInt(revision, 10))
	if initialEventsEnd {
		obj.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	raw, err := p.partial(obj)
	if err != nil {
		return b, err
	}
	t := &metav1.Table{
		TypeMeta: metav1.TypeMeta{Kind: "Table", APIVersion: "meta.k8s.io/" + p.version},
		ListMeta: metav1.ListMeta{ResourceVersion: obj.GetResourceVersion()},
		Rows:     []metav1.TableRow{{Cells: []any{}, Object: runtime.RawExtension{Raw: raw}}},
	}
	return codec.ObjectEvent(b, p.as, "BOOKMARK", t)
}
