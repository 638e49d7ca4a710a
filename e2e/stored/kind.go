package main

import (
	"encoding/json"
	"fmt"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/mini-k8s/mini/apiserver/customresource"
	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/registry/builtin"
	"github.com/mini-k8s/mini/store"
)

// kind is a row and how etcd holds its objects.
type kind struct {
	row    registry.Resource
	config store.CollectionConfig
	fill   func(i int) store.Object
}

// kinds are all that etcd holds, in the order of discovery.
func kinds() ([]*kind, error) {
	scheme := builtin.NewScheme()
	rows, _ := builtin.Resources(registry.Deps{})
	rows = append(rows, registry.Resource{GVK: corev1.SchemeGroupVersion.WithKind("RangeAllocation"), Name: "servicenodeports", Key: "ranges"})
	var all []*kind
	for i := range rows {
		row := &rows[i]
		if row.Create != nil || row.Computed != nil {
			continue
		}
		config, err := registry.Collection(scheme, rows, row.StorageKey(), row.StoredKind())
		if err != nil {
			return nil, err
		}
		all = append(all, &kind{row: *row, config: config, fill: typed(scheme, row)})
	}
	custom := registry.Resource{Name: "widgets", Namespaced: true}
	custom.GVK.Group, custom.GVK.Version, custom.GVK.Kind = "example.com", "v1", "Widget"
	definition := &apiextensionsv1.CustomResourceDefinition{}
	definition.Spec.Group, definition.Spec.Names.Plural = custom.GVK.Group, custom.Name
	return append(all, &kind{row: custom, config: customresource.Collection(definition), fill: func(i int) store.Object { return widget(custom.GVK, i) }}), nil
}

func typed(scheme *runtime.Scheme, row *registry.Resource) func(int) store.Object {
	return func(i int) store.Object {
		obj, err := scheme.New(row.GVK)
		if err != nil {
			panic(err) // registry.Collection has made one before
		}
		o := obj.(store.Object)
		random(scheme, i).Fill(o)
		if i == 0 {
			fillStrings(reflect.ValueOf(o))
		}
		settle(o)
		o.GetObjectKind().SetGroupVersionKind(row.GVK)
		return o
	}
}

// example makes the i-th object of the kind and stores it.
func (k *kind) example(i int) (*Object, error) {
	obj := k.fill(i)
	obj.SetName(fmt.Sprintf("example-%d", i))
	if k.row.Key == "ranges" {
		obj.SetName(k.row.Name)
	}
	obj.SetNamespace("")
	if k.row.Namespaced {
		obj.SetNamespace("space")
	}
	obj.SetSelfLink("")
	obj.SetResourceVersion("7")
	if k.row.Default != nil {
		k.row.Default(obj)
	}
	o := &Object{
		Group: k.row.GVK.Group, Version: k.row.GVK.Version, Kind: k.row.GVK.Kind, Resource: k.row.Name, Namespaced: k.row.Namespaced,
		Key: k.config.Prefix + k.row.ObjectKey(obj.GetNamespace(), obj.GetName()),
	}
	stored, err := k.encode(obj)
	if err != nil {
		return nil, err
	}
	o.Stored = stored
	obj.SetResourceVersion("")
	o.JSON, err = json.Marshal(obj)
	return o, err
}

func (k *kind) encode(obj store.Object) (_ []byte, err error) {
	if k.row.ToStored != nil {
		if obj, err = k.row.ToStored(obj); err != nil {
			return nil, err
		}
		obj.GetObjectKind().SetGroupVersionKind(k.row.StoredKind())
	}
	return k.config.Codec.Encode(obj)
}

// decode replaces the bytes of o with those that mini makes of the same object, and says how it serves it.
func (k *kind) decode(o *Object) error {
	obj, err := k.config.Codec.Decode(o.Stored)
	if err != nil {
		return err
	}
	if o.Stored, err = k.config.Codec.Encode(obj); err != nil {
		return err
	}
	if k.row.FromStored != nil {
		if obj, err = k.row.FromStored(obj); err != nil {
			return err
		}
		obj.GetObjectKind().SetGroupVersionKind(k.row.GVK)
	}
	if u, ok := obj.(*unstructured.Unstructured); ok {
		o.JSON, err = json.Marshal(u.Object)
		return err
	}
	o.JSON, err = json.Marshal(obj)
	return err
}
