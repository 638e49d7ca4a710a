package apiserver

import (
	"context"
	"errors"

	"github.com/mini-k8s/mini/store"
)

// computed is the collection of a kind whose objects are worked out when they are asked for. Its row serves only get and
// list, so that nothing else is ever called.
type computed func(context.Context) []store.Object

func (c computed) Get(ctx context.Context, key, _ string) (*store.Item, error) {
	for _, o := range c(ctx) {
		if o.GetName() == key {
			return &store.Item{Key: key, Object: o}, nil
		}
	}
	return nil, store.ErrNotFound
}

func (c computed) List(ctx context.Context, opts store.ListOptions) (*store.List, error) {
	list := &store.List{}
	for _, o := range c(ctx) {
		item := &store.Item{Key: o.GetName(), Object: o}
		if (opts.Name == "" || opts.Name == o.GetName()) && (opts.Match == nil || opts.Match(item)) {
			list.Items = append(list.Items, item)
		}
	}
	return list, nil
}

func (c computed) Create(context.Context, string, store.Object) (*store.Item, error) {
	return nil, errors.ErrUnsupported
}

func (c computed) Mutate(context.Context, string, func(*store.Item) (store.Change, error)) (*store.Item, error) {
	return nil, errors.ErrUnsupported
}

func (c computed) Watch(context.Context, store.WatchOptions) (store.Watch, error) {
	return nil, errors.ErrUnsupported
}
