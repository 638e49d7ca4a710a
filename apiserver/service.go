package apiserver

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// The kubernetes Service in namespace default is how pods reach the API: its cluster IP is the first address of the service
// range, and its endpoints are this server. It belongs to the server: changes by others are put back when they are seen.
const kubernetesService = "kubernetes"

// keepKubernetesService puts the Service and its endpoints right whenever one of them changes.
func (s *Server) keepKubernetesService(ctx context.Context, client kubernetes.Interface) error {
	select {
	case <-s.bootstrapped:
	case <-ctx.Done():
		return nil
	}
	if !s.config.Advertise.IsValid() || len(s.config.ServiceCIDRs) == 0 {
		return nil
	}
	one := metav1.ListOptions{FieldSelector: "metadata.name=" + kubernetesService}
	watches := []func(context.Context) (watch.Interface, error){
		func(ctx context.Context) (watch.Interface, error) {
			return client.CoreV1().Services("default").Watch(ctx, one)
		},
	}
	if s.serves(endpointsResource) {
		watches = append(watches, func(ctx context.Context) (watch.Interface, error) {
			return client.CoreV1().Endpoints("default").Watch(ctx, one) //nolint:staticcheck // old clients read them
		})
	}
	if s.serves(slicesResource) {
		watches = append(watches, func(ctx context.Context) (watch.Interface, error) {
			return client.DiscoveryV1().EndpointSlices("default").Watch(ctx, one)
		})
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, open := range watches {
		group.Go(func() error {
			s.follow(ctx, "the kubernetes Service", open, func() error { return s.syncKubernetesService(ctx, client) })
			return nil
		})
	}
	return group.Wait()
}

// follow calls sync once and after each event of a watch that it keeps open until ctx ends. what is kept so is for the log.
func (s *Server) follow(ctx context.Context, what string, open func(context.Context) (watch.Interface, error), sync func() error) {
	pause := time.Second
	for ctx.Err() == nil {
		w, err := open(ctx)
		if err == nil {
			if err = sync(); err == nil {
				pause = time.Second
			}
			for range w.ResultChan() {
				if err = sync(); err != nil {
					break
				}
			}
			w.Stop()
		}
		if err != nil && ctx.Err() == nil {
			s.logger.Warn(what+" cannot be kept now", "error", err)
		}
		if wait(ctx, pause) != nil {
			return
		}
		pause = min(2*pause, time.Minute)
	}
}

var (
	endpointsResource = schema.GroupVersionResource{Version: "v1", Resource: "endpoints"}
	slicesResource    = schema.GroupVersionResource{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}
)

func (s *Server) serves(gvr schema.GroupVersionResource) bool {
	_, ok := s.endpoints[gvr]
	return ok
}

// syncKubernetesService makes the three objects what they must be.
func (s *Server) syncKubernetesService(ctx context.Context, client kubernetes.Interface) error {
	if !s.config.Advertise.IsValid() || len(s.config.ServiceCIDRs) == 0 {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	sync := func(what string, one func(context.Context, kubernetes.Interface) error) {
		group.Go(func() error {
			if err := one(ctx, client); err != nil {
				return fmt.Errorf("%s %s: %w", what, kubernetesService, err)
			}
			return nil
		})
	}
	sync("service", s.syncService)
	if s.serves(endpointsResource) {
		sync("endpoints", s.syncEndpoints)
	}
	if s.serves(slicesResource) {
		sync("endpointslice", s.syncSlice)
	}
	return group.Wait()
}

func (s *Server) syncService(ctx context.Context, client kubernetes.Interface) error {
	port := corev1.ServicePort{
		Name: "https", Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(int32(s.config.Advertise.Port())),
	}
	services := client.CoreV1().Services(metav1.NamespaceDefault)
	have, err := services.Get(ctx, kubernetesService, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = services.Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{
				Name: kubernetesService, Namespace: metav1.NamespaceDefault,
				Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"},
			},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeClusterIP, ClusterIP: firstAddress(s.config.ServiceCIDRs[0]).String(),
				SessionAffinity: corev1.ServiceAffinityNone, Ports: []corev1.ServicePort{port},
			},
		}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			err = nil
		}
		return err
	}
	if err != nil || len(have.Spec.Ports) == 1 && have.Spec.Ports[0] == port && have.Spec.Type == corev1.ServiceTypeClusterIP {
		return err
	}
	have.Spec.Type = corev1.ServiceTypeClusterIP
	have.Spec.Ports = []corev1.ServicePort{port}
	_, err = services.Update(ctx, have, metav1.UpdateOptions{})
	return err
}

// firstAddress is the address after the range's own.
func firstAddress(cidr netip.Prefix) netip.Addr { return cidr.Masked().Addr().Next() }

func (s *Server) syncEndpoints(ctx context.Context, client kubernetes.Interface) error {
	want := []corev1.EndpointSubset{{ //nolint:staticcheck // old clients read them
		Addresses: []corev1.EndpointAddress{{IP: s.config.Advertise.Addr().String()}},                                           //nolint:staticcheck // as above
		Ports:     []corev1.EndpointPort{{Name: "https", Port: int32(s.config.Advertise.Port()), Protocol: corev1.ProtocolTCP}}, //nolint:staticcheck // as above
	}}
	// The mirroring controller must leave it alone: the slice is written here as well.
	const skipMirror = discoveryv1.LabelSkipMirror
	endpoints := client.CoreV1().Endpoints(metav1.NamespaceDefault) //nolint:staticcheck // as above
	have, err := endpoints.Get(ctx, kubernetesService, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = endpoints.Create(ctx, &corev1.Endpoints{ //nolint:staticcheck // as above
			ObjectMeta: metav1.ObjectMeta{
				Name: kubernetesService, Namespace: metav1.NamespaceDefault, Labels: map[string]string{skipMirror: "true"},
			},
			Subsets: want,
		}, metav1.CreateOptions{})
		return err
	}
	if err != nil || equality.Semantic.DeepEqual(have.Subsets, want) && have.Labels[skipMirror] == "true" {
		return err
	}
	if have.Labels == nil {
		have.Labels = map[string]string{}
	}
	have.Labels[skipMirror] = "true"
	have.Subsets = want
	_, err = endpoints.Update(ctx, have, metav1.UpdateOptions{})
	return err
}

func (s *Server) syncSlice(ctx context.Context, client kubernetes.Interface) error {
	address := s.config.Advertise.Addr()
	family := discoveryv1.AddressTypeIPv4
	if address.Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	name, protocol, port, ready := "https", corev1.ProtocolTCP, int32(s.config.Advertise.Port()), true
	want := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: kubernetesService, Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{discoveryv1.LabelServiceName: kubernetesService},
		},
		AddressType: family,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{address.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Protocol: &protocol, Port: &port}},
	}
	slices := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	have, err := slices.Get(ctx, kubernetesService, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = slices.Create(ctx, want, metav1.CreateOptions{})
		return err
	case err != nil:
		return err
	case have.AddressType != family: // it cannot be changed
		return slices.Delete(ctx, kubernetesService, metav1.DeleteOptions{})
	case equality.Semantic.DeepEqual(have.Endpoints, want.Endpoints) && equality.Semantic.DeepEqual(have.Ports, want.Ports) &&
		have.Labels[discoveryv1.LabelServiceName] == kubernetesService:
		return nil
	}
	if have.Labels == nil {
		have.Labels = map[string]string{}
	}
	have.Labels[discoveryv1.LabelServiceName] = kubernetesService
	have.Endpoints, have.Ports = want.Endpoints, want.Ports
	_, err = slices.Update(ctx, have, metav1.UpdateOptions{})
	return err
}
