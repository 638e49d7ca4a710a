// Package table makes meta.k8s.io Tables, the form in which kubectl get shows objects: columns and cells from the kind's row
// (registry.Table), and beside each row the object's metadata, the whole object or nothing, as the client asked.
//
// Cells are computed at each request because ages change; nothing is kept. Kinds whose row names no columns get Name and
// Age, upstream's default.
package table
