package stream

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/request"
)

// kubeletAnswer echoes what the kubelet or pod was asked.
func kubeletAnswer(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.URL.Path, "/waiting/") {
		http.Error(w, `container "c" in pod "waiting" is waiting to start: ContainerCreating`, http.StatusBadRequest)
		return
	}
	if strings.Contains(r.URL.Path, "/refused/") {
		http.Error(w, "no", http.StatusUnauthorized)
		return
	}
	if r.URL.Path == "/links" {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, `<a href="/elsewhere">`)
		return
	}
	fmt.Fprintf(w, "%s %s %s auth=%q", r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("Authorization"))
}

func streams(t *testing.T, kubelet, plain *httptest.Server, objects ...runtime.Object) *Streams {
	t.Helper()
	factory := informers.NewSharedInformerFactory(fake.NewClientset(objects...), 0)
	conf := kubelet.Client().Transport.(*http.Transport).TLSClientConfig
	s := New(Config{Informers: factory, KubeletTLS: conf, Logger: slog.New(slog.DiscardHandler),
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			to := plain.Listener.Addr().String()
			if strings.HasSuffix(address, ":10250") {
				to = kubelet.Listener.Addr().String()
			}
			return (&net.Dialer{}).DialContext(ctx, network, to)
		}})
	factory.Start(t.Context().Done())
	factory.WaitForCacheSync(t.Context().Done())
	return s
}

func testObjects() []runtime.Object {
	pod := func(name, node string, containers ...string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{PodIP: "192.0.2.7"}}
		for _, c := range containers {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: c, Ports: []corev1.ContainerPort{{ContainerPort: 8080}}})
		}
		return p
	}
	local := pod("local", "n", "c")
	local.Status.PodIP = "127.0.0.1"
	done := pod("done", "n", "c")
	done.Status.Phase = corev1.PodSucceeded
	port, name := int32(8080), "http"
	return []runtime.Object{
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}}}},
		pod("one", "n", "c"), pod("two", "n", "a", "b"), pod("pending", "", "c"), pod("waiting", "n", "c"), pod("lost", "gone", "c"), pod("refused", "n", "c"), local, done,
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "svc"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "empty"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}},
		&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "svc-1", Labels: map[string]string{discoveryv1.LabelServiceName: "svc"}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.7"}}}, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}}},
	}
}

func TestConnect(t *testing.T) {
	kubelet := httptest.NewTLSServer(http.HandlerFunc(kubeletAnswer))
	defer kubelet.Close()
	plain := httptest.NewServer(http.HandlerFunc(kubeletAnswer))
	defer plain.Close()
	connect := streams(t, kubelet, plain, testObjects()...).Connect()
	for name, tt := range map[string]struct {
		sub, object, path, query string
		code                     int
		want                     string
	}{
		"log":             {"pods/log", "one", "", "tailLines=3&follow=true&evil=1", 200, `GET /containerLogs/ns/one/c follow=true&tailLines=3 auth=""`},
		"log-named":       {"pods/log", "two", "", "container=b", 200, "GET /containerLogs/ns/two/b"},
		"log-which":       {"pods/log", "two", "", "", 400, "a container name must be specified for pod two, choose one of: [a b]"},
		"log-no-such":     {"pods/log", "one", "", "container=x", 400, "container x is not valid for pod one"},
		"log-no-pod":      {"pods/log", "none", "", "", 404, `"none" not found`},
		"log-unscheduled": {"pods/log", "pending", "", "", 204, ""},
		"log-negative":    {"pods/log", "one", "", "tailLines=-1", 422, "must be greater than or equal to 0"},
		"log-two-since":   {"pods/log", "one", "", "sinceSeconds=1&sinceTime=x", 422, "at most one of `sinceTime` or `sinceSeconds` may be specified"},
		"log-stream":      {"pods/log", "one", "", "stream=Both", 422, "Unsupported value"},
		"log-refused":     {"pods/log", "refused", "", "", 500, "the kubelet refuses the API server: no"},
		"exec-pending":    {"pods/exec", "pending", "", "command=ls", 400, "pod pending does not have a host assigned"},
		"pod-proxy-links": {"pods/proxy", "one", "/links", "", 200, `<a href="/x/elsewhere">`},
		"pod-proxy-local": {"pods/proxy", "local", "/", "", 503, "address not allowed"},
		"log-node-gone":   {"pods/log", "lost", "", "", 404, `node "gone" not found`},
		"log-waiting":     {"pods/log", "waiting", "", "", 400, "is waiting to start: ContainerCreating"},
		"exec":            {"pods/exec", "one", "", "command=ls&command=-l&stdin=true&stdout=1&tty=false", 200, "GET /exec/ns/one/c command=ls&command=-l&input=1&output=1"},
		"exec-nothing":    {"pods/exec", "one", "", "stdout=1", 400, "you must specify at least one command"},
		"exec-done":       {"pods/exec", "done", "", "command=ls", 400, "cannot exec or attach a container in a completed pod; current phase is Succeeded"},
		"attach":          {"pods/attach", "one", "", "stdout=true&stderr=true", 200, "GET /attach/ns/one/c error=1&output=1"},
		"portforward":     {"pods/portforward", "one", "", "ports=80", 200, "GET /portForward/ns/one port=80"},
		"pod-proxy":       {"pods/proxy", "one", "/a/b", "q=1", 200, "GET /a/b q=1"},
		"pod-proxy-slash": {"pods/proxy", "one", "", "", 301, "/x/"},
		"pod-proxy-port":  {"pods/proxy", "http:one:9", "/", "", 200, "GET / "},
		"service-proxy":   {"services/proxy", "svc", "/a", "", 200, "GET /a"},
		"service-by-name": {"services/proxy", "svc:http", "/a", "", 200, "GET /a"},
		"service-no-port": {"services/proxy", "svc:81", "/a", "", 503, `no service port "81" found for service "svc"`},
		"service-empty":   {"services/proxy", "empty", "/a", "", 503, `no endpoints available for service "empty"`},
		"node-proxy":      {"nodes/proxy", "n", "/metrics/resource", "", 200, "GET /metrics/resource"},
	} {
		t.Run(name, func(t *testing.T) {
			query, err := url.ParseQuery(tt.query)
			if err != nil {
				t.Fatal(err)
			}
			r := httptest.NewRequest("GET", "https://server/x"+tt.path+"?"+tt.query, nil).WithContext(t.Context())
			r.Header.Set("Authorization", "Bearer secret")
			w := httptest.NewRecorder()
			handler, err := connect[tt.sub](r.Context(), "ns", tt.object, registry.ConnectOptions{Method: "GET", Path: tt.path, Query: query})
			code, body := 0, ""
			if err != nil {
				status, ok := err.(interface{ Status() metav1.Status })
				if !ok {
					t.Fatalf("an error without a status: %v", err)
				}
				code, body = int(status.Status().Code), err.Error()
			} else {
				handler.ServeHTTP(w, r)
				b, err := io.ReadAll(w.Result().Body)
				if err != nil {
					t.Fatal(err)
				}
				code, body = w.Code, string(b)+w.Header().Get("Location")
			}
			if code != tt.code || !strings.Contains(strings.ReplaceAll(body, `\"`, `"`), tt.want) {
				t.Errorf("%d %s\nwant %d %s", code, body, tt.code, tt.want)
			}
			if strings.Contains(body, "secret") {
				t.Errorf("the user's credential went on: %s", body)
			}
		})
	}
}

