package rest

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sort"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/mini-k8s/mini/apiserver/codec"
	"github.com/mini-k8s/mini/apiserver/negotiate"
	"github.com/mini-k8s/mini/apiserver/request"
	"github.com/mini-k8s/mini/apiserver/table"
	"github.com/mini-k8s/mini/store"
)

// offers says yes to the formats that objects (or lists) of this kind can be had in.
func (e *Endpoint) offers(list bool) func(negotiate.Format) bool {
	return func(f negotiate.Format) bool {
		switch f.As {
		case "":
			return f.Media != negotiate.Proto || e.kind.Typed()
		case "Table":
			return f.Group == "meta.k8s.io" && (f.Ver == "v1" || f.Ver == "v1beta1") && e.res.Create == nil && f.Media != negotiate.Proto
		case "PartialObjectMetadata":
			return f.Group == "meta.k8s.io" && f.Ver == "v1" && !list && e.res.Create == nil
		case "PartialObjectMetadataList":
			return f.Group == "meta.k8s.io" && f.Ver == "v1" && list && e.res.Create == nil
		}
		return false
	}
}

func (e *Endpoint) negotiate(r *http.Request, list bool) (negotiate.Format, error) {
	f, ok := negotiate.Pick(r, e.offers(list))
	if !ok {
		return f, notAcceptable()
	}
	return f, nil
}

// encodingOf is the encoding that an answer is made from.
func encodingOf(f negotiate.Format) codec.Encoding {
	switch f.Media {
	case negotiate.Proto:
		return codec.Proto
	case negotiate.CBOR:
		return codec.CBOR
	}
	return codec.JSON
}

func (e *Endpoint) frames(f negotiate.Format) *codec.Frames {
	encoding, view := encodingOf(f), codec.Full
	if f.As != "" {
		view = codec.Metadata
	}
	frames, _ := e.kind.Frames(encoding, view) // negotiation has refused protobuf for kinds without it
	return frames
}

func (e *Endpoint) get(w http.ResponseWriter, r *http.Request, info request.Info) error {
	format, err := e.negotiate(r, false)
	if err != nil {
		return err
	}
	version := ""
	if r.URL.RawQuery != "" {
		version = r.URL.Query().Get("resourceVersion")
		if err := checkResourceVersion(version); err != nil {
			return err
		}
	}
	item, err := e.Collection.Get(r.Context(), e.key(info.Namespace, info.Name), version)
	if err != nil {
		return err
	}
	return e.writeItem(w, r, http.StatusOK, format, item)
}

// writeItem answers with one object in the format that was negotiated.
func (e *Endpoint) writeItem(w http.ResponseWriter, r *http.Request, code int, format negotiate.Format, item *store.Item) error {
	if format.As == "Table" {
		return e.writeTable(w, r, code, format, metav1.ListMeta{ResourceVersion: item.Object.GetResourceVersion()}, []*store.Item{item})
	}
	buf := buffers.Get().(*[]byte)
	defer putBuffer(buf)
	body, err := e.frames(format).Object((*buf)[:0], item)
	if err != nil {
		return err
	}
	*buf = body
	writeBody(w, r, code, format, body)
	return nil
}

func (e *Endpoint) writeTable(w http.ResponseWriter, r *http.Request, code int, format negotiate.Format, meta metav1.ListMeta, items []*store.Item) error {
	include, err := includeObject(r.URL.Query())
	if err != nil {
		return err
	}
	t, err := table.New(&e.res.Table, e.kind, encodingOf(format), format.Ver, include, e.Now()).List(meta, items)
	if err != nil {
		return err
	}
	writeAny(w, r, code, format, t)
	return nil
}

func includeObject(query url.Values) (metav1.IncludeObjectPolicy, error) {
	switch v := metav1.IncludeObjectPolicy(query.Get("includeObject")); v {
	case "":
		return metav1.IncludeMetadata, nil
	case metav1.IncludeNone, metav1.IncludeMetadata, metav1.IncludeObject:
		return v, nil
	default:
		return "", apierrors.NewBadRequest(fmt.Sprintf("includeObject: Invalid value: %q: must be 'Metadata', 'Object', 'None', or empty", v))
	}
}

