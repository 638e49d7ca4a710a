// Package iptables keeps a set of iptables chains of our own as they should be.
//
// The owner of a Table says which chains it wants, as text, and Set brings the kernel there with one iptables-restore
// --noflush that carries only the chains that differ from what was set before; per table such a change is atomic.
// All chains of an owner begin with its prefix, which is what makes them recognisable after a crash: the first Set
// replaces whatever an earlier process left behind, and Clean removes everything with that prefix. The jumps that lead
// from the built-in chains into ours are Anchors, handled with go-iptables.
//
// What other people do to the rules is noticed: Run listens to the kernel's nf_tables notifications (or, with the legacy
// back end, which has none, looks every 20 s), compares the chains with iptables-save, and sets everything anew if a
// rule, a chain or a jump is missing or was changed. An idle node runs nothing at all for this with nf_tables.
//
// The package works in the network namespace of the calling thread, for IPv4, with whichever back end the machine's
// iptables command uses. It starts one goroutine, in Run, that owns the notification socket.
package iptables
