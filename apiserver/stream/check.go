package stream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/request"
)

// mayUpgrade: a WebSocket begins with GET, which was authorized as a read. What follows is none, so the user must be
// allowed what a POST would be (upstream: AuthorizePodWebsocketUpgradeCreatePermission).
func (s *Streams) mayUpgrade(ctx context.Context, namespace, name, sub string, o registry.ConnectOptions) error {
	u := request.UserFrom(ctx)
	if o.Method != http.MethodGet || s.auth == nil || u == nil {
		return nil
	}
	decision, reason, err := s.auth.Authorize(ctx, authorizer.AttributesRecord{
		User: u, Verb: "create", Namespace: namespace, APIVersion: "v1", Resource: "pods", Subresource: sub, Name: name, ResourceRequest: true,
	})
	if decision == authorizer.DecisionAllow {
		return nil
	}
	text := fmt.Sprintf("User %q cannot create resource %q in API group %q in the namespace %q", u.GetName(), "pods/"+sub, "", namespace)
	if reason != "" {
		text += ": " + reason
	}
	if err != nil {
		s.logger.Debug("authorization failed", "user", u.GetName(), "err", err)
	}
	return apierrors.NewForbidden(corev1.Resource("pods"), name, errors.New(text))
}

// validateLog checks PodLogOptions as upstream does.
func validateLog(name string, query url.Values) error {
	var errs field.ErrorList
	atLeast := func(key string, least int64) {
		text := query.Get(key)
		if text == "" {
			return
		}
		n, err := strconv.ParseInt(text, 10, 64)
		switch {
		case err != nil:
			errs = append(errs, field.Invalid(field.NewPath(key), text, "must be a number"))
		case n < least && least == 0:
			errs = append(errs, field.Invalid(field.NewPath(key), n, "must be greater than or equal to 0"))
		case n < least:
			errs = append(errs, field.Invalid(field.NewPath(key), n, "must be greater than 0"))
		}
	}
	atLeast("tailLines", 0)
	atLeast("limitBytes", 1)
	atLeast("sinceSeconds", 1)
	if query.Get("sinceSeconds") != "" && query.Get("sinceTime") != "" {
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	}
	switch stream := query.Get("stream"); stream {
	case "", corev1.LogStreamAll:
	case corev1.LogStreamStdout, corev1.LogStreamStderr:
		if query.Get("tailLines") != "" {
			errs = append(errs, field.Forbidden(field.NewPath(""), "`tailLines` and specific `stream` are mutually exclusive for now"))
		}
	default:
		errs = append(errs, field.NotSupported(field.NewPath("stream"), stream, []string{corev1.LogStreamAll, corev1.LogStreamStdout, corev1.LogStreamStderr}))
	}
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("PodLogOptions").GroupKind(), name, errs)
}
