// Package nodelifecycle judges whether nodes live, by their Lease and status heartbeats, and makes the cluster react.
//
// A node from which nothing was heard for the grace period (40 s) gets the condition Ready=Unknown. Conditions become taints:
// NoSchedule at once; NoExecute for nodes that are not ready or unreachable, one node in ten seconds for each zone, so that
// tainteviction replaces their pods after the time those tolerate it. Pods of a node that stops being ready are marked not
// ready, which takes them out of Services. All of it is undone when the node is back.
//
// When no node at all is heard of, it is the control plane that is cut off, or was: then nobody is evicted and no pod is
// marked, because the pods most likely still serve. When more than half of a zone's nodes (55 %, and at least three) are gone,
// NoExecute waits too, as upstream does in clusters of up to 50 nodes, and slows down to one in a hundred seconds in larger
// ones.
//
// Heartbeats are counted from when they arrive here, on this clock: clocks of nodes do not matter, and after a restart of the
// controller every node has a full grace period. A heartbeat only sets a time; each node has one timer. One queue of nodes.
package nodelifecycle
