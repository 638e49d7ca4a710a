// Package agent is what every node runs: containerd, the kubelet, the Service proxy, the pod network and the node's DNS server,
// in one process.
//
// Run is a worker: it joins the cluster with a token, keeps its certificates current, and runs the node. A server runs its own
// node with RunNode, its certificates issued by the CA at hand. Every component is started at once and waits for what it needs
// by channels; the first that fails ends all, and its error is what Run returns.
package agent
