// Package resource tells which resources the API server serves, by discovery: what the garbage collector watches and what the
// deletion of a namespace has to empty. One version of each resource is enough for both; it is the one the server prefers.
package resource
