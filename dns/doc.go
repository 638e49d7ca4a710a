// Package dns is the cluster DNS of a node.
//
// Every node answers the cluster DNS address itself: Server puts the address on the loopback interface and listens there,
// UDP and TCP, so a query never leaves the node and needs no rule of package proxy. Names of the cluster domain are
// answered straight from the informers' stores, by the specification of Kubernetes DNS-based service discovery (v1.1.0):
// Services, headless Services with their endpoints, ports (SRV), ExternalName, reverse lookup, pods by address and by
// hostname and subdomain. There is no copy of the zone; an answer is as new as the informers. Everything else is forwarded
// to the node's own resolvers, one after the other when one fails, with a small cache.
//
// answer is pure: a question and the stores in, an answer out; what has to be asked elsewhere (the target of an
// ExternalName, names outside the cluster) is left to the handler. The same question asked twice at a time is forwarded
// once, which also ends loops: a resolver that asks us back waits for its own answer.
//
// Server listens only once the stores hold the cluster; before, a name that exists would be denied. The address goes when
// Run returns, and with Clean after a crash. Goroutines: the two listeners of package miekg/dns, one for every query while
// it is answered, and one that puts the address back if someone takes it away.
package dns
