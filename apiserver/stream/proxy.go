package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	utilproxy "k8s.io/apimachinery/pkg/util/proxy"

	"github.com/mini-k8s/mini/apiserver/registry"
)

// podProxy serves pods/[SCHEME:]NAME[:PORT]/proxy/PATH.
func (s *Streams) podProxy(ctx context.Context, namespace, id string, o registry.ConnectOptions) (http.Handler, error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q", id))
	}
	pod, err := s.pod(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	if pod.Status.PodIP == "" {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("pod %s has no address yet", name))
	}
	if port == "" {
		for _, c := range pod.Spec.Containers {
			if len(c.Ports) > 0 {
				port = strconv.Itoa(int(c.Ports[0].ContainerPort))
				break
			}
		}
	}
	return s.proxy(target(scheme, pod.Status.PodIP, port), o), nil
}

// serviceProxy serves services/[SCHEME:]NAME[:PORT]/proxy/PATH by any ready endpoint; PORT is a name or number of the Service's.
func (s *Streams) serviceProxy(_ context.Context, namespace, id string, o registry.ConnectOptions) (http.Handler, error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid service request %q", id))
	}
	service, err := s.services.Services(namespace).Get(name)
	if err != nil {
		return nil, err
	}
	portName, err := servicePort(service, port)
	if err != nil {
		return nil, err
	}
	all, err := s.slices.EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name}))
	if err != nil {
		return nil, err
	}
	var ready []*url.URL
	for _, slice := range all {
		for _, p := range slice.Ports {
			if p.Port == nil || p.Name == nil || *p.Name != portName {
				continue
			}
			for i := range slice.Endpoints {
				if e := &slice.Endpoints[i]; endpointReady(e) && len(e.Addresses) > 0 {
					ready = append(ready, target(scheme, e.Addresses[0], strconv.Itoa(int(*p.Port))))
				}
			}
		}
	}
	if len(ready) == 0 {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", id))
	}
	return s.proxy(ready[rand.IntN(len(ready))], o), nil
}

// servicePort is the name of the Service's port that a request means.
func servicePort(service *corev1.Service, port string) (string, error) {
	if port == "" && len(service.Spec.Ports) == 1 {
		return service.Spec.Ports[0].Name, nil
	}
	for _, p := range service.Spec.Ports {
		if p.Name == port || strconv.Itoa(int(p.Port)) == port {
			return p.Name, nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %q found for service %q", port, service.Name))
}

// nodeProxy serves nodes/NAME/proxy/PATH by the node's kubelet.
func (s *Streams) nodeProxy(_ context.Context, _, id string, o registry.ConnectOptions) (http.Handler, error) {
	_, name, _, ok := utilnet.SplitSchemeNamePort(id)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q", id))
	}
	kubelet, err := s.kubelet(name)
	if err != nil {
		return nil, err
	}
	kubelet.Path, kubelet.RawQuery = o.Path, o.Query.Encode()
	return s.toKubelet(kubelet), nil
}

func target(scheme, host, port string) *url.URL {
	if scheme == "" {
		scheme = "http"
	}
	if port != "" {
		host = net.JoinHostPort(host, port)
	} else if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return &url.URL{Scheme: scheme, Host: host}
}

// proxy passes a request on with the path below the subresource. Without any path the client is sent to the one with a slash,
// since relative links in what it gets would lead nowhere.
func (s *Streams) proxy(to *url.URL, o registry.ConnectOptions) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if o.Path == "" && (r.Method == http.MethodGet || r.Method == http.MethodHead) && !strings.HasSuffix(r.URL.Path, "/") {
			there := *r.URL
			there.Path += "/"
			http.Redirect(w, r, there.RequestURI(), http.StatusMovedPermanently)
			return
		}
		if err := proxyable(to.Hostname()); err != nil {
			writeStatus(w, &err.ErrStatus)
			return
		}
		to.Path, to.RawQuery = "/"+strings.TrimPrefix(o.Path, "/"), r.URL.RawQuery
		transport := s.plain
		if r.Header.Get("Upgrade") == "" {
			// Links and redirects in the answers lead back through here.
			transport = &utilproxy.Transport{
				PathPrepend: strings.TrimSuffix(strings.TrimSuffix(r.URL.Path, o.Path), "/"), RoundTripper: s.plain,
			}
		}
		(&httputil.ReverseProxy{
			Transport: transport, FlushInterval: -1, ErrorLog: slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
			Rewrite: func(p *httputil.ProxyRequest) {
				p.Out.URL, p.Out.Host = to, to.Host
				dropCredentials(p.Out.Header)
				p.SetXForwarded()
			},
			ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
				status := apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach service: %v", err)).ErrStatus
				status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
				writeStatus(w, &status)
			},
		}).ServeHTTP(w, r)
	})
}

// proxyable refuses addresses that mean the API server's own machine or link: pods and endpoints are named by others.
func proxyable(address string) *apierrors.StatusError {
	ip, err := netip.ParseAddr(address)
	if ip = ip.Unmap(); err == nil && !ip.IsLoopback() && !ip.IsUnspecified() && !ip.IsLinkLocalUnicast() && !ip.IsMulticast() {
		return nil
	}
	refused := apierrors.NewServiceUnavailable("address not allowed")
	refused.ErrStatus.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	return refused
}

func writeStatus(w http.ResponseWriter, status *metav1.Status) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(status.Code))
	_ = json.NewEncoder(w).Encode(status) // the client may have gone
}
