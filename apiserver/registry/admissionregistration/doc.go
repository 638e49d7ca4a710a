// Package admissionregistration holds the rows of admissionregistration.k8s.io: admission policies in CEL with their
// bindings, and the configurations of admission webhooks.
//
// Behaviour follows pkg/apis/admissionregistration and pkg/registry/admissionregistration of Kubernetes. Expressions are
// compiled by upstream's own compiler (k8s.io/apiserver/pkg/admission/plugin/cel), so that what is accepted here is what the
// admission chain can evaluate; expressions that were stored before are compiled leniently (KEP-3488). The environments of
// CEL are made when the first expression is judged, not before.
//
// A policy's author must be able to read the parameters that it is about (params.go); that is the only thing here that
// looks beyond the objects handed in. Evaluating policies and calling webhooks belongs to package admission.
package admissionregistration
