// Package store keeps API objects in etcd and answers reads and watches of them from memory.
//
// # Keys
//
// The layout and the bytes are upstream's, so that a kube-apiserver on the same etcd reads what this package wrote:
//
//	/registry/RESOURCE/NAMESPACE/NAME    k8s\0 + runtime.Unknown{apiVersion, kind, protobuf}    built-in kinds
//	/registry/RESOURCE/NAME              the same, cluster-scoped
//	/registry/GROUP/RESOURCE/...         JSON                                                   custom resources
//	\_______Prefix______/\____Key____/   wrapped by the collection's Transformer, if any: encryption at rest
//
// # Revisions
//
// An object's resourceVersion is etcd's revision of its last write; it is never in the stored bytes. Revisions count all
// writes to etcd, so that one number, Store.applied, says how far every cache is: up to it nothing is missing anywhere.
// A read of the newest state asks for a revision that no acknowledged write is newer than (the embedded member remembers
// it, a remote etcd's quorum is asked, and callers share the answer), waits until applied has reached it, and is answered
// from memory. Lists of an older revision wind the cache back by its history, or go to etcd.
//
// # From a write to the watchers
//
//	Mutate ── txn ──▶ etcd ──acknowledged──▶ wrote ──┐  applied+1 = this revision? then no need to wait for
//	                   │                             ▼
//	                   └──one watch of all──▶ take ──▶ applyLocked: tree, history, applied; wakes who waits for it
//	                                                 │
//	                                    history ◀────┘  kick
//	                                      │              ▼
//	                     pump (catching up)│          dispatch (while there is something) ──▶ live watchers' channels
//	                                      └────────────▶ channel; live when it has caught up
//
// A change is decoded once, before its write is even acknowledged, and that one object is what every get, list and watch
// hands out, read-only. Its encodings are kept with it and forgotten when nobody has asked for minutes. Trees are copied on
// write: a list walks a snapshot without a lock.
//
// # What happens when
//
//   - a watcher does not read: its channel fills up, a pump takes over, and it is closed when the history has moved on or
//     after 30 s without room;
//   - a watch starts before the history, for instance after a restart: the missing part is read from etcd;
//   - etcd is away: writes and reads of the newest state fail with ErrUnavailable, others go on; the watch resumes;
//   - etcd has compacted what was missed meanwhile: all caches load anew and all watches end with ErrCompacted;
//   - etcd's disk is slow: everything waits, nothing gives up. It is full: history goes first, then writes fail;
//   - the process is killed: etcd's log was fsynced before each acknowledgement.
//
// # Goroutines
//
// Run owns the watch on etcd, the compaction (history of five to ten minutes stays) and the minute tick (bookmarks,
// history), and returns when they have ended. Beyond those there is a dispatcher per collection with undelivered changes
// and a pump per watcher that catches up; an idle watcher or collection has none. Opening the embedded member starts
// etcd's own, which Run ends. What etcd would exit or panic for makes Run return an error.
package store
