// Package openapi serves the OpenAPI documents of the built-in kinds: /openapi/v2 and /openapi/v3.
//
// The documents are made at build time (`make openapi`, which runs ./generate) from the sources of the API types and the
// rows of package builtin, in both encodings clients ask for, and are embedded compressed. Serving them parses nothing:
// a client that takes gzip, as all Go clients do, is sent the embedded bytes. Every answer carries an ETag, and the URLs
// in the index of /openapi/v3 carry a hash, so that clients keep what they have.
//
// A binary built without the documents answers 503 with the command that makes them. Server-side apply does not depend
// on this package: its schemas come from client-go.
//
// The package starts nothing and keeps nothing beside the embedded files.
package openapi
