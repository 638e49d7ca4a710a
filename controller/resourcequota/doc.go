// Package resourcequota keeps status.hard and status.used of ResourceQuotas true.
//
// Admission charges a quota before it lets an object in; this controller gives back what is used no more, counts for the
// first time, and follows changes of the spec. What an object uses is decided by internal/quota for both.
//
// It counts anew when something that the quota is about goes or ends, when the quota changes, and a second after admission
// has charged it (the store may have refused the object afterwards). Pods and Services are counted from the shared
// informers, claims from a list, everything else by asking for the number alone.
//
// A sum that is lower than what is charged may lack objects that are admitted and not yet stored. So it is written only
// once the charge has been the same for settle, and the server, which knows what it has under way, refuses it as a conflict
// as long as that may be. All writes carry the version of the quota that the count started from.
//
// One queue of quotas; no informers of its own besides that of quotas. Deletions are told by the garbage collector, which
// watches every resource anyway (Gone).
package resourcequota
