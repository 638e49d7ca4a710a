// Package bootstraptoken deletes bootstrap tokens that have expired, and keeps the ConfigMap kube-public/cluster-info signed by
// those there are, so that a node with the short form of any of them can verify the cluster's CA.
//
// It watches only Secrets of the tokens' type in kube-system. An expiry is a timer of the queue. One queue of Secret names,
// in which the empty name stands for cluster-info.
package bootstraptoken
