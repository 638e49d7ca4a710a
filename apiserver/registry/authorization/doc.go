// Package authorization holds the rows of authorization.k8s.io: the SubjectAccessReviews and SelfSubjectRulesReview.
//
// All are questions rather than objects: created, answered, never stored. The answers come from the functions in
// registry.Deps.Review; a kind without one has no row. Nothing here validates, keeps state or runs.
package authorization
