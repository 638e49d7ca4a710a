// Package endpointslice keeps the EndpointSlices of every Service that has a selector, and mirrors the Endpoints that someone
// wrote by hand for a Service without one (KEP 752).
//
// Slices are labelled and owned as upstream's controllers do it, one set per address family, at most 100 endpoints each.
// Endpoints keep their slice; new ones go first into slices that change anyway, then into the fullest that holds them all,
// then into new slices, so that one pod's change is one small write. A Service without endpoints has one empty slice.
// Readiness reaches the slice by one hop: the pod's event queues its Services, whose sync writes.
//
// Topology hints are not computed: every endpoint serves every zone.
//
// Two queues (Services, hand-written Endpoints). Plans are pure functions; what was written but not seen in the watch yet is
// laid over the cache, so that two changes in quick succession do not make two slices.
package endpointslice
