// Package scheduler gives every pod that has none a node.
//
// A decision is pure: decide(nodes, pod) filters the nodes, scores those that are left and names the best, or says for
// each node why not, in the words of kube-scheduler. It sees a view of the cluster that the Scheduler keeps from its
// informers and into which a decided pod is entered at once ("assumed"), so that the next decision counts it before the
// API server has confirmed the binding. A binding that fails takes the pod out again.
//
// A pod that fits nowhere waits, together with the kinds of change that could help it (a node's change, a pod's end, …),
// and is tried again when one happens, not before a back-off of 1 s doubling to 10 s. As a last resort every waiting pod
// is tried again after five minutes. Nothing is polled.
//
// Filters and scores, weights included, are those of kube-scheduler's default profile for the features served here:
// resources, host ports, node name, selector and affinity, taints, unschedulable nodes, inter-pod affinity and
// anti-affinity, topology spread, image locality. There is no preemption: a pod's priority orders the queue only.
//
// Run owns its goroutines: one loop that decides, one short-lived goroutine for each binding or status write under way (at
// most parallelWrites), and the loop sleeps while nothing waits.
package scheduler
