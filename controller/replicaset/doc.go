// Package replicaset keeps as many pods of each ReplicaSet as it asks for.
//
// Too few are created in batches of 1, 2, 4 …, so that a template which cannot be created costs one request and not
// hundreds. Too many are deleted in upstream's order (see Rank): first what serves least. Pods that match the selector and
// belong to nobody are adopted; pods that no longer match are released. The status counts pods, and has the condition
// ReplicaFailure while pods cannot be created or deleted.
//
// Instead of counting expected events, the controller lays the answers of its own writes over the informer's view until it
// shows them (work.Ahead): a sync never sees fewer pods than it has made.
//
// ReplicationControllers, the older kind for the same, are kept by the same code: it sees them as ReplicaSets (sets.go).
//
// One queue of sets. Availability after minReadySeconds is a timer of the queue.
package replicaset
