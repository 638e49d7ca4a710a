package cni

import (
	"context"
	"net/netip"
)

// Pod is one attachment: a pod's network namespace to be connected or disconnected.
type Pod struct {
	SandboxID            string
	Namespace, Name, UID string
	NetNS                string // path of the namespace
	Ports                []PortMapping
}

// PortMapping is a hostPort.
type PortMapping struct {
	HostIP        string // "" is all
	HostPort      int32
	ContainerPort int32
	Protocol      string // tcp, udp, sctp
}

// Result is what the pod got.
type Result struct {
	IPs []netip.Addr
}

// Network connects pods. Add and Del may be repeated after any failure: Add of a connected pod returns its addresses
// again, Del of an unknown one is no error and cleans up whatever half of it exists.
type Network interface {
	Add(ctx context.Context, pod Pod) (Result, error)
	Del(ctx context.Context, pod Pod) error
	// Prune takes back the address, veth and rules of every sandbox that is not in live (after a crash).
	Prune(ctx context.Context, live []string) error
}
