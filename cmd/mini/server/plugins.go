package server

import (
	"log/slog"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/mini-k8s/mini/apiserver"
	"github.com/mini-k8s/mini/apiserver/plugins"
	"github.com/mini-k8s/mini/apiserver/stream"
)

type logger = *slog.Logger

// plugins makes what decides about requests, and keeps the client and informers that everything in this process shares.
func (s *server) plugins(loopback *rest.Config) (*apiserver.Plugins, error) {
	made, err := plugins.New(plugins.Config{
		ClientCAs: s.keys.CA.Pool(), Logger: s.log, ServiceAccountKeys: s.keys.ServiceAccountKeys,
		ClusterDomain: s.cfg.Settings.ClusterDomain, URL: s.url(),
		Informers: func(client kubernetes.Interface) informers.SharedInformerFactory {
			s.admin, s.informers = client, apiserver.NewInformers(loopback, client)
			return s.informers
		},
	})(loopback)
	if err != nil {
		return nil, err
	}
	made.Connect = stream.New(stream.Config{
		Informers: s.informers, Client: s.admin, Authorizer: made.Authorizer, KubeletTLS: s.keys.KubeletTLS(), Logger: s.log.With("component", "apiserver"),
	}).Connect()
	return made, nil
}
