package rest

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	listvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// listOptions are a list's or watch's query parameters, checked.
type listOptions struct {
	metav1.ListOptions
	labels labels.Selector
	fields fields.Selector
}

// parseListOptions reads and checks the query of list, watch and deletecollection.
func parseListOptions(query url.Values, watch bool) (listOptions, error) {
	o := listOptions{labels: labels.Everything(), fields: fields.Everything()}
	o.Watch = watch
	if len(query) == 0 {
		return o, nil
	}
	var err error
	if o.LabelSelector = query.Get("labelSelector"); o.LabelSelector != "" {
		if o.labels, err = labels.Parse(o.LabelSelector); err != nil {
			return o, apierrors.NewBadRequest(fmt.Sprintf("unable to parse requirement: %v", err))
		}
	}
	if o.FieldSelector = query.Get("fieldSelector"); o.FieldSelector != "" {
		if o.fields, err = fields.ParseSelector(o.FieldSelector); err != nil {
			return o, apierrors.NewBadRequest(err.Error())
		}
	}
	o.ResourceVersion = query.Get("resourceVersion")
	o.ResourceVersionMatch = metav1.ResourceVersionMatch(query.Get("resourceVersionMatch"))
	o.Continue = query.Get("continue")
	if v := query.Get("limit"); v != "" {
		if o.Limit, err = strconv.ParseInt(v, 10, 64); err != nil {
			return o, badParameter("limit", v, err)
		}
		if o.Limit < 0 {
			o.Limit = 0
		}
	}
	if v := query.Get("timeoutSeconds"); v != "" {
		seconds, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return o, badParameter("timeoutSeconds", v, err)
		}
		o.TimeoutSeconds = &seconds
	}
	o.AllowWatchBookmarks = boolParameter(query, "allowWatchBookmarks")
	if query.Has("sendInitialEvents") {
		v := boolParameter(query, "sendInitialEvents")
		o.SendInitialEvents = &v
	}
	if err := checkResourceVersion(o.ResourceVersion); err != nil {
		return o, err
	}
	return o, o.validate()
}

func (o *listOptions) validate() error {
	if o.ResourceVersionMatch == "" && o.SendInitialEvents == nil {
		return nil
	}
	errs := listvalidation.ValidateListOptions(&internalversion.ListOptions{
		Watch: o.Watch, ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch,
		Continue: o.Continue, Limit: o.Limit, SendInitialEvents: o.SendInitialEvents,
	}, true)
	if len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", errs)
	}
	return nil
}

func checkResourceVersion(v string) error {
	if v == "" || v == "0" {
		return nil
	}
	if _, err := strconv.ParseUint(v, 10, 64); err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("resourceVersion: Invalid value: %q: %v", v, err))
	}
	return nil
}

func badParameter(name, value string, err error) error {
	return apierrors.NewBadRequest(fmt.Sprintf("%s: Invalid value: %q: %v", name, value, err))
}

// boolParameter reads a bool as upstream does: present is true unless it says "0" or "false".
func boolParameter(query url.Values, name string) bool {
	v, ok := query[name]
	return ok && len(v) > 0 && v[0] != "0" && !strings.EqualFold(v[0], "false")
}

// writeOptions are the query parameters that create, update and patch share.
type writeOptions struct {
	dryRun     []string
	manager    string // fieldManager, or the user agent's name
	validation string // fieldValidation
	force      *bool  // apply only

	patched bool // the object was made from the current one, so it needs no resourceVersion
	applied bool // server-side apply has kept managedFields already
}

func (o *writeOptions) isDryRun() bool { return len(o.dryRun) > 0 }

func (o *writeOptions) strict() bool { return o.validation != metav1.FieldValidationIgnore }

// parseWriteOptions reads and checks the query; kind is the options' name in messages.
func parseWriteOptions(r *http.Request, kind string, patch types.PatchType) (writeOptions, error) {
	o := writeOptions{validation: metav1.FieldValidationWarn}
	if r.URL.RawQuery != "" {
		query := r.URL.Query()
		o.dryRun = query["dryRun"]
		o.manager = query.Get("fieldManager")
		if v := query.Get("fieldValidation"); v != "" {
			o.validation = v
		}
		if query.Has("force") {
			force := boolParameter(query, "force")
			o.force = &force
		}
	}
	if len(o.dryRun) > 0 || o.manager != "" || o.force != nil || isApply(patch) || o.validation != metav1.FieldValidationWarn {
		errs := validation.ValidatePatchOptions(&metav1.PatchOptions{
			DryRun: o.dryRun, FieldManager: o.manager, FieldValidation: o.validation, Force: o.force,
		}, patchTypeOr(patch))
		if patch == "" {
			errs = validation.ValidateUpdateOptions(&metav1.UpdateOptions{
				DryRun: o.dryRun, FieldManager: o.manager, FieldValidation: o.validation,
			})
		}
		if len(errs) > 0 {
			return o, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
		}
	}
	if o.manager == "" {
		o.manager = managerFromAgent(r.UserAgent())
	}
	return o, nil
}

func patchTypeOr(t types.PatchType) types.PatchType {
	if t == "" {
		return types.MergePatchType
	}
	return t
}

// managerFromAgent is the part of the user agent before the first slash, at most 128 printable bytes.
func managerFromAgent(agent string) string {
	name, _, _ := strings.Cut(agent, "/")
	name = strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return -1
	}, name)
	if len(name) > 128 {
		name = strings.ToValidUTF8(name[:128], "")
	}
	if name == "" {
		return "unknown"
	}
	return name
}
