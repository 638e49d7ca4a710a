// Package builtin assembles the rows of all built-in kinds.
//
// Resources is the whole API as the generic handlers, discovery and the OpenAPI documents see it: to serve one more
// kind is to add its row here. Rows lie in one package an API group beside this one. Nothing is registered globally and
// nothing runs; the returned Allocators, which share their state with the rows, are run by the server.
package builtin
