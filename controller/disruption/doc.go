// Package disruption keeps the status of PodDisruptionBudgets: how many of the selected pods are healthy, how many must be,
// and how many may be evicted now. The eviction subresource spends what is allowed here and notes the pod it was spent on; a
// pod that is so noted counts as unhealthy until it is gone, or for two minutes.
//
// A budget in numbers is measured by the pods that there are. A percentage and maxUnavailable are measured by what the pods'
// controllers ask for, so that pods which are missing just now count as unavailable: Deployments, ReplicaSets,
// ReplicationControllers and StatefulSets are known. When the size of a pod's controller cannot be found, nothing may be
// evicted and the condition DisruptionAllowed says why.
//
// One queue of budgets; the plan is pure. The end of the two minutes is a timer of the queue.
package disruption
