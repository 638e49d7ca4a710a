// Package tainteviction deletes the pods of nodes with NoExecute taints that they do not tolerate, or tolerate only for a time
// (tolerationSeconds) that is over.
//
// The time counts from when the taint was added, or the pod was created if that is later, so it goes on over a restart.
// A pod has the condition DisruptionTarget before it is deleted (KEP 3329); deletion is graceful. When the taint goes in time,
// the pod stays. One queue of pods; waiting is a timer of the queue.
package tainteviction
