// Package policystatus type-checks ValidatingAdmissionPolicies (KEP-3488): for each kind that a policy names it compiles the
// policy's expressions against the kind's schema and writes what does not fit, say a field that is not there, into
// status.typeChecking. The warnings change nothing about what the policy does.
//
// A policy is checked once for each generation, which status.observedGeneration tells. Schemas and the mapping of resources
// to kinds are asked of the server for each check and not kept: policies are written seldom, and CEL with the schemas of a
// group takes megabytes. A kind whose schema is not there is left out; defining it later does not check the policy again, as
// upstream.
//
// It owns one goroutine, that of its queue.
package policystatus
