package apiserver

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/mini-k8s/mini/apiserver/registry/scheduling"
)

// makeFirstObjects makes the objects that upstream's server makes at its start. Those that are there stay as they are.
func (s *Server) makeFirstObjects(ctx context.Context, client kubernetes.Interface) error {
	group, ctx := errgroup.WithContext(ctx) // at once, as each waits for the disk
	for _, class := range scheduling.System() {
		group.Go(func() error {
			_, err := client.SchedulingV1().PriorityClasses().Create(ctx, class, metav1.CreateOptions{})
			return unlessThere(err)
		})
	}
	group.Go(func() error {
		if err := s.makeServiceCIDR(ctx, client); err != nil {
			return fmt.Errorf("servicecidr %s: %w", kubernetesService, err)
		}
		return nil
	})
	return group.Wait()
}

func unlessThere(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// keepServiceCIDR makes the ServiceCIDR anew when it has been deleted.
func (s *Server) keepServiceCIDR(ctx context.Context, client kubernetes.Interface) error {
	select {
	case <-s.bootstrapped:
	case <-ctx.Done():
		return nil
	}
	if len(s.config.ServiceCIDRs) == 0 {
		return nil
	}
	s.follow(ctx, "the kubernetes ServiceCIDR", func(ctx context.Context) (watch.Interface, error) {
		return client.NetworkingV1().ServiceCIDRs().Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + kubernetesService})
	}, func() error { return s.makeServiceCIDR(ctx, client) })
	return nil
}

// makeServiceCIDR publishes the ranges of this server's configuration as the ServiceCIDR "kubernetes", which is Ready while
// it says the same as the server's own configuration (KEP-1880).
func (s *Server) makeServiceCIDR(ctx context.Context, client kubernetes.Interface) error {
	if len(s.config.ServiceCIDRs) == 0 {
		return nil
	}
	var ranges []string
	for _, r := range s.config.ServiceCIDRs {
		ranges = append(ranges, r.Masked().String())
	}
	cidrs := client.NetworkingV1().ServiceCIDRs()
	have, err := cidrs.Get(ctx, kubernetesService, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		have, err = cidrs.Create(ctx, &networkingv1.ServiceCIDR{
			ObjectMeta: metav1.ObjectMeta{Name: kubernetesService}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: ranges},
		}, metav1.CreateOptions{})
	}
	if err == nil && len(have.Spec.CIDRs) == 1 && len(ranges) == 2 && have.Spec.CIDRs[0] == ranges[0] { // a second family was added
		have.Spec.CIDRs = ranges
		have, err = cidrs.Update(ctx, have, metav1.UpdateOptions{})
	}
	if err != nil || have.DeletionTimestamp != nil {
		return err
	}
	if !slices.Equal(have.Spec.CIDRs, ranges) {
		s.logger.Warn("the ServiceCIDR kubernetes is not what --service-cidr says; addresses come from the ranges of both: delete the object to have it made anew",
			"object", have.Spec.CIDRs, "flag", ranges)
		return nil
	}
	if c := meta.FindStatusCondition(have.Status.Conditions, networkingv1.ServiceCIDRConditionReady); c != nil && c.Status != metav1.ConditionUnknown {
		return nil
	}
	meta.SetStatusCondition(&have.Status.Conditions, metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: "Kubernetes default Service CIDR is ready",
	})
	_, err = cidrs.UpdateStatus(ctx, have, metav1.UpdateOptions{})
	return err
}
