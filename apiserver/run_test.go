package apiserver_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	clientrest "k8s.io/client-go/rest"

	"github.com/mini-k8s/mini/apiserver"
	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/request"
)

// TestShutdown checks that a server with open watches, on the network and in-process, ends at once and ends them.
func TestShutdown(t *testing.T) {
	c := start(t)
	events := c.watch(t, maps+"?watch=true")
	client, err := kubernetes.NewForConfig(c.LoopbackConfig())
	if err != nil {
		t.Fatal(err)
	}
	inside, err := client.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	c.stop()
	for range inside.ResultChan() {
	}
	for range events {
	}
	if took := time.Since(begun); took >= 4*time.Second { // then what was open is cut off
		t.Errorf("it took %v", took)
	}
}

// TestKubernetesService checks that the server puts its own Service and endpoints back.
func TestKubernetesService(t *testing.T) {
	c := start(t)
	ctx := t.Context()
	service, err := c.client.CoreV1().Services("default").Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil || service.Spec.ClusterIP != "10.43.0.1" || service.Spec.Ports[0].TargetPort.IntValue() != 6443 {
		t.Fatalf("%+v %v", service, err)
	}
	endpoints := func() string {
		e, err := c.client.CoreV1().Endpoints("default").Get(ctx, "kubernetes", metav1.GetOptions{}) //nolint:staticcheck // old clients read them
		if err != nil || len(e.Subsets) != 1 {
			return fmt.Sprint(err)
		}
		return fmt.Sprintf("%s:%d", e.Subsets[0].Addresses[0].IP, e.Subsets[0].Ports[0].Port)
	}
	slice := func() string {
		e, err := c.client.DiscoveryV1().EndpointSlices("default").Get(ctx, "kubernetes", metav1.GetOptions{})
		if err != nil || len(e.Endpoints) != 1 {
			return fmt.Sprint(err)
		}
		return fmt.Sprintf("%s:%d", e.Endpoints[0].Addresses[0], *e.Ports[0].Port)
	}
	eventually(t, "endpoints", func() bool { return endpoints() == "192.0.2.1:6443" && slice() == "192.0.2.1:6443" })

	old := service.UID
	for _, remove := range []func(context.Context, string, metav1.DeleteOptions) error{
		c.client.CoreV1().Services("default").Delete, c.client.CoreV1().Endpoints("default").Delete, c.client.DiscoveryV1().EndpointSlices("default").Delete, //nolint:staticcheck // as above
	} {
		if err := remove(ctx, "kubernetes", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "endpoints again", func() bool { return endpoints() == "192.0.2.1:6443" && slice() == "192.0.2.1:6443" })
	eventually(t, "service again", func() bool {
		s, err := c.client.CoreV1().Services("default").Get(ctx, "kubernetes", metav1.GetOptions{})
		return err == nil && s.UID != old && s.Spec.ClusterIP == "10.43.0.1"
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not so after 30 s", what)
		}
	}
}

// TestConnect checks that a streaming subresource gets the request and streams its answer, over each transport.
func TestConnect(t *testing.T) {
	hold := make(chan struct{})
	c := start(t, func(config *apiserver.Config) {
		plugins := config.Plugins
		config.Plugins = func(loopback *clientrest.Config) (*apiserver.Plugins, error) {
			p, err := plugins(loopback)
			p.Connect = map[string]registry.ConnectFunc{
				"pods/log": func(ctx context.Context, namespace, name string, opts registry.ConnectOptions) (http.Handler, error) {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						fmt.Fprintf(w, "%s/%s %s of %s\n", namespace, name, opts.Query.Get("container"), request.UserFrom(ctx).GetName())
						http.NewResponseController(w).Flush() //nolint:errcheck // the test reads what was flushed
						select {
						case <-hold:
						case <-r.Context().Done():
						}
						io.WriteString(w, "end\n") //nolint:errcheck // as above
					}), nil
				},
			}
			return p, err
		}
	})
	inside, err := kubernetes.NewForConfig(c.LoopbackConfig())
	if err != nil {
		t.Fatal(err)
	}
	var streams []io.ReadCloser
	for client, user := range map[kubernetes.Interface]string{c.client: "admin", inside: "system:apiserver"} {
		stream, err := client.CoreV1().Pods("n").GetLogs("p", &corev1.PodLogOptions{Container: "c"}).Stream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		first := make([]byte, len("n/p c of "+user+"\n"))
		if _, err := io.ReadFull(stream, first); err != nil || string(first) != "n/p c of "+user+"\n" {
			t.Errorf("%q %v", first, err)
		}
		streams = append(streams, stream)
	}
	close(hold)
	for _, s := range streams {
		if rest := readAll(t, s); rest != "end\n" {
			t.Errorf("%q", rest)
		}
	}
}

// TestHTTP2 checks that one connection carries many requests.
func TestHTTP2(t *testing.T) {
	c := start(t)
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true} //nolint:gosec // the test's own server
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get(c.URL + "/version")
	if err != nil {
		t.Fatal(err)
	}
	if body := readAll(t, resp.Body); resp.ProtoMajor != 2 || !strings.Contains(body, "gitVersion") {
		t.Errorf("%s %s", resp.Proto, body)
	}
}
