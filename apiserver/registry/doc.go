// Package registry describes API kinds as table rows for the generic REST handlers.
//
// A row (Resource) is all that is particular to a kind: its names and place in etcd, defaults, validation, what a write may
// change (Strategy), its subresources, selectable fields and kubectl's columns. Routing, decoding, patches, optimistic
// locks, admission, watches, tables and discovery are the same for all and live in package rest. Rows are in one package
// per API group below this one; package builtin puts them together.
//
// To add a built-in kind: write its row beside those of its group, add it to builtin.Resources, test its defaults and
// validation by a table, and run `make openapi`. Rows for kinds that are only known at run time are values like any
// other: nothing here is registered globally, and hooks that a row leaves nil take the generic behaviour.
//
// Hooks get objects of the row's own type. They may change the new object they are given, never the old one, which
// readers share. They decide from the objects alone; what a hook needs beyond that (the allocators of cluster addresses,
// who makes the request) comes through Deps. Row.go fits functions on a concrete type into hooks, column.go makes columns.
//
// The package has no state and starts nothing.
package registry
