package apiserver

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/mini-k8s/mini/apiserver/registry/apiregistration"
)

var apiServices = apiregistrationv1.SchemeGroupVersion.WithResource("apiservices")

// makeAPIServices makes, once the server is up, the APIService of each built-in group and version, as upstream does when it
// starts; one that is there stays as it is.
func (s *Server) makeAPIServices(ctx context.Context) error {
	select {
	case <-s.bootstrapped:
	case <-ctx.Done():
		return nil
	}
	client, err := dynamic.NewForConfig(s.LoopbackConfig())
	if err != nil {
		return fmt.Errorf("apiservices: %w", err)
	}
	services := client.Resource(apiServices)
	made := map[schema.GroupVersion]bool{}
	group, ctx := errgroup.WithContext(ctx)
	for i := range s.rows {
		gv := s.rows[i].GVK.GroupVersion()
		service := apiregistration.Local(gv)
		if made[gv] || service == nil {
			continue
		}
		made[gv] = true
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(service)
		if err != nil {
			return fmt.Errorf("apiservice %s: %w", service.Name, err)
		}
		group.Go(func() error {
			return s.untilDone(ctx, func(ctx context.Context) error {
				_, err := services.Create(ctx, &unstructured.Unstructured{Object: content}, metav1.CreateOptions{})
				return unlessThere(err)
			})
		})
	}
	group.Wait() //nolint:errcheck // each goes on until it succeeds or the server ends
	return nil
}
