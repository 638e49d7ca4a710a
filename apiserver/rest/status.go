package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/mini-k8s/mini/apiserver/codec"
	"github.com/mini-k8s/mini/apiserver/negotiate"
	"github.com/mini-k8s/mini/apiserver/request"
	"github.com/mini-k8s/mini/store"
)

const modifiedText = "the object has been modified; please apply your changes to the latest version and try again"

// Status says err as the API does. resource and name are used where the error itself does not know them.
func Status(err error, resource schema.GroupResource, name string) *metav1.Status {
	status := statusOf(err, resource, name).Status()
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	return &status
}

func statusOf(err error, resource schema.GroupResource, name string) apierrors.APIStatus {
	var api apierrors.APIStatus
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &api):
		return api
	case errors.Is(err, store.ErrNotFound):
		return apierrors.NewNotFound(resource, name)
	case errors.Is(err, store.ErrExists):
		return apierrors.NewAlreadyExists(resource, name)
	case errors.Is(err, store.ErrConflict):
		return apierrors.NewConflict(resource, name, errors.New(modifiedText))
	case errors.Is(err, store.ErrCompacted):
		return apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
	case errors.Is(err, store.ErrFuture):
		return tooLargeResourceVersion()
	case errors.Is(err, store.ErrTooLarge):
		return apierrors.NewRequestEntityTooLargeError("the object is larger than the store accepts")
	case errors.Is(err, store.ErrUnavailable):
		return apierrors.NewServiceUnavailable(err.Error())
	case errors.Is(err, store.ErrBadContinue):
		return apierrors.NewBadRequest("continue key is not valid: " + err.Error())
	case errors.Is(err, codec.ErrMediaType):
		return withCode(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType, err.Error())
	case errors.As(err, &tooLong):
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", tooLong.Limit))
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return apierrors.NewTimeoutError("request did not complete within the allowed duration", 0)
	}
	return apierrors.NewInternalError(err)
}

func withCode(code int32, reason metav1.StatusReason, message string) *apierrors.StatusError {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message,
	}}
}

func tooLargeResourceVersion() *apierrors.StatusError {
	err := apierrors.NewTimeoutError("Too large resource version", 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version",
	}}
	return err
}

// expiredContinue is the 410 that carries a token to go on with at the newest revision.
func expiredContinue(token string) *apierrors.StatusError {
	err := apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. " +
		"You can start a new list without the continue parameter, or use the continue token in this response to retrieve " +
		"the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that " +
		"were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.")
	err.ErrStatus.ListMeta.Continue = token
	return err
}

func notAcceptable() *apierrors.StatusError {
	return withCode(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable,
		"only the following media types are accepted: "+negotiate.Accepted)
}

// WriteError answers with err as a Status, in the format that the client prefers.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	info := request.InfoFrom(r.Context())
	WriteStatus(w, r, Status(err, schema.GroupResource{Group: info.Group, Resource: info.Resource}, info.Name))
}

// WriteStatus answers with a Status under its own code.
func WriteStatus(w http.ResponseWriter, r *http.Request, status *metav1.Status) {
	code := int(status.Code)
	if code == 0 {
		code = http.StatusOK
		if status.Status == metav1.StatusFailure {
			code = http.StatusInternalServerError
		}
	}
	if d := status.Details; d != nil && d.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(d.RetryAfterSeconds))
	}
	format, ok := negotiate.Pick(r, func(f negotiate.Format) bool { return f.As == "" })
	if !ok {
		format = negotiate.Format{}
	}
	writeAny(w, r, code, format, status)
}
