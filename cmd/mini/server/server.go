package server

import (
	"net/netip"
	"time"

	"github.com/mini-k8s/mini/cmd/mini/agent"
	"github.com/mini-k8s/mini/internal/bootstrap"
)

// Config is what a server needs; the zero value of a field is its flag's default only where it says so.
type Config struct {
	Node        agent.NodeConfig
	Settings    agent.Settings
	BindAddress netip.Addr
	Port        int
	Token       bootstrap.Token // the first join token; the zero one makes one
	SANs        []string

	EtcdEndpoints                         []string // none: embedded
	EtcdCAFile, EtcdCertFile, EtcdKeyFile string
	CompactEvery                          time.Duration // see store.Config

	DisableAgent   bool
	KubeconfigFile string
	Sockets        Sockets
}
