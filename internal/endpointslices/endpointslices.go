// Package endpointslices finds the EndpointSlices of a Service in an informer's store.
package endpointslices

import (
	"fmt"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"
)

// byService is the name of the index by namespace/name of the Service.
const byService = "mini-service"

// Index adds the index to an informer that does not have it yet. It must be called before the informer starts.
func Index(informer cache.SharedIndexInformer) error {
	return IndexBy(informer, byService, func(o any) []string {
		if key := ServiceKey(o); key != "" {
			return []string{key}
		}
		return nil
	})
}

// IndexBy adds an index to an informer unless it has one of that name: parts of a node, and nodes that share a process,
// share informers.
func IndexBy(informer cache.SharedIndexInformer, name string, fn func(any) []string) error {
	if _, ok := informer.GetIndexer().GetIndexers()[name]; ok {
		return nil
	}
	if err := informer.AddIndexers(cache.Indexers{name: func(o any) ([]string, error) { return fn(o), nil }}); err != nil {
		return fmt.Errorf("add index %s: %w", name, err)
	}
	return nil
}

// Of returns the EndpointSlices of the Service namespace/name, in no particular order.
func Of(store cache.Indexer, service string) ([]*discoveryv1.EndpointSlice, error) {
	objects, err := store.ByIndex(byService, service)
	if err != nil {
		return nil, fmt.Errorf("look up EndpointSlices of %s: %w", service, err)
	}
	out := make([]*discoveryv1.EndpointSlice, 0, len(objects))
	for _, o := range objects {
		out = append(out, o.(*discoveryv1.EndpointSlice))
	}
	return out, nil
}

// ServiceKey is the namespace/name of the Service that an EndpointSlice (or what an informer passes for a deleted one)
// belongs to, or "".
func ServiceKey(o any) string {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	slice, ok := o.(*discoveryv1.EndpointSlice)
	if !ok || slice.Labels[discoveryv1.LabelServiceName] == "" {
		return ""
	}
	return slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]
}
