// Package deployment rolls Deployments out over ReplicaSets, one for each pod template.
//
// Promises, for RollingUpdate: the ReplicaSets together never ask for more than replicas + maxSurge pods, and no pod is taken
// away while that could leave fewer than replicas - maxUnavailable available. Recreate starts no new pod before the last old
// one has ended. Scaling in the middle of a rollout is shared out in proportion. Revisions, annotations, conditions, events
// and names are upstream's, so that kubectl rollout status, history, undo, pause and resume work, and a cluster's
// Deployments survive a change of the controller: the pod-template-hash is the same function.
//
// plan does one step of a rollout at a time: what it changes comes back as events of the ReplicaSets, which lead to the next.
// Our own writes are laid over the cache (work.Ahead), so steps are never repeated because of a lagging watch. One queue of
// Deployments; the progress deadline is a timer of the queue.
package deployment
