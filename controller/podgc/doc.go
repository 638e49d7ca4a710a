// Package podgc deletes pods that nobody else will: those whose node is no more, those that are to be deleted but were never
// bound to a node, and the oldest of the ended ones when there are too many.
//
// A pod of a missing node is deleted when the node has been missing for 40 s, and only after the API itself, not the cache,
// has confirmed that: a node that is registered anew keeps its pods. Its phase becomes Failed first, with the condition
// DisruptionTarget. Pods on a node with the taint node.kubernetes.io/out-of-service that is not ready go at once when they
// are being deleted (KEP 2268). Ended pods beyond the threshold go oldest first.
//
// It acts on the events of nodes and pods; two queues, of nodes that are missing and of pods.
package podgc
