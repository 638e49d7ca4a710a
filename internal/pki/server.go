package pki

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"

	clientcmd "k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"
)

// ServerConfig says whom a server's certificates are for.
type ServerConfig struct {
	Dir           string // DATA-DIR/server/tls; made if missing
	ClusterDomain string // "cluster.local"
	NodeName      string // this server's; may be empty
	NodeIPs       []net.IP
	ServiceIP     net.IP   // of the Service default/kubernetes
	SANs          []string // more names and addresses (--tls-san)
	// Kubeconfig is the path of the cluster-admin's kubeconfig, and URL the server that it names. It is written by
	// OpenServer and again whenever its certificate is renewed. Empty: none is written.
	Kubeconfig, URL string
	Logger          *slog.Logger
}

// Server is all keys and certificates of one server. It is safe for concurrent use.
type Server struct {
	CA            *CA
	Serving       *Certificate // of the API server
	KubeletClient *Certificate // API server to kubelets
	Admin         *Certificate // group system:masters
	// ServiceAccountKeys verify ServiceAccount tokens; the first one signs them.
	ServiceAccountKeys []crypto.Signer

	config  ServerConfig
	mu      sync.Mutex
	clients map[string]*Certificate
	changed chan struct{} // a client was added while Run runs
}

// KubeletClientUser is the user that an API server is for a kubelet.
const KubeletClientUser = "kube-apiserver-kubelet-client"

// OpenServer loads or makes everything in config.Dir. It takes a few milliseconds.
func OpenServer(config ServerConfig) (*Server, error) {
	if config.Dir == "" || config.ClusterDomain == "" || config.Logger == nil {
		return nil, errors.New("pki: Dir, ClusterDomain and Logger must be set")
	}
	if config.Kubeconfig != "" && config.URL == "" {
		return nil, errors.New("pki: a Kubeconfig needs a URL")
	}
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, err
	}
	ca, err := OpenCA(config.Dir, "mini-ca")
	if err != nil {
		return nil, err
	}
	s := &Server{CA: ca, config: config, clients: map[string]*Certificate{}, changed: make(chan struct{}, 1)}
	if s.ServiceAccountKeys, err = openServiceAccountKeys(filepath.Join(config.Dir, "service-account.key")); err != nil {
		return nil, err
	}
	if s.Serving, err = s.keep("apiserver", config.servingSubject()); err != nil {
		return nil, err
	}
	// In no group: kubelets know it by name, and in the API it may do no more than system:kubelet-api-admin says.
	if s.KubeletClient, err = s.keep("apiserver-kubelet-client", Subject{CommonName: KubeletClientUser, Client: true}); err != nil {
		return nil, err
	}
	if s.Admin, err = s.keep("admin", Subject{CommonName: "kubernetes-admin", Organizations: []string{"system:masters"}, Client: true}); err != nil {
		return nil, err
	}
	return s, s.writeKubeconfig()
}

func (c *ServerConfig) servingSubject() Subject {
	names := []string{
		"localhost", c.NodeName,
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + c.ClusterDomain,
		"127.0.0.1", "::1",
	}
	dns, ips := ParseNames(append(names, c.SANs...)...)
	for _, ip := range append([]net.IP{c.ServiceIP}, c.NodeIPs...) {
		if ip != nil {
			ips = append(ips, ip)
		}
	}
	return Subject{CommonName: "kube-apiserver", DNSNames: dns, IPs: ips, Server: true}
}

// SetAddresses issues the serving certificate again for other node addresses, if they are other ones.
func (s *Server) SetAddresses(ips []net.IP) error {
	s.mu.Lock()
	s.config.NodeIPs = ips
	subject := s.config.servingSubject()
	s.mu.Unlock()
	return s.Serving.SetSubject(subject)
}

func (s *Server) keep(name string, subject Subject) (*Certificate, error) {
	c, err := s.CA.Keep(filepath.Join(s.config.Dir, name+".pem"), subject, 0, s.config.Logger)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", name, err)
	}
	return c, nil
}

