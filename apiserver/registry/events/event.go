package events

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

const ttlSeconds = 3600

// Core is the row of events in the core group.
func Core() registry.Resource {
	return registry.Resource{
		GVK: corev1.SchemeGroupVersion.WithKind("Event"), Name: "events", Singular: "event", ShortNames: []string{"ev"}, Namespaced: true,
		TTLSeconds: ttlSeconds,
		Strategy: registry.Strategy{
			Validate: registry.Validate(validateCore),
			ValidateUpdate: registry.ValidateUpdate(func(e, old *corev1.Event) field.ErrorList {
				errs := apivalidation.ValidateObjectMetaUpdate(&e.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
				return append(errs, validateLegacy(e, "reportingComponent")...)
			}),
			CreateOnUpdate: true, UnconditionalUpdate: true,
		},
		Fields: registry.Select(coreFields),
		Table:  registry.Table{Columns: columns(), Cells: registry.Cells(cells)},
	}
}

// Events is the row of events in events.k8s.io.
func Events() registry.Resource {
	return registry.Resource{
		GVK: eventsv1.SchemeGroupVersion.WithKind("Event"), Name: "events", Singular: "event", ShortNames: []string{"ev"}, Namespaced: true,
		Key: "events", Stored: corev1.SchemeGroupVersion.WithKind("Event"), TTLSeconds: ttlSeconds,
		ToStored:   func(o store.Object) (store.Object, error) { return toCore(o.(*eventsv1.Event)), nil },
		FromStored: func(o store.Object) (store.Object, error) { return fromCore(o.(*corev1.Event)), nil },
		Strategy: registry.Strategy{
			Validate: registry.Validate(func(e *eventsv1.Event) field.ErrorList {
				c := toCore(e)
				return append(validateLegacy(c, "reportingController"), validateNew(c)...)
			}),
			ValidateUpdate: registry.ValidateUpdate(validateNewUpdate),
			CreateOnUpdate: true, UnconditionalUpdate: true,
		},
		Fields: registry.Select(func(e *eventsv1.Event) fields.Set {
			set := fields.Set{}
			for k, v := range coreFields(toCore(e)) {
				switch {
				case k == "reason" || k == "type":
					set[k] = v
				case k == "reportingComponent":
					set["reportingController"] = v
				case strings.HasPrefix(k, "involvedObject."):
					set["regarding."+strings.TrimPrefix(k, "involvedObject.")] = v
				}
			}
			return set
		}),
		Table: registry.Table{Columns: columns(), Cells: registry.Cells(func(e *eventsv1.Event) []any { return cells(toCore(e)) })},
	}
}

func toCore(e *eventsv1.Event) *corev1.Event {
	c := &corev1.Event{
		ObjectMeta: *e.ObjectMeta.DeepCopy(), InvolvedObject: e.Regarding, Reason: e.Reason, Message: e.Note, Source: e.DeprecatedSource,
		FirstTimestamp: e.DeprecatedFirstTimestamp, LastTimestamp: e.DeprecatedLastTimestamp, Count: e.DeprecatedCount,
		Type: e.Type, EventTime: e.EventTime, Action: e.Action, Related: e.Related.DeepCopy(),
		ReportingController: e.ReportingController, ReportingInstance: e.ReportingInstance,
	}
	if e.Series != nil {
		c.Series = &corev1.EventSeries{Count: e.Series.Count, LastObservedTime: e.Series.LastObservedTime}
	}
	c.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Event"))
	return c
}

func fromCore(c *corev1.Event) *eventsv1.Event {
	e := &eventsv1.Event{
		ObjectMeta: *c.ObjectMeta.DeepCopy(), Regarding: c.InvolvedObject, Reason: c.Reason, Note: c.Message, DeprecatedSource: c.Source,
		DeprecatedFirstTimestamp: c.FirstTimestamp, DeprecatedLastTimestamp: c.LastTimestamp, DeprecatedCount: c.Count,
		Type: c.Type, EventTime: c.EventTime, Action: c.Action, Related: c.Related.DeepCopy(),
		ReportingController: c.ReportingController, ReportingInstance: c.ReportingInstance,
	}
	if c.Series != nil {
		e.Series = &eventsv1.EventSeries{Count: c.Series.Count, LastObservedTime: c.Series.LastObservedTime}
	}
	e.SetGroupVersionKind(eventsv1.SchemeGroupVersion.WithKind("Event"))
	return e
}

func coreFields(e *corev1.Event) fields.Set {
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	return fields.Set{
		"involvedObject.kind":            e.InvolvedObject.Kind,
		"involvedObject.namespace":       e.InvolvedObject.Namespace,
		"involvedObject.name":            e.InvolvedObject.Name,
		"involvedObject.uid":             string(e.InvolvedObject.UID),
		"involvedObject.apiVersion":      e.InvolvedObject.APIVersion,
		"involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
		"involvedObject.fieldPath":       e.InvolvedObject.FieldPath,
		"reason":                         e.Reason,
		"reportingComponent":             e.ReportingController,
		"source":                         source,
		"type":                           e.Type,
	}
}

func columns() []metav1.TableColumnDefinition {
	name := registry.Wide(registry.NameColumn())
	return []metav1.TableColumnDefinition{
		registry.Column("Last Seen", "Time since the event was last seen"),
		registry.Column("Type", "Normal or Warning"),
		registry.Column("Reason", "Why the action was taken, for machines"),
		registry.Column("Object", "The object the event is about"),
		registry.Wide(registry.Column("Subobject", "The part of the object the event is about")),
		registry.Wide(registry.Column("Source", "The component that reported the event")),
		registry.Column("Message", "What happened, for people"),
		registry.Wide(registry.Column("First Seen", "Time since the event was first seen")),
		registry.Wide(registry.Column("Count", "How often the event has occurred")),
		name,
	}
}

func cells(e *corev1.Event) []any {
	first := registry.Age(e.FirstTimestamp)
	if e.FirstTimestamp.IsZero() {
		first = registry.Age(metav1.Time(e.EventTime))
	}
	last := registry.Age(e.LastTimestamp)
	if e.LastTimestamp.IsZero() {
		last = first
	}
	count := int64(e.Count)
	if e.Series != nil {
		last = registry.Age(metav1.Time(e.Series.LastObservedTime))
		count = int64(e.Series.Count)
	} else if count == 0 {
		count = 1 // a new-style event without a series happened once
	}
	object := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name != "" {
		object += "/" + e.InvolvedObject.Name
	}
	return []any{
		last, e.Type, e.Reason, object, e.InvolvedObject.FieldPath, source(e), strings.TrimSpace(e.Message), first, count, e.Name,
	}
}

func source(e *corev1.Event) string {
	component, host := e.Source.Component, e.Source.Host
	if component == "" {
		component = e.ReportingController
	}
	if host == "" {
		host = e.ReportingInstance
	}
	if host == "" {
		return component
	}
	return fmt.Sprintf("%s, %s", component, host)
}
