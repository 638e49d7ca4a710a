// Package claim decides which objects belong to a controller object: what it owns, what it may adopt because its selector
// matches and nobody owns it, and what it must release because its selector no longer matches.
//
// Ownership is the one ownerReference with controller=true (metav1.GetControllerOf). Plan is pure; AdoptPatch and
// ReleasePatch are the writes it leads to, safe against an object that was replaced by another one of its name.
package claim
