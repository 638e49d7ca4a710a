// Package registry describes API kinds as table rows for the generic REST handlers.
package registry
