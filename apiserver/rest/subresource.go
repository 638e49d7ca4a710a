package rest

import (
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"

	"github.com/mini-k8s/mini/apiserver/negotiate"
	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/request"
	"github.com/mini-k8s/mini/store"
)

func (e *Endpoint) serveSubresource(w http.ResponseWriter, r *http.Request, info request.Info) error {
	if info.Name == "" {
		return notFoundPath()
	}
	if info.Subresource == "status" && e.status != nil {
		return e.serveView(w, r, info, e.status)
	}
	if info.Subresource == "scale" && e.res.Scale != nil {
		return e.serveScale(w, r, info)
	}
	sub, ok := e.subs[info.Subresource]
	if !ok {
		return notFoundPath()
	}
	if sub.Connect != nil {
		return e.connect(w, r, info, sub)
	}
	if !slices.Contains(sub.Verbs, info.Verb) {
		return e.notSupported(info.Verb)
	}
	switch {
	case sub.view != nil:
		return e.serveView(w, r, info, sub.view)
	case info.Verb == "create" && (sub.Change != nil || sub.Evict != nil || sub.Create != nil):
		return e.postSubresource(w, r, info, sub)
	}
	return e.notSupported(info.Verb)
}

func (e *Endpoint) serveView(w http.ResponseWriter, r *http.Request, info request.Info, v *view) error {
	switch info.Verb {
	case "get":
		return e.get(w, r, info)
	case "update":
		return e.update(w, r, info, v)
	case "patch":
		return e.patch(w, r, info, v)
	}
	return e.notSupported(info.Verb)
}

func (e *Endpoint) connect(w http.ResponseWriter, r *http.Request, info request.Info, sub *subresource) error {
	if err := e.admitConnect(w, r, info, sub); err != nil {
		return err
	}
	handler, err := sub.Connect(r.Context(), info.Namespace, info.Name, registry.ConnectOptions{
		Method: r.Method, Path: info.Rest, Query: r.URL.Query(),
	})
	if err != nil {
		return err
	}
	handler.ServeHTTP(w, r)
	return nil
}

// postSubresource serves POST parent/name/sub.
func (e *Endpoint) postSubresource(w http.ResponseWriter, r *http.Request, info request.Info, sub *subresource) error {
	format, ok := negotiate.Pick(r, func(f negotiate.Format) bool { return f.As == "" })
	if !ok {
		return notAcceptable()
	}
	opts, err := parseWriteOptions(r, "CreateOptions", "")
	if err != nil {
		return err
	}
	data, err := readBody(w, r)
	if err != nil {
		return err
	}
	body, err := e.newBody(sub.Kind)
	if err != nil {
		return err
	}
	v := &view{name: sub.Name, strategy: &e.res.Strategy, fields: e.main.fields}
	q := e.newWrite(w, r, info, v, opts)
	if err := decode(q.ctx, r.Header.Get("Content-Type"), data, body, opts.validation, nil); err != nil {
		return err
	}
	if err := q.placeBody(body); err != nil {
		return err
	}
	if err := q.admitBody(body, sub.Kind); err != nil {
		return err
	}
	switch {
	case sub.Create != nil:
		answer, err := sub.Create(q.ctx, info.Namespace, info.Name, body, opts.isDryRun())
		if err != nil {
			return err
		}
		answer.GetObjectKind().SetGroupVersionKind(sub.Kind)
		writeAny(w, r, http.StatusCreated, format, answer)
		return nil
	case sub.Change != nil:
		err = q.changeParent(sub, body)
	default:
		err = q.evict(sub, body)
	}
	if err != nil {
		return err
	}
	writeAny(w, r, http.StatusCreated, format, &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess, Code: http.StatusCreated,
	})
	return nil
}

func (e *Endpoint) newBody(gvk schema.GroupVersionKind) (runtime.Object, error) {
	body, err := e.Scheme.New(gvk)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	body.GetObjectKind().SetGroupVersionKind(gvk)
	return body, nil
}

// placeBody checks that a body with metadata is about the object of the URL, and fills in what it leaves out.
func (q *write) placeBody(body runtime.Object) error {
	obj, ok := body.(store.Object)
	if !ok {
		return nil
	}
	if name := obj.GetName(); name != "" && name != q.info.Name {
		return apierrors.NewBadRequest("name in URL does not match name in " + obj.GetObjectKind().GroupVersionKind().Kind + " object")
	}
	if ns := obj.GetNamespace(); ns != "" && ns != q.info.Namespace {
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	obj.SetName(q.info.Name)
	obj.SetNamespace(q.info.Namespace)
	return nil
}

func (q *write) admitBody(body runtime.Object, kind schema.GroupVersionKind) error {
	e := q.e
	if e.Admission == nil {
		return nil
	}
	a := q.audited(admission.NewAttributesRecord(body, nil, kind, q.info.Namespace, q.info.Name,
		e.res.GVK.GroupVersion().WithResource(e.res.Name), q.view.name, admission.Create,
		q.createOptions(), q.opts.isDryRun(), request.UserFrom(q.ctx)))
	if _, err := q.mutate(a); err != nil {
		return err
	}
	return q.validateAdmission(a)
}

// changeParent writes the body into the parent.
func (q *write) changeParent(sub *subresource, body runtime.Object) error {
	e := q.e
	_, err := e.Collection.Mutate(q.ctx, e.key(q.info.Namespace, q.info.Name), func(current *store.Item) (store.Change, error) {
		if current == nil {
			return store.Change{}, apierrors.NewNotFound(e.group, q.info.Name)
		}
		shared, err := e.kind.Object(current)
		if err != nil {
			return store.Change{}, err
		}
		obj := shared.DeepCopyObject().(store.Object)
		if err := sub.Change(q.ctx, obj, body); err != nil || q.opts.isDryRun() {
			return store.Change{}, err
		}
		q.view.fields.update(shared, obj, q.opts.manager)
		stored, err := e.stored(obj)
		return store.Change{Put: stored}, err
	})
	return err
}

func (q *write) evict(sub *subresource, body runtime.Object) error {
	e := q.e
	current, err := e.Collection.Get(q.ctx, e.key(q.info.Namespace, q.info.Name), "")
	if err != nil {
		return err
	}
	obj, err := e.kind.Object(current)
	if err != nil {
		return err
	}
	opts, err := sub.Evict(q.ctx, obj, body, q.opts.isDryRun())
	if err != nil {
		return err
	}
	del := *q
	del.view = e.main
	del.opts.dryRun = append(del.opts.dryRun, opts.DryRun...)
	_, err = del.delete(opts)
	return err
}

// parentOf reads the object a subresource belongs to.
func (e *Endpoint) parentOf(r *http.Request, info request.Info) (store.Object, error) {
	item, err := e.Collection.Get(r.Context(), e.key(info.Namespace, info.Name), "")
	if err != nil {
		return nil, err
	}
	return e.kind.Object(item)
}
