// Package autoscaling holds the rows of the autoscaling group: HorizontalPodAutoscalers as v2 and as v1.
//
// Both versions are views of one object, stored as v2. What v1 has no field for (metrics other than CPU utilization, their
// current values, conditions, scaling behavior) it shows in the annotations that upstream uses, and takes back from them, so
// that a client of v1 loses nothing. Validation is that of v2, whichever version was written.
//
// Behaviour follows pkg/apis/autoscaling and pkg/registry/autoscaling of Kubernetes. Everything here is a pure function of the
// objects handed in and starts nothing.
package autoscaling
