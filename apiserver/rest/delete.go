package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"

	"github.com/mini-k8s/mini/apiserver/codec"
	"github.com/mini-k8s/mini/apiserver/negotiate"
	"github.com/mini-k8s/mini/apiserver/request"
	"github.com/mini-k8s/mini/store"
)

func (e *Endpoint) delete(w http.ResponseWriter, r *http.Request, info request.Info) error {
	format, err := e.negotiate(r, false)
	if err != nil {
		return err
	}
	opts, err := readDeleteOptions(w, r)
	if err != nil {
		return err
	}
	q := e.newWrite(w, r, info, e.main, writeOptions{dryRun: opts.DryRun})
	item, err := q.delete(opts)
	if err != nil {
		return err
	}
	if q.gone && !e.res.Strategy.ReturnDeleted {
		writeAny(w, r, http.StatusOK, negotiate.Format{Media: format.Media, Pretty: format.Pretty}, e.deleted(item.Object))
		return nil
	}
	return e.writeItem(w, r, http.StatusOK, format, item)
}

// deleted is the answer for an object that is gone.
func (e *Endpoint) deleted(obj store.Object) *metav1.Status {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusSuccess,
		Details:  &metav1.StatusDetails{Name: obj.GetName(), Group: e.group.Group, Kind: e.group.Resource, UID: obj.GetUID()},
	}
}

// readDeleteOptions takes the options from the body, or from the query if there is none.
func readDeleteOptions(w http.ResponseWriter, r *http.Request) (*metav1.DeleteOptions, error) {
	opts := &metav1.DeleteOptions{}
	body, err := readBody(w, r)
	if err != nil {
		return nil, err
	}
	if len(body) > 0 {
		opts, err = decodeDeleteOptions(r.Header.Get("Content-Type"), body)
	} else if r.URL.RawQuery != "" {
		err = deleteOptionsFromQuery(opts, r.URL.Query())
	}
	if err != nil {
		return nil, err
	}
	if errs := validation.ValidateDeleteOptions(opts); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "DeleteOptions"}, "", errs)
	}
	return opts, nil
}

// decodeDeleteOptions takes any group's DeleteOptions: clients send v1, meta.k8s.io/v1 or the version of the object.
func decodeDeleteOptions(contentType string, body []byte) (*metav1.DeleteOptions, error) {
	opts := &metav1.DeleteOptions{}
	err := codec.AnyVersion(contentType, body, opts, "DeleteOptions")
	if err != nil {
		return nil, decodeError(err, "DeleteOptions", "v1")
	}
	return opts, nil
}

func deleteOptionsFromQuery(opts *metav1.DeleteOptions, query url.Values) error {
	opts.DryRun = query["dryRun"]
	if v := query.Get("gracePeriodSeconds"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return badParameter("gracePeriodSeconds", v, err)
		}
		opts.GracePeriodSeconds = &n
	}
	if v := query.Get("propagationPolicy"); v != "" {
		policy := metav1.DeletionPropagation(v)
		opts.PropagationPolicy = &policy
	}
	if query.Has("orphanDependents") {
		orphan := boolParameter(query, "orphanDependents")
		opts.OrphanDependents = &orphan
	}
	if v := query.Get("uid"); v != "" {
		uid := types.UID(v)
		opts.Preconditions = &metav1.Preconditions{UID: &uid}
	}
	if v := query.Get("resourceVersion"); v != "" {
		if opts.Preconditions == nil {
			opts.Preconditions = &metav1.Preconditions{}
		}
		opts.Preconditions.ResourceVersion = &v
	}
	return nil
}

// delete removes the object or marks it as being deleted; q.gone says which.
func (q *write) delete(opts *metav1.DeleteOptions) (*store.Item, error) {
	e := q.e
	if e.Admission != nil {
		if _, err := q.mutate(q.attributes(nil, nil, admission.Delete, opts)); err != nil {
			return nil, err
		}
	}
	defer func() { q.settle(false) }()
	var before *store.Item
	item, err := e.Collection.Mutate(q.ctx, e.key(q.info.Namespace, q.info.Name), func(current *store.Item) (store.Change, error) {
		if current == nil {
			return store.Change{}, apierrors.NewNotFound(e.group, q.info.Name)
		}
		before = current
		change, err := q.deleteChange(current, opts)
		if err != nil || q.opts.isDryRun() {
			return store.Change{}, err
		}
		return change, nil
	})
	if err != nil {
		return nil, err
	}
	q.settle(true)
	if q.opts.isDryRun() {
		return before, nil
	}
	return item, nil
}

