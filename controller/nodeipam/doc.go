// Package nodeipam gives every node a range of pod addresses: spec.podCIDR, one block of a fixed size out of the cluster's.
//
// Promises: no two nodes hold overlapping blocks at the same time, a node keeps its block for its life, and a node that goes
// gives it back. Blocks are handed out round-robin, so that a block which was just given back is the last to be used again:
// other nodes may still hold routes to its former owner. Blocks outside the cluster's range, set by hand, are left alone.
//
// It stands between a node's start and its Ready, so it waits for nothing but the list of nodes and writes one patch per
// node. All state is rebuilt from the Node objects. One queue of node names, one worker: the pool needs no more.
package nodeipam