func (e *Endpoint) list(w http.ResponseWriter, r *http.Request, info request.Info) error {
	format, err := e.negotiate(r, true)
	if err != nil {
		return err
	}
	opts, err := parseListOptions(r.URL.Query(), false)
	if err != nil {
		return err
	}
	sel, err := e.selection(info, &opts)
	if err != nil {
		return err
	}
	list, err := e.Collection.List(r.Context(), store.ListOptions{
		Namespace: e.scope(info), Name: sel.name, Match: sel.match,
		ResourceVersion: opts.ResourceVersion, ResourceVersionMatch: opts.ResourceVersionMatch,
		Limit: opts.Limit, Continue: opts.Continue,
	})
	if err != nil {
		if list != nil && list.Inconsistent != "" && errors.Is(err, store.ErrCompacted) {
			return expiredContinue(list.Inconsistent)
		}
		return err
	}
	meta := metav1.ListMeta{
		ResourceVersion: strconv.FormatInt(list.Revision, 10), Continue: list.Continue, RemainingItemCount: list.Remaining,
	}
	if format.As == "Table" {
		return e.writeTable(w, r, http.StatusOK, format, meta, list.Items)
	}
	buf := buffers.Get().(*[]byte)
	defer putBuffer(buf)
	body, err := e.frames(format).List((*buf)[:0], meta, list.Items)
	if err != nil {
		return err
	}
	*buf = body
	writeBody(w, r, http.StatusOK, format, body)
	return nil
}

// chosen is what a request's selectors come down to.
type chosen struct {
	name  string // of the only object that can match
	match func(*store.Item) bool
}

// selection turns the selectors into what the store can use: a name where one is asked for, and one predicate.
func (e *Endpoint) selection(info request.Info, opts *listOptions) (chosen, error) {
	var c chosen
	var rest []fields.Requirement
	none := false
	for _, req := range opts.fields.Requirements() {
		if !e.selects[req.Field] {
			return c, e.unknownField(req.Field)
		}
		equals := req.Operator == selection.Equals || req.Operator == selection.DoubleEquals
		switch {
		case req.Field == "metadata.name" && equals && (c.name == "" || c.name == req.Value) && req.Value != "":
			c.name = req.Value
		case req.Field == "metadata.namespace" && equals && info.Namespace != "":
			none = none || req.Value != info.Namespace
		default:
			rest = append(rest, req)
		}
	}
	if none {
		c.match = func(*store.Item) bool { return false }
		return c, nil
	}
	if opts.labels.Empty() && len(rest) == 0 {
		return c, nil
	}
	c.match = func(item *store.Item) bool {
		return (opts.labels.Empty() || opts.labels.Matches(labels.Set(item.Object.GetLabels()))) && e.matchFields(rest, item)
	}
	return c, nil
}

func (e *Endpoint) matchFields(reqs []fields.Requirement, item *store.Item) bool {
	var set fields.Set
	for _, req := range reqs {
		var value string
		switch req.Field {
		case "metadata.name":
			value = item.Object.GetName()
		case "metadata.namespace":
			value = item.Object.GetNamespace()
		default:
			if set == nil {
				obj, err := e.kind.Object(item)
				if err != nil {
					return false
				}
				set = e.res.Fields(obj)
			}
			value = set[req.Field]
		}
		if (value == req.Value) == (req.Operator == selection.NotEquals) {
			return false
		}
	}
	return true
}

func (e *Endpoint) unknownField(name string) error {
	if len(e.selects) <= 2 && e.res.Fields == nil {
		known := make([]string, 0, 2)
		for f := range e.selects {
			known = append(known, strconv.Quote(f))
		}
		sort.Strings(known)
		return apierrors.NewBadRequest(fmt.Sprintf("%q is not a known field selector: only %s", name, strings.Join(known, ", ")))
	}
	return apierrors.NewBadRequest("field label not supported: " + name)
}

// oneName selects the object of that name.
func oneName(name string) fields.Selector { return fields.OneTermEqualSelector("metadata.name", name) }