func (q *write) deleteChange(current *store.Item, opts *metav1.DeleteOptions) (store.Change, error) {
	e := q.e
	q.gone = false
	old, err := e.kind.Object(current)
	if err != nil {
		return store.Change{}, err
	}
	if err := q.checkPreconditions(old, opts.Preconditions); err != nil {
		return store.Change{}, err
	}
	if e.Admission != nil {
		if err := q.validateAdmission(q.attributes(nil, old, admission.Delete, opts)); err != nil {
			return store.Change{}, err
		}
	}
	marked := q.mark(old, opts)
	if marked == nil {
		if err := q.allocate(nil, old); err != nil {
			return store.Change{}, err
		}
		q.gone = true
		return store.Change{Delete: true}, nil
	}
	if marked == old {
		return store.Change{}, nil
	}
	stored, err := e.stored(marked)
	return store.Change{Put: stored}, err
}

// mark returns nil if the object goes at once, old itself if it is being deleted already and nothing changes, else a copy
// that says it is being deleted.
func (q *write) mark(old store.Object, opts *metav1.DeleteOptions) store.Object {
	s := &q.e.res.Strategy
	var grace int64
	if s.GracePeriod != nil {
		grace = max(0, s.GracePeriod(old, opts))
	}
	finalizers, changed := propagate(old.GetFinalizers(), opts, s.OrphanDependents)
	deleting := old.GetDeletionTimestamp()
	running := int64(0) // what is left of an earlier graceful delete
	if deleting != nil && old.GetDeletionGracePeriodSeconds() != nil {
		running = *old.GetDeletionGracePeriodSeconds()
	}
	if deleting != nil && (opts.GracePeriodSeconds == nil || grace > running) {
		grace = running // an earlier delete may only be shortened, and only when asked
	}
	if grace == 0 && len(finalizers) == 0 && (s.Held == nil || !s.Held(old)) {
		return nil
	}
	if deleting != nil && grace == running && !changed {
		return old
	}
	obj := old.DeepCopyObject().(store.Object)
	obj.SetFinalizers(finalizers)
	switch {
	case deleting == nil:
		obj.SetDeletionTimestamp(&metav1.Time{Time: q.e.Now().UTC().Truncate(time.Second).Add(time.Duration(grace) * time.Second)})
		if obj.GetGeneration() > 0 {
			obj.SetGeneration(obj.GetGeneration() + 1)
		}
		if s.PrepareForDelete != nil {
			s.PrepareForDelete(q.ctx, obj)
		}
	case grace < running:
		obj.SetDeletionTimestamp(&metav1.Time{Time: deleting.Add(time.Duration(grace-running) * time.Second)})
	}
	obj.SetDeletionGracePeriodSeconds(&grace)
	return obj
}

// propagate says which finalizers the object has under the policy of the delete: foreground and orphan wait for the
// garbage collector, background does not. Without a policy the object keeps what it has; if that says nothing either, orphan
// is the kind's own policy.
func propagate(finalizers []string, opts *metav1.DeleteOptions, orphan bool) (result []string, changed bool) {
	var add string
	switch {
	case opts.OrphanDependents != nil && *opts.OrphanDependents,
		opts.PropagationPolicy != nil && *opts.PropagationPolicy == metav1.DeletePropagationOrphan:
		add = metav1.FinalizerOrphanDependents
	case opts.PropagationPolicy != nil && *opts.PropagationPolicy == metav1.DeletePropagationForeground:
		add = metav1.FinalizerDeleteDependents
	case opts.OrphanDependents == nil && opts.PropagationPolicy == nil:
		decided := slices.Contains(finalizers, metav1.FinalizerOrphanDependents) || slices.Contains(finalizers, metav1.FinalizerDeleteDependents)
		if !orphan || decided {
			return finalizers, false
		}
		add = metav1.FinalizerOrphanDependents
	}
	result = slices.DeleteFunc(slices.Clone(finalizers), func(f string) bool {
		return f != add && (f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents)
	})
	if add != "" && !slices.Contains(result, add) {
		result = append(result, add)
	}
	return result, !slices.Equal(result, finalizers)
}