// TestUpgrade passes a protocol switch through in both directions.
func TestUpgrade(t *testing.T) {
	kubelet := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Sec-Websocket-Protocol"); got != "v5.channel.k8s.io" {
			t.Errorf("protocols %q reached the kubelet", got)
		}
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		rw.Flush()
		line, _ := rw.ReadString('\n')
		fmt.Fprintf(rw, "you said %s", line)
		rw.Flush()
	}))
	defer kubelet.Close()
	s := streams(t, kubelet, kubelet, testObjects()...)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, err := s.Connect()["pods/exec"](r.Context(), "ns", "one", registry.ConnectOptions{Method: "GET", Query: r.URL.Query()})
		if err != nil {
			t.Error(err)
			return
		}
		h.ServeHTTP(w, r)
	}))
	defer front.Close()
	conn, err := net.Dial("tcp", front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /?command=sh HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Protocol: v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.c2VjcmV0\r\n\r\n")
	reader := bufio.NewReader(conn)
	answer, err := http.ReadResponse(reader, nil)
	if err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", answer, err)
	}
	fmt.Fprint(conn, "hello\n")
	if line, err := reader.ReadString('\n'); err != nil || line != "you said hello\n" {
		t.Errorf("%q, %v", line, err)
	}
}

// TestWebSocketNeedsCreate: reading rights are not enough to run commands, though a WebSocket begins with GET.
func TestWebSocketNeedsCreate(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(kubeletAnswer))
	defer server.Close()
	s := streams(t, server, server, testObjects()...)
	s.auth = authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		if a.GetVerb() == "create" && a.GetUser().GetName() == "ada" {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "", nil
	})
	for _, sub := range []string{"exec", "attach", "portforward"} {
		for who, want := range map[string]bool{"ada": true, "bob": false} {
			ctx := request.WithUser(t.Context(), &user.DefaultInfo{Name: who})
			_, err := s.Connect()["pods/"+sub](ctx, "ns", "one", registry.ConnectOptions{Method: "GET", Query: url.Values{"command": {"ls"}, "stdout": {"1"}}})
			if want != (err == nil) || err != nil && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `cannot create resource "pods/`+sub+`"`)) {
				t.Errorf("%s by %s: %v", sub, who, err)
			}
			if _, err := s.Connect()["pods/"+sub](ctx, "ns", "one", registry.ConnectOptions{Method: "POST", Query: url.Values{"command": {"ls"}, "stdout": {"1"}}}); err != nil {
				t.Errorf("POST %s by %s: %v", sub, who, err) // judged before
			}
		}
	}
}
