package apiserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/mini-k8s/mini/apiserver/customresource"
	"github.com/mini-k8s/mini/apiserver/registry/apiregistration"
	"github.com/mini-k8s/mini/store"
)

// customVersions are the groups and versions of custom resources that are served now.
type customVersions struct {
	changed chan struct{} // of capacity 1: there is something to look at

	mu     sync.Mutex
	served map[schema.GroupVersion]bool // nil until the definitions have been read
}

func (c *customVersions) set(served []customresource.Served) {
	next := map[schema.GroupVersion]bool{}
	for _, s := range served {
		next[s.Row.GVK.GroupVersion()] = true
	}
	c.mu.Lock()
	c.served = next
	c.mu.Unlock()
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// get returns a copy without the versions of built-in groups, which have APIServices of their own; nil if nothing is known yet.
func (c *customVersions) get(builtin map[schema.GroupVersion]bool) map[schema.GroupVersion]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	served := maps.Clone(c.served)
	maps.DeleteFunc(served, func(gv schema.GroupVersion, _ bool) bool { return builtin[gv] })
	return served
}

// keepCustomAPIServices has an APIService for each group and version of custom resources as long as it is served, as
// upstream's registration of definitions does. It acts on the changes of either.
func (s *Server) keepCustomAPIServices(ctx context.Context) error {
	select {
	case <-s.bootstrapped:
	case <-ctx.Done():
		return nil
	}
	client, err := dynamic.NewForConfig(s.LoopbackConfig())
	if err != nil {
		return fmt.Errorf("apiservices: %w", err)
	}
	builtin := map[schema.GroupVersion]bool{}
	for i := range s.rows {
		builtin[s.rows[i].GVK.GroupVersion()] = true
	}
	services := client.Resource(apiServices)
	for ctx.Err() == nil {
		if err := s.followAPIServices(ctx, services, builtin); err != nil && ctx.Err() == nil {
			s.logger.Warn("the APIServices of custom resources cannot be kept now", "error", err)
		}
		if wait(ctx, time.Second) != nil {
			break
		}
	}
	return nil
}

// followAPIServices compares and acts until the watch of APIServices ends.
func (s *Server) followAPIServices(ctx context.Context, services dynamic.ResourceInterface, builtin map[schema.GroupVersion]bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watching, err := s.collection(apiregistration.Key, apiregistration.Kind).Watch(ctx, store.WatchOptions{InitialEvents: true, Bookmarks: true})
	if err != nil {
		return err
	}
	events := watching.Events()
	have, complete := map[string]*apiregistrationv1.APIService{}, false
	retry, pause := time.NewTimer(0), time.Duration(0)
	defer retry.Stop()
	for {
		select {
		case e, ok := <-events:
			for more := true; more; { // what has come in together is looked at together
				if !ok {
					return nil
				}
				switch e.Type {
				case store.Failed:
					return e.Err
				case store.Deleted:
					delete(have, e.Item.Key)
				case store.Added, store.Modified:
					have[e.Item.Key] = e.Item.Object.(*apiregistrationv1.APIService)
				case store.Bookmark:
					complete = complete || e.InitialEventsEnd
				}
				select {
				case e, ok = <-events:
				default:
					more = false
				}
			}
		case <-s.customVersions.changed:
		case <-retry.C:
		}
		served := s.customVersions.get(builtin)
		if !complete || served == nil {
			continue
		}
		if err := changeAPIServices(ctx, services, apiregistration.PlanCustom(have, served)); err != nil && ctx.Err() == nil {
			s.logger.Warn("an APIService of custom resources cannot be written; trying again", "error", err)
			pause = min(2*pause+100*time.Millisecond, 10*time.Second)
			retry.Reset(pause)
			continue
		}
		pause = 0
	}
}

// changeAPIServices writes. Who was faster is no error: that is another event.
func changeAPIServices(ctx context.Context, services dynamic.ResourceInterface, c apiregistration.Changes) error {
	var errs []error
	write := func(list []*apiregistrationv1.APIService, one func(*unstructured.Unstructured) error) {
		for _, service := range list {
			content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(service)
			if err == nil {
				err = one(&unstructured.Unstructured{Object: content})
			}
			if err != nil && !apierrors.IsAlreadyExists(err) && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				errs = append(errs, fmt.Errorf("apiservice %s: %w", service.Name, err))
			}
		}
	}
	write(c.Create, func(u *unstructured.Unstructured) error {
		_, err := services.Create(ctx, u, metav1.CreateOptions{})
		return err
	})
	write(c.Update, func(u *unstructured.Unstructured) error {
		u.SetAPIVersion(apiregistrationv1.SchemeGroupVersion.String()) // what comes from the store need not say it
		u.SetKind(apiregistration.Kind.Kind)
		_, err := services.Update(ctx, u, metav1.UpdateOptions{})
		return err
	})
	write(c.Delete, func(u *unstructured.Unstructured) error {
		uid := u.GetUID()
		return services.Delete(ctx, u.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	})
	return errors.Join(errs...)
}
