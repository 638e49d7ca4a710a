package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"

	"github.com/mini-k8s/mini/apiserver/registry"
)

// Config is what the streams need.
type Config struct {
	Informers informers.SharedInformerFactory
	// KubeletTLS is the API server's client certificate and the CA that kubelets' certificates must be of.
	KubeletTLS *tls.Config
	Logger     *slog.Logger
	// Client reads what the informers have not seen yet; nil takes their word.
	Client kubernetes.Interface
	// Authorizer judges WebSockets, which begin with GET, once more as the creates that they are; nil lets them pass.
	Authorizer authorizer.UnconditionalAuthorizer
	// Dial connects to kubelets and pods; nil is the network of this process.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Streams finds and connects the two ends.
type Streams struct {
	pods     corelisters.PodLister
	nodes    corelisters.NodeLister
	services corelisters.ServiceLister
	slices   discoverylisters.EndpointSliceLister
	client   kubernetes.Interface
	auth     authorizer.UnconditionalAuthorizer
	kubelets http.RoundTripper
	plain    http.RoundTripper
	logger   *slog.Logger
}

// New reads objects through the informers, which the caller starts.
func New(cfg Config) *Streams {
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	// Upgrades take a connection over, which HTTP/2 does not allow: an empty TLSNextProto keeps it out. Answers come as they
	// are made, so nothing is compressed on the way.
	transport := func(conf *tls.Config) *http.Transport {
		return &http.Transport{
			DialContext: cfg.Dial, TLSClientConfig: conf, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
			MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute, DisableCompression: true,
		}
	}
	core := cfg.Informers.Core().V1()
	return &Streams{
		pods: core.Pods().Lister(), nodes: core.Nodes().Lister(), services: core.Services().Lister(),
		slices: cfg.Informers.Discovery().V1().EndpointSlices().Lister(),
		client: cfg.Client, auth: cfg.Authorizer,
		kubelets: transport(cfg.KubeletTLS), logger: cfg.Logger,
		// A proxied pod's certificate is its own affair: nobody could know what to verify it by.
		plain: transport(&tls.Config{InsecureSkipVerify: true}), //nolint:gosec // see above
	}
}

// Connect is each subresource's function, by "RESOURCE/SUBRESOURCE".
func (s *Streams) Connect() map[string]registry.ConnectFunc {
	return map[string]registry.ConnectFunc{
		"pods/log": s.log, "pods/exec": s.exec("exec"), "pods/attach": s.exec("attach"), "pods/portforward": s.portForward,
		"pods/proxy": s.podProxy, "services/proxy": s.serviceProxy, "nodes/proxy": s.nodeProxy,
	}
}

// pod is the pod, bound to its node if it is by now: who was just told of a pod may be faster than the informer.
func (s *Streams) pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	pod, err := s.pods.Pods(namespace).Get(name)
	if s.client == nil || err == nil && pod.Spec.NodeName != "" {
		return pod, err
	}
	return s.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
}

// scheduled is the pod and the URL of its node's kubelet.
func (s *Streams) scheduled(ctx context.Context, namespace, name string) (*corev1.Pod, *url.URL, error) {
	pod, err := s.pod(ctx, namespace, name)
	if err != nil {
		return nil, nil, err
	}
	if pod.Spec.NodeName == "" {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", name))
	}
	kubelet, err := s.kubelet(pod.Spec.NodeName)
	return pod, kubelet, err
}

// kubelet is the URL of a node's kubelet.
func (s *Streams) kubelet(nodeName string) (*url.URL, error) {
	node, err := s.nodes.Get(nodeName)
	if err != nil {
		return nil, err
	}
	port := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	if port == 0 {
		port = 10250
	}
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return &url.URL{Scheme: "https", Host: net.JoinHostPort(a.Address, strconv.Itoa(int(port)))}, nil
		}
	}
	return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("node %s has no InternalIP yet", nodeName))
}

// container is the container that a request is for: the one it names, or the pod's only one.
func container(pod *corev1.Pod, name string) (string, error) {
	var names []string
	for _, c := range pod.Spec.Containers {
		names = append(names, c.Name)
	}
	if name == "" && len(names) == 1 {
		return names[0], nil
	}
	var inits, ephemeral []string
	for _, c := range pod.Spec.InitContainers {
		inits = append(inits, c.Name)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		ephemeral = append(ephemeral, c.Name)
	}
	if name == "" {
		message := fmt.Sprintf("a container name must be specified for pod %s, choose one of: %v", pod.Name, names)
		if len(inits) > 0 {
			message += fmt.Sprintf(" or one of the init containers: %v", inits)
		}
		if len(ephemeral) > 0 {
			message += fmt.Sprintf(" or one of the ephemeral containers: %v", ephemeral)
		}
		return "", apierrors.NewBadRequest(message)
	}
	for _, known := range append(append(names, inits...), ephemeral...) {
		if known == name {
			return name, nil
		}
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
}

// log serves pods/log. A pod that is on no node yet has said nothing.
func (s *Streams) log(ctx context.Context, namespace, name string, o registry.ConnectOptions) (http.Handler, error) {
	if err := validateLog(name, o.Query); err != nil {
		return nil, err
	}
	pod, err := s.pod(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	c, err := container(pod, o.Query.Get("container"))
	if err != nil {
		return nil, err
	}
	if pod.Spec.NodeName == "" {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }), nil
	}
	kubelet, err := s.kubelet(pod.Spec.NodeName)
	if err != nil {
		return nil, err
	}
	kubelet.Path = "/containerLogs/" + namespace + "/" + name + "/" + c
	query := url.Values{}
	for _, key := range []string{"follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"} {
		if v, ok := o.Query[key]; ok {
			query[key] = v
		}
	}
	kubelet.RawQuery = query.Encode()
	return overWebSocket(s.toKubelet(kubelet)), nil
}