func (q *write) checkPreconditions(old store.Object, p *metav1.Preconditions) error {
	if p == nil {
		return nil
	}
	if p.UID != nil && *p.UID != old.GetUID() {
		return apierrors.NewConflict(q.e.group, q.info.Name, fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). "+
			"The object might have been deleted and then recreated", *p.UID, old.GetUID()))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != old.GetResourceVersion() {
		return apierrors.NewConflict(q.e.group, q.info.Name, fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). "+
			"The object might have been modified", *p.ResourceVersion, old.GetResourceVersion()))
	}
	return nil
}

// deleteCollection deletes what the selectors choose, one after the other, and answers with the list of it.
func (e *Endpoint) deleteCollection(w http.ResponseWriter, r *http.Request, info request.Info) error {
	format, err := e.negotiate(r, true)
	if err != nil {
		return err
	}
	list, err := parseListOptions(r.URL.Query(), false)
	if err != nil {
		return err
	}
	opts, err := readDeleteOptions(w, r)
	if err != nil {
		return err
	}
	if len(opts.DryRun) == 0 {
		opts.DryRun = r.URL.Query()["dryRun"]
	}
	sel, err := e.selection(info, &list)
	if err != nil {
		return err
	}
	page, err := e.Collection.List(r.Context(), store.ListOptions{
		Namespace: e.scope(info), Name: sel.name, Match: sel.match,
		ResourceVersion: list.ResourceVersion, ResourceVersionMatch: list.ResourceVersionMatch,
		Limit: list.Limit, Continue: list.Continue,
	})
	if err != nil {
		return err
	}
	gone := make([]*store.Item, 0, len(page.Items))
	ctx := withWarnings(r.Context(), w)
	for _, item := range page.Items {
		deleted, err := e.deleteOne(ctx, info, item.Object, opts)
		switch {
		case errors.Is(err, store.ErrNotFound) || apierrors.IsNotFound(err):
		case err != nil:
			return err
		default:
			gone = append(gone, deleted)
		}
	}
	meta := metav1.ListMeta{ResourceVersion: strconv.FormatInt(page.Revision, 10), Continue: page.Continue, RemainingItemCount: page.Remaining}
	if format.As == "Table" {
		return e.writeTable(w, r, http.StatusOK, format, meta, gone)
	}
	body, err := e.frames(format).List(nil, meta, gone)
	if err != nil {
		return err
	}
	writeBody(w, r, http.StatusOK, format, body)
	return nil
}

// DeleteAll deletes every object of the kind in the name of the user of ctx. Objects with finalizers are only marked.
func (e *Endpoint) DeleteAll(ctx context.Context) error {
	all, err := e.Collection.List(ctx, store.ListOptions{})
	if err != nil {
		return err
	}
	info := request.InfoFrom(ctx)
	for _, item := range all.Items {
		_, err := e.deleteOne(ctx, info, item.Object, &metav1.DeleteOptions{})
		if err != nil && !errors.Is(err, store.ErrNotFound) && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
	}
	return nil
}

// deleteOne deletes an object found by a list, unless another has taken its name meanwhile.
func (e *Endpoint) deleteOne(ctx context.Context, info request.Info, obj store.Object, opts *metav1.DeleteOptions) (*store.Item, error) {
	info.Name, info.Namespace = obj.GetName(), obj.GetNamespace()
	one := opts.DeepCopy()
	if one.Preconditions == nil {
		one.Preconditions = &metav1.Preconditions{}
	}
	if one.Preconditions.UID == nil {
		uid := obj.GetUID()
		one.Preconditions.UID = &uid
	}
	q := &write{e: e, ctx: ctx, info: info, view: e.main, opts: writeOptions{dryRun: opts.DryRun}}
	return q.delete(one)
}
