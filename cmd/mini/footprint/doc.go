// Package footprint gives back memory that only the start of a process needed.
//
// Most of what an idle mini would hold is its own binary: packages initialise themselves, certificates are made and helpers
// unpacked from it, once, and the kernel keeps every page that was touched mapped for as long as there is memory. Trim lets go of
// them, and of the heap that the start left empty. What is needed again comes back from the page cache by a minor fault.
//
// It starts no goroutine: Settle waits in its caller's for a quiet moment.
package footprint
