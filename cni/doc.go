// Package cni is the pod network of a node.
//
// Every node has a bridge that holds the first address of the node's podCIDR. A pod gets a veth pair between its network
// namespace and the bridge, the next free address of the podCIDR and a default route to the bridge. Pods and nodes reach
// each other everywhere without NAT: nodes on the same subnet by plain routes, others through one VXLAN device whose
// forwarding entries are computed from the Node objects (no flooding, no learning, nothing to agree on beforehand: the
// hardware address of a node's end of the tunnel follows from its IP). What leaves the cluster is masqueraded. hostPorts
// are DNAT rules.
//
// Node implements Network. Its Run waits for the own Node's podCIDR, sets up bridge, sysctls and rules, closes Ready and
// then keeps routes, tunnel and rules true: plan computes what must be from the Node objects, reconcile makes the kernel
// so. It runs when a Node changes and when the kernel announces that someone removed a route, link or address of ours.
//
// The truth about pods is the lease file below the data directory, written before a link is made and cleared after it is
// gone, so that whatever a crash leaves can be found: Prune takes back everything that belongs to no live sandbox, Clean
// everything there is. Addresses are handed out in turn, so one that was given back rests before it is used again.
//
// The same code is a CNI plugin (PluginMain, CNI 1.1), and a conflist in the CNI configuration directory replaces our
// network with anyone else's plugins, called through libcni.
//
// Everything happens in the network namespace of the process (of the calling thread, for the plugin). Goroutines: those
// of Run, one that reads kernel notifications and one of package iptables.
package cni
