// Package render writes OpenAPI paths and schemas of versions 2 and 3: those of the built-in rows when the documents are
// generated, and those of custom resources while the server runs.
//
// A schema is written once, with references that start with RefPrefix, and becomes one or the other version's when a
// document is made of it. What is rendered are plain values for package json. The package has no state.
package render

// Node is a JSON schema object. References are written as RefPrefix + model name until a document is made of it, and
// types that JSON writes in two ways are noted as x-one-of.
type Node = map[string]any

// RefPrefix begins references between definitions.
const RefPrefix = "#/ref/"
