// Package openapi serves the OpenAPI documents of the built-in kinds and of custom resources: /openapi/v2 and /openapi/v3.
//
// The documents are made at build time (`make openapi`, which runs ./generate) from the sources of the API types and the
// rows of package builtin, and are embedded as compressed JSON. Serving that parses nothing: a client that takes gzip, as
// all Go clients do, is sent the embedded bytes. Protobuf, which fewer ask for, is made when first wanted. Every answer
// carries an ETag, and the URLs in the index of /openapi/v3 carry a hash, so that clients keep what they have.
//
// Custom resources (Extend) are added to them in pieces: each one's definitions and paths are made when first asked for, in
// the form that is asked for, and kept compressed. Pieces of gzip one after the other are gzip, and messages of protobuf
// one after the other are their union, so that a document is put together by writing one piece after the other.
//
// A binary built without the documents answers 503 with the command that makes them. Server-side apply does not depend
// on this package: its schemas come from client-go.
//
// The package starts nothing and keeps nothing beside the embedded files, their protobuf and those pieces.
package openapi