// exec serves exec and attach: the options take the kubelet's names.
func (s *Streams) exec(action string) registry.ConnectFunc {
	return func(ctx context.Context, namespace, name string, o registry.ConnectOptions) (http.Handler, error) {
		if err := s.mayUpgrade(ctx, namespace, name, action, o); err != nil {
			return nil, err
		}
		pod, kubelet, err := s.scheduled(ctx, namespace, name)
		if err != nil {
			return nil, err
		}
		c, err := container(pod, o.Query.Get("container"))
		if err != nil {
			return nil, err
		}
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("cannot exec or attach a container in a completed pod; current phase is %s", pod.Status.Phase))
		}
		query := url.Values{}
		for ours, theirs := range map[string]string{"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"} {
			if on, _ := strconv.ParseBool(o.Query.Get(ours)); on {
				query.Set(theirs, "1")
			}
		}
		if action == "exec" {
			query["command"] = o.Query["command"]
			if len(query["command"]) == 0 {
				return nil, apierrors.NewBadRequest("you must specify at least one command for the container")
			}
		}
		kubelet.Path = "/" + action + "/" + namespace + "/" + name + "/" + c
		kubelet.RawQuery = query.Encode()
		return s.toKubelet(kubelet), nil
	}
}

func (s *Streams) portForward(ctx context.Context, namespace, name string, o registry.ConnectOptions) (http.Handler, error) {
	if err := s.mayUpgrade(ctx, namespace, name, "portforward", o); err != nil {
		return nil, err
	}
	_, kubelet, err := s.scheduled(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	query := url.Values{}
	if ports := o.Query["ports"]; len(ports) > 0 {
		query["port"] = ports
	}
	kubelet.Path = "/portForward/" + namespace + "/" + name
	kubelet.RawQuery = query.Encode()
	return s.toKubelet(kubelet), nil
}

// toKubelet passes the request to a kubelet's URL and its answer back, upgrades included. An error of the kubelet comes as
// plain text and is sent as the Status that clients expect.
func (s *Streams) toKubelet(target *url.URL) http.Handler {
	return &httputil.ReverseProxy{
		Transport: s.kubelets, FlushInterval: -1, ErrorLog: slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL, r.Out.Host = target, target.Host
			dropCredentials(r.Out.Header)
		},
		ModifyResponse: func(resp *http.Response) error {
			if resp.StatusCode < http.StatusBadRequest {
				return nil
			}
			text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
			if err != nil {
				return err
			}
			resp.Body.Close()
			if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
				// It is the API server that the kubelet refuses: the client must not take it for itself.
				return kubeletError{http.StatusInternalServerError, "the kubelet refuses the API server: " + strings.TrimSpace(string(text))}
			}
			return kubeletError{resp.StatusCode, strings.TrimSpace(string(text))}
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { s.fail(w, r, target, err) },
	}
}

// dropCredentials takes away what is between the user and the API server.
func dropCredentials(h http.Header) {
	for name := range h {
		if name == "Authorization" || strings.HasPrefix(name, "Impersonate-") {
			delete(h, name)
		}
	}
	// A token may come as a WebSocket subprotocol (base64url.bearer.authorization.k8s.io.TOKEN).
	var kept []string
	for _, v := range h.Values("Sec-Websocket-Protocol") {
		for _, p := range strings.Split(v, ",") {
			if p = strings.TrimSpace(p); !strings.HasPrefix(p, "base64url.bearer.authorization.k8s.io.") {
				kept = append(kept, p)
			}
		}
	}
	if len(kept) > 0 {
		h.Set("Sec-Websocket-Protocol", strings.Join(kept, ", "))
	}
}

// kubeletError is a kubelet's answer that is not a success.
type kubeletError struct {
	code int
	text string
}

func (e kubeletError) Error() string { return e.text }

func (s *Streams) fail(w http.ResponseWriter, r *http.Request, target *url.URL, err error) {
	status := apierrors.NewInternalError(fmt.Errorf("error dialing backend: %w", err)).ErrStatus
	var answer kubeletError
	switch {
	case r.Context().Err() != nil:
		return // the client has gone
	case errors.As(err, &answer):
		status = metav1.Status{Status: metav1.StatusFailure, Code: int32(answer.code), Message: answer.text, Reason: reason(answer.code)}
	default:
		s.logger.Warn("a node could not be reached for a stream", "to", target.Host, "err", err)
	}
	status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	writeStatus(w, &status)
}

func reason(code int) metav1.StatusReason {
	switch code {
	case http.StatusBadRequest:
		return metav1.StatusReasonBadRequest
	case http.StatusNotFound:
		return metav1.StatusReasonNotFound
	case http.StatusUnauthorized:
		return metav1.StatusReasonUnauthorized
	case http.StatusForbidden:
		return metav1.StatusReasonForbidden
	case http.StatusInternalServerError:
		return metav1.StatusReasonInternalError
	}
	return metav1.StatusReasonUnknown
}

// endpointReady says whether a proxied request may go there.
func endpointReady(e *discoveryv1.Endpoint) bool {
	return e.Conditions.Ready == nil || *e.Conditions.Ready
}
