// Package networking holds the rows of networking.k8s.io: Ingress and IngressClass, NetworkPolicy, and what cluster
// addresses need: IPAddress, whose existence is the claim of one address, and ServiceCIDR, the ranges they come from.
//
// Behaviour follows pkg/apis/networking and pkg/registry/networking of Kubernetes (KEP-1880 for addresses). The claims
// themselves are made by the allocators of package core. Everything here is a pure function of the objects handed in and
// starts nothing.
package networking
