package events

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	maxInstance = 128
	maxAction   = 128
	maxReason   = 128
	maxNote     = 1024
)

func validateCore(e *corev1.Event) field.ErrorList {
	return validateLegacy(e, "reportingComponent")
}

// validateLegacy holds for every event: an old-style one lies in the namespace of what it is about, a new-style one
// (with eventTime) says who reports it and what was done.
func validateLegacy(e *corev1.Event, reporter string) field.ErrorList {
	var errs field.ErrorList
	about := field.NewPath("involvedObject", "namespace")
	if e.EventTime.IsZero() {
		if e.InvolvedObject.Namespace == "" {
			if e.Namespace != "" && e.Namespace != metav1.NamespaceDefault {
				errs = append(errs, field.Invalid(about, e.InvolvedObject.Namespace, "does not match event.namespace"))
			}
		} else if e.Namespace != e.InvolvedObject.Namespace {
			errs = append(errs, field.Invalid(about, e.InvolvedObject.Namespace, "does not match event.namespace"))
		}
	} else {
		if e.InvolvedObject.Namespace == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem {
			errs = append(errs, field.Invalid(about, e.InvolvedObject.Namespace, "does not match event.namespace"))
		}
		if e.ReportingController == "" {
			errs = append(errs, field.Required(field.NewPath(reporter), ""))
		}
		for _, msg := range validation.IsQualifiedName(e.ReportingController) {
			errs = append(errs, field.Invalid(field.NewPath(reporter), e.ReportingController, msg))
		}
		errs = append(errs, requiredUpTo(field.NewPath("reportingInstance"), e.ReportingInstance, maxInstance)...)
		errs = append(errs, requiredUpTo(field.NewPath("action"), e.Action, maxAction)...)
		errs = append(errs, requiredUpTo(field.NewPath("reason"), e.Reason, maxReason)...)
		if len(e.Message) > maxNote {
			errs = append(errs, field.Invalid(field.NewPath("message"), "", tooLong(maxNote)))
		}
	}
	for _, msg := range validation.IsDNS1123Subdomain(e.Namespace) {
		errs = append(errs, field.Invalid(field.NewPath("namespace"), e.Namespace, msg))
	}
	return errs
}

func validateNew(e *corev1.Event) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&e.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	if e.EventTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
	}
	errs = append(errs, validateSeries(e)...)
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		errs = append(errs, field.Invalid(field.NewPath("type"), "", fmt.Sprintf("has invalid value: %v", e.Type)))
	}
	const unset = "needs to be unset"
	if !e.FirstTimestamp.IsZero() {
		errs = append(errs, field.Invalid(field.NewPath("firstTimestamp"), "", unset))
	}
	if !e.LastTimestamp.IsZero() {
		errs = append(errs, field.Invalid(field.NewPath("lastTimestamp"), "", unset))
	}
	if e.Count != 0 {
		errs = append(errs, field.Invalid(field.NewPath("count"), "", unset))
	}
	if e.Source != (corev1.EventSource{}) {
		errs = append(errs, field.Invalid(field.NewPath("source"), "", unset))
	}
	return errs
}

func validateSeries(e *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	if e.Series == nil {
		return nil
	}
	if e.Series.Count < 2 {
		errs = append(errs, field.Invalid(field.NewPath("series.count"), "", "should be at least 2"))
	}
	if e.Series.LastObservedTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("series.lastObservedTime"), ""))
	}
	return errs
}

// validateNewUpdate lets nothing but the series of an events.k8s.io event change.
func validateNewUpdate(event, oldEvent *eventsv1.Event) field.ErrorList {
	e, old := toCore(event), toCore(oldEvent)
	errs := apivalidation.ValidateObjectMetaUpdate(&e.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	errs = append(errs, validateLegacy(e, "reportingController")...)
	if e.Series != nil && (old.Series == nil || *e.Series != *old.Series) {
		errs = append(errs, validateSeries(e)...)
	}
	same := func(path string, now, was any) {
		if !apiequality.Semantic.DeepEqual(now, was) {
			errs = append(errs, field.Invalid(field.NewPath(path), now, apivalidation.FieldImmutableErrorMsg))
		}
	}
	same("involvedObject", e.InvolvedObject, old.InvolvedObject)
	same("reason", e.Reason, old.Reason)
	same("message", e.Message, old.Message)
	same("source", e.Source, old.Source)
	same("firstTimestamp", e.FirstTimestamp, old.FirstTimestamp)
	same("lastTimestamp", e.LastTimestamp, old.LastTimestamp)
	same("count", e.Count, old.Count)
	same("reason", e.Reason, old.Reason)
	same("type", e.Type, old.Type)
	if !e.EventTime.Time.Equal(old.EventTime.Time) {
		same("eventTime", e.EventTime, old.EventTime)
	}
	same("action", e.Action, old.Action)
	same("related", e.Related, old.Related)
	same("reportingController", e.ReportingController, old.ReportingController)
	same("reportingInstance", e.ReportingInstance, old.ReportingInstance)
	return errs
}

func requiredUpTo(path *field.Path, value string, limit int) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	if len(value) > limit {
		return field.ErrorList{field.Invalid(path, "", tooLong(limit))}
	}
	return nil
}

func tooLong(limit int) string { return fmt.Sprintf("can have at most %v characters", limit) }
