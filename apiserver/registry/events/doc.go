// Package events holds the rows of Events in both of their groups, core/v1 and events.k8s.io/v1.
//
// Both rows share one collection, in which core/v1 Events lie; the newer group's fields map onto it one to one
// (regarding is involvedObject, note is message, the deprecated fields are the old counters). Each group validates
// what it is sent by its own rules: an Event without eventTime is an old-style one and only its namespace is checked.
// Events are forgotten an hour after their last write. Behaviour follows pkg/apis/core/validation/events.go and
// pkg/apis/events of Kubernetes. Everything here is a pure function of the objects handed in and starts nothing.
package events
