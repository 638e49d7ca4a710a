// Package proxy makes Services reachable on a node, with iptables.
//
// A Service becomes chains: one for each of its ports (MINI-P-SVC-…) that chooses an endpoint, one for each endpoint
// (MINI-P-SEP-…) that rewrites the destination, and, where asked for, one for what comes from outside (MINI-P-EXT-…) and
// one with this node's endpoints only (MINI-P-LOC-…). A tree of chains leads from an address to the chain of its Service:
// every level looks at four bits, so the first packet of a connection passes tens of rules whether there are ten Services
// or ten thousand; node ports have such a tree too. Later packets are conntrack's. Services without usable endpoints are
// rejected, or dropped where a Local policy says so, in the filter table.
//
// render is pure: from the ports of a Service and facts about the node it makes the Service's fragment; assemble joins
// fragments and trees into the whole rule set. A change of a Service renders that fragment alone, and one
// iptables-restore --noflush carries only the chains that differ. The first change is applied at once, further ones after
// a short pause together. Rules that someone else removes come back by package iptables. When endpoints of UDP Services
// go, their conntrack entries are deleted, since such a flow need never end by itself.
//
// Masquerading: what does not come from a pod (ClusterIP), what comes from outside the node (node port, external and
// load balancer addresses under the Cluster policy), and a pod that reaches itself.
//
// A load balancer Service under the Local policy also gets its health check port, answered over HTTP.
//
// Not done here: the address of the cluster DNS (Config.SkipIPs), which package dns answers on every node; IPv6; topology
// hints. Goroutines: those of Run, among them one of package iptables, and one for every health check port.
package proxy
