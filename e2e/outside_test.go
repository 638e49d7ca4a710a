package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/cluster"
	"github.com/mini-k8s/mini/cni"
	"github.com/mini-k8s/mini/e2e/scenario"
	"github.com/mini-k8s/mini/internal/pki"
	"github.com/mini-k8s/mini/kubelet/container"
	"github.com/mini-k8s/mini/store"
)

// TestExternalEtcd: a server keeps its objects in an etcd that it does not run, over TLS with a client certificate; it waits for
// one that is not there yet, and a new server on the same etcd knows everything.
func TestExternalEtcd(t *testing.T) {
	dir := scenario.TempDir(t)
	cert, files := etcdCertificates(t, dir)
	c := scenario.Start(t, scenario.Options{
		Dir:        dir,
		ServerArgs: []string{"--etcd-endpoints", "https://127.0.0.1:2379", "--etcd-cafile", files.ca, "--etcd-certfile", files.cert, "--etcd-keyfile", files.key},
		Created: func(c *cluster.Cluster) error {
			scenario.Eventually(t, 60*time.Second, func() error {
				log, err := os.ReadFile(c.LogFile("server"))
				if err != nil {
					return err
				}
				return contains(string(log), "etcd does not answer, trying again")
			})
			return serveEtcd(t, c, filepath.Join(dir, "etcd"), cert)
		},
	})
	if _, err := os.Stat(filepath.Join(c.DataDir("server"), "server", "etcd")); err == nil {
		t.Error("the server has an etcd of its own as well")
	}
	c.Apply(fmt.Sprintf(web, 1))
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	before := containersOf(t, c, "web")
	if err := c.Kill(t.Context(), "server"); err != nil {
		t.Fatal(err)
	}
	if err := c.Cluster.Start(t.Context(), "server"); err != nil {
		t.Fatal(err)
	}
	c.Eventually(60*time.Second, func() error {
		_, err := c.Client.AppsV1().Deployments("default").Get(t.Context(), "web", metav1.GetOptions{})
		return err
	})
	if err := c.WaitReady(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for id := range containersOf(t, c, "web") {
		if _, same := before[id]; !same {
			t.Errorf("container %s is another one than before the kill: %v", id, before)
		}
	}
}

// etcdFiles are what a client of the etcd is given.
type etcdFiles struct{ ca, cert, key string }

// etcdCertificates makes the configuration of etcd's end, and the files for a client.
func etcdCertificates(t *testing.T, dir string) (*tls.Config, etcdFiles) {
	t.Helper()
	keys, err := pki.OpenServer(pki.ServerConfig{
		Dir: filepath.Join(dir, "etcd-tls"), ClusterDomain: "cluster.local", NodeName: "etcd", NodeIPs: []net.IP{net.IPv4(127, 0, 0, 1)},
		ServiceIP: net.IPv4(127, 0, 0, 1), Kubeconfig: filepath.Join(dir, "etcd-tls", "kubeconfig"), URL: "https://127.0.0.1:2379",
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	files := etcdFiles{filepath.Join(dir, "ca.pem"), filepath.Join(dir, "client.pem"), filepath.Join(dir, "client.pem")}
	if err := os.WriteFile(files.ca, keys.CA.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.CA.Keep(files.cert, pki.Subject{CommonName: "mini", Client: true}, 0, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	serving, err := keys.CA.Keep(filepath.Join(dir, "serving.pem"), pki.Subject{
		CommonName: "etcd", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Server: true,
	}, 0, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(keys.CA.PEM())
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, GetCertificate: serving.GetCertificate,
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
	}, files
}

// serveEtcd runs an etcd in this process, and serves it to the server's node at 127.0.0.1:2379.
func serveEtcd(t *testing.T, c *cluster.Cluster, dir string, conf *tls.Config) error {
	socket := filepath.Join(dir, "socket")
	s, err := store.Open(t.Context(), store.Config{DataDir: filepath.Join(dir, "data"), Socket: socket, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("etcd: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	var l net.Listener
	if err := c.Do("server", func() (err error) { l, err = tls.Listen("tcp4", "127.0.0.1:2379", conf); return err }); err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { join(ctx, conn, socket) })
		}
	})
	return nil
}

// join copies between a connection and a unix socket until one of them ends.
func join(ctx context.Context, conn net.Conn, socket string) {
	defer conn.Close()
	far, err := net.Dial("unix", socket)
	if err != nil {
		return
	}
	defer far.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(conn, far) // its end is the other's
		conn.Close()
	})
	_, _ = io.Copy(far, conn)
	far.Close()
	back.Wait()
}

// TestContainerdSocket: a node runs its pods on a containerd that it does not run, which outlives it.
func TestContainerdSocket(t *testing.T) {
	dir := scenario.TempDir(t) // not the cluster's, which it outlives
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	runtime, err := container.New(container.Config{DataDir: dir, Network: noNetwork{}, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() {
		if err := runtime.Run(ctx); err != nil {
			t.Errorf("containerd: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-runtime.Ready():
	case <-time.After(time.Minute):
		t.Fatal("containerd is not ready")
	}
	socket, err := filepath.Glob(filepath.Join(dir, "agent", "containerd", "s", "containerd.sock"))
	if err != nil || len(socket) != 1 {
		t.Fatalf("containerd's socket: %v, %v", socket, err)
	}
	c := scenario.Start(t, scenario.Options{NodeArgs: []string{"--containerd-socket", socket[0]}})
	c.Apply(fmt.Sprintf(web, 2))
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	names, _ := podsOf(t, c, "web")
	vip := c.Kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	meetsAll(c, "VIP", names, func() (string, error) { return c.Get("server", "http://"+vip) })
	if out := c.Kubectl("exec", names[0], "--", "echo", "hi"); out != "hi\n" {
		t.Errorf("exec printed %q", out)
	}
	if _, err := os.Stat(filepath.Join(c.DataDir("server"), "agent", "containerd", "s", "containerd.sock")); err == nil {
		t.Error("the node runs a containerd of its own as well")
	}
	before := containersOf(t, c, "web")
	if err := c.Kill(t.Context(), "server"); err != nil {
		t.Fatal(err)
	}
	if err := c.Cluster.Start(t.Context(), "server"); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	// An exit is seen by the containerd outside and told to the new mini.
	c.Eventually(60*time.Second, func() error {
		_, err := c.TryKubectl(20*time.Second, "exec", names[0], "--", "sh", "-c", "kill -9 1; kill 1")
		p, gerr := c.Client.CoreV1().Pods("default").Get(t.Context(), names[0], metav1.GetOptions{})
		if gerr != nil {
			return gerr
		}
		return restartedOnce(p, err)
	})
	for id := range containersOf(t, c, "web") {
		delete(before, id)
	}
	if len(before) > 1 {
		t.Errorf("these containers did not outlive mini: %v", before)
	}
	c.Kubectl("delete", "deployment/web", "service/web", "--timeout=60s")
	c.Kubectl("wait", "--for=delete", "pod", "-l", "app=web", "--timeout=60s")
}

func restartedOnce(p *corev1.Pod, err error) error {
	for _, s := range p.Status.ContainerStatuses {
		if s.RestartCount > 0 {
			return nil
		}
	}
	return fmt.Errorf("pod %s was not restarted (%w)", p.Name, err)
}

// noNetwork is for a containerd whose pods are somebody else's.
type noNetwork struct{}

func (noNetwork) Add(context.Context, cni.Pod) (cni.Result, error) { return cni.Result{}, nil }
func (noNetwork) Del(context.Context, cni.Pod) error               { return nil }
func (noNetwork) Prune(context.Context, []string) error            { return nil }