// Client keeps one more certificate, in NAME.pem. The same name again gives the same Certificate, for the new subject.
func (s *Server) Client(name string, subject Subject) (*Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[name]; c != nil {
		return c, c.SetSubject(subject)
	}
	c, err := s.keep(name, subject)
	if err != nil {
		return nil, err
	}
	s.clients[name] = c
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return c, nil
}

// Run renews everything until ctx ends. It then returns nil.
func (s *Server) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		s.mu.Lock()
		all := []*Certificate{s.Serving, s.KubeletClient, s.Admin}
		for _, c := range s.clients {
			all = append(all, c)
		}
		s.mu.Unlock()
		round, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = keepCurrent(round, s.config.Logger, all, s.afterRenewal)
		}()
		select {
		case <-ctx.Done():
		case <-s.changed:
		}
		cancel()
		<-done
	}
	return nil
}

func (s *Server) afterRenewal(c *Certificate) {
	if c != s.Admin {
		return
	}
	if err := s.writeKubeconfig(); err != nil {
		s.config.Logger.Error("Cannot write kubeconfig", "path", s.config.Kubeconfig, "err", err)
	}
}

// ServingTLS is the configuration of the API server's listener. The chain that it presents has the CA in it, which is
// what joining agents compare with their token. Client certificates are asked for and not verified here: a bad one shall
// be answered with 401 by authentication, like any other bad credential.
func (s *Server) ServingTLS() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: s.Serving.GetCertificate,
		ClientAuth:     tls.RequestClientCert,
		ClientCAs:      s.CA.Pool(),
	}
}

// KubeletTLS is the configuration to reach kubelets with. The name to verify is the address that is dialled.
func (s *Server) KubeletTLS() *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS12,
		RootCAs:              s.CA.Pool(),
		GetClientCertificate: s.KubeletClient.GetClientCertificate,
	}
}

// AdminKubeconfig is a kubeconfig of the cluster-admin for a server's URL.
func (s *Server) AdminKubeconfig(url string) ([]byte, error) {
	pair := s.Admin.Current()
	key, err := EncodeKey(pair.PrivateKey.(crypto.Signer))
	if err != nil {
		return nil, err
	}
	return yaml.Marshal(clientcmd.Config{
		APIVersion: "v1",
		Kind:       "Config",
		Clusters: []clientcmd.NamedCluster{{Name: "mini", Cluster: clientcmd.Cluster{
			Server: url, CertificateAuthorityData: s.CA.PEM(),
		}}},
		AuthInfos: []clientcmd.NamedAuthInfo{{Name: "mini", AuthInfo: clientcmd.AuthInfo{
			ClientCertificateData: EncodeCertificates(pair.Certificate[0]), ClientKeyData: key,
		}}},
		Contexts:       []clientcmd.NamedContext{{Name: "mini", Context: clientcmd.Context{Cluster: "mini", AuthInfo: "mini"}}},
		CurrentContext: "mini",
	})
}

func (s *Server) writeKubeconfig() error {
	if s.config.Kubeconfig == "" {
		return nil
	}
	data, err := s.AdminKubeconfig(s.config.URL)
	if err != nil {
		return err
	}
	return WriteFile(s.config.Kubeconfig, data, false)
}

// openServiceAccountKeys loads all keys of the file, or makes the file with one.
func openServiceAccountKeys(path string) ([]crypto.Signer, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err := NewKey()
		if err != nil {
			return nil, err
		}
		if data, err = EncodeKey(key); err != nil {
			return nil, err
		}
		return []crypto.Signer{key}, WriteFile(path, data, true)
	}
	if err != nil {
		return nil, fmt.Errorf("ServiceAccount key: %w", err)
	}
	keys, err := parseKeys(data)
	if err != nil {
		return nil, fmt.Errorf("ServiceAccount key: %s: %w", path, err)
	}
	return keys, nil
}
