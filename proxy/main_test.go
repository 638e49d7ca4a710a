package proxy

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/internal/netns/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, nil))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

var (
	prefix  = netip.MustParsePrefix
	addr    = netip.MustParseAddr
	cluster = prefix("10.42.0.0/16")
)

// service makes a Service with one TCP port; edit changes it further.
func service(name, ip string, port, nodePort int32, edit ...func(*corev1.Service)) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec: corev1.ServiceSpec{
			ClusterIP: ip,
			Ports:     []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: port, NodePort: nodePort}},
		},
	}
	if nodePort != 0 {
		svc.Spec.Type = corev1.ServiceTypeNodePort
	}
	for _, e := range edit {
		e(svc)
	}
	return svc
}

// ep is an endpoint of a slice: an address, where it is, and how it is.
type ep struct {
	ip, node                       string
	notReady, serving, terminating bool
}

func slice(name, suffix string, port int32, eps ...ep) *discoveryv1.EndpointSlice {
	return namedSlice(name, suffix, "", corev1.ProtocolTCP, port, eps...)
}

func namedSlice(name, suffix, portName string, proto corev1.Protocol, port int32, eps ...ep) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: name + suffix, Labels: map[string]string{discoveryv1.LabelServiceName: name},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: &proto}},
	}
	for _, e := range eps {
		ready, serving := !e.notReady, e.serving || !e.notReady
		out := discoveryv1.Endpoint{
			Addresses:  []string{e.ip},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &e.terminating},
		}
		if e.node != "" {
			out.NodeName = &e.node
		}
		s.Endpoints = append(s.Endpoints, out)
	}
	return s
}
