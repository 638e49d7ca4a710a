// Package authentication holds the rows of authentication.k8s.io: TokenReview and SelfSubjectReview.
//
// Both are questions rather than objects: created, answered, never stored. The answers come from the functions in
// registry.Deps.Review; a kind without one has no row. Nothing here validates, keeps state or runs.
package authentication
