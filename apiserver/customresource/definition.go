package customresource

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/version"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/request"
	"github.com/mini-k8s/mini/apiserver/rest"
	"github.com/mini-k8s/mini/store"
)

// definition is one state of a CustomResourceDefinition as it is served.
type definition struct {
	crd        *apiextensionsv1.CustomResourceDefinition // shared with the store's readers
	serial     int                                       // no two states have the same
	collection store.Collection
	rest       rest.Config // without Resource
	storage    string      // the version that objects are stored in
	versions   map[string]*servedVersion
	converter  func() managedfields.TypeConverter

	terminating *atomic.Bool // new objects are refused
	ended       context.Context
	end         context.CancelFunc // when another state, or nothing, is served instead
}

// servedVersion is one version of a definition; it may be one that only converts what is stored.
type servedVersion struct {
	def       *definition
	spec      *apiextensionsv1.CustomResourceDefinitionVersion
	gvk       schema.GroupVersionKind
	row       registry.Resource
	structure func() (*structure, error)
	checks    func() (*checks, error)
	endpoint  func() (*rest.Endpoint, error)
}

// prefix is where objects of a definition lie in etcd.
func prefix(crd *apiextensionsv1.CustomResourceDefinition) string {
	return "/registry/" + crd.Spec.Group + "/" + crd.Spec.Names.Plural + "/"
}

// same says that two states of a definition are served alike.
func same(a, b *apiextensionsv1.CustomResourceDefinition) bool {
	return a.UID == b.UID && a.Generation == b.Generation && reflect.DeepEqual(a.Status.AcceptedNames, b.Status.AcceptedNames)
}

func newDefinition(serial int, crd *apiextensionsv1.CustomResourceDefinition, collection store.Collection, base rest.Config) *definition {
	d := &definition{
		crd: crd, serial: serial, collection: collection, rest: base, versions: map[string]*servedVersion{}, terminating: &atomic.Bool{},
	}
	d.rest.Collection = collection
	d.rest.Admission = refusing{base.Admission, d.terminating}
	d.ended, d.end = context.WithCancel(context.Background())
	d.converter = sync.OnceValue(func() managedfields.TypeConverter { return newTypeConverter(d) })
	d.rest.TypeConverter = d.converter
	for i := range crd.Spec.Versions {
		v := newVersion(d, &crd.Spec.Versions[i])
		d.versions[v.spec.Name] = v
		if v.spec.Storage {
			d.storage = v.spec.Name
		}
	}
	return d
}

func newVersion(d *definition, spec *apiextensionsv1.CustomResourceDefinitionVersion) *servedVersion {
	v := &servedVersion{def: d, spec: spec, gvk: schema.GroupVersionKind{
		Group: d.crd.Spec.Group, Version: spec.Name, Kind: d.crd.Status.AcceptedNames.Kind,
	}}
	v.structure = sync.OnceValues(func() (*structure, error) {
		s, err := newStructure(d.crd, spec)
		return s, v.unusable(err)
	})
	v.checks = sync.OnceValues(func() (*checks, error) {
		s, err := v.structure()
		if err != nil {
			return nil, err
		}
		c, err := newChecks(s, spec)
		return c, v.unusable(err)
	})
	v.endpoint = sync.OnceValues(func() (*rest.Endpoint, error) {
		if _, err := v.structure(); err != nil {
			return nil, err
		}
		c := d.rest
		c.Resource = &v.row
		return rest.New(c)
	})
	v.row = v.resource()
	return v
}

// unusable logs what is wrong with a schema, once, and makes of it what clients see.
func (v *servedVersion) unusable(err error) error {
	if err == nil {
		return nil
	}
	v.def.rest.Logger.Error("the schema of a custom resource cannot be used", "definition", v.def.crd.Name, "version", v.spec.Name, "error", err)
	return errSchema
}

// ServeHTTP answers requests for the objects in this version.
func (v *servedVersion) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	endpoint, err := v.endpoint()
	if err != nil {
		rest.WriteError(w, r, err)
		return
	}
	if v.spec.Deprecated {
		rest.Warn(w, v.deprecation())
		rest.AnnotateDeprecated(r)
	}
	if request.InfoFrom(r.Context()).Verb == "watch" {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(v.def.ended, cancel)()
		r = r.WithContext(ctx)
	}
	endpoint.ServeHTTP(w, r)
}

// deprecation is the warning that clients of a deprecated version get.
func (v *servedVersion) deprecation() string {
	if v.spec.DeprecationWarning != nil {
		return *v.spec.DeprecationWarning
	}
	crd := v.def.crd
	text := fmt.Sprintf("%s/%s %s is deprecated", crd.Spec.Group, v.spec.Name, crd.Spec.Names.Kind)
	best := ""
	for _, other := range crd.Spec.Versions {
		if other.Served && !other.Deprecated && compareVersions(other.Name, v.spec.Name) > 0 &&
			(best == "" || compareVersions(other.Name, best) > 0) {
			best = other.Name
		}
	}
	if best != "" {
		text += fmt.Sprintf("; use %s/%s %s", crd.Spec.Group, best, crd.Spec.Names.Kind)
	}
	return text
}

// resource is the row of this version.
func (v *servedVersion) resource() registry.Resource {
	crd := v.def.crd
	names := &crd.Status.AcceptedNames
	row := registry.Resource{
		GVK: v.gvk, Name: names.Plural, Singular: names.Singular, ShortNames: names.ShortNames, Categories: names.Categories,
		Namespaced:   crd.Spec.Scope == apiextensionsv1.NamespaceScoped,
		Unstructured: true, ListKind: names.ListKind, State: strconv.Itoa(v.def.serial),
		Key:    crd.Spec.Group + "/" + names.Plural,
		Coerce: v.coerce, Default: v.fill, FromStored: v.fromStored, ToStored: v.toStored,
		Table: newTable(v.spec.AdditionalPrinterColumns),
	}
	for _, other := range crd.Spec.Versions {
		row.Versions = append(row.Versions, other.Name)
	}
	if fields := selectable(v.spec.SelectableFields); fields != nil {
		row.Fields = fields
	}
	if subs := v.spec.Subresources; subs != nil {
		if subs.Scale != nil {
			row.Scale = newScale(subs.Scale)
		}
		if subs.Status != nil {
			row.Status = v.statusStrategy()
		}
	}
	row.Strategy = v.strategy()
	return row
}

func (v *servedVersion) hasStatus() bool {
	return v.spec.Subresources != nil && v.spec.Subresources.Status != nil
}

// coerce is the row's Coerce: a request's object comes in this version.
func (v *servedVersion) coerce(o store.Object) ([]string, error) {
	s, err := v.structure()
	if err != nil {
		return nil, err
	}
	return s.coerce(o.(*unstructured.Unstructured).Object, false)
}

func (v *servedVersion) fill(o store.Object) {
	if s, err := v.structure(); err == nil {
		s.fill(o.(*unstructured.Unstructured).Object)
	}
}

// fromStored shows an object as this version has it: with the defaults of the version it is stored in, and what either
// version knows. The result is the object itself where nothing changes.
func (v *servedVersion) fromStored(o store.Object) (store.Object, error) {
	u := o.(*unstructured.Unstructured)
	gv, err := schema.ParseGroupVersion(u.GetAPIVersion())
	if err != nil {
		return nil, err
	}
	stored, known := v.def.versions[gv.Version]
	if !known { // a version that the definition has forgotten: its fields are all that is left of it
		stored = v
	}
	from, err := stored.structure()
	if err != nil {
		return nil, err
	}
	if known && stored == v && from.settled(u.Object) {
		return u, nil
	}
	out := u.DeepCopy()
	if _, err := from.coerce(out.Object, true); err != nil {
		return nil, err
	}
	from.fill(out.Object)
	return out, v.rename(out, stored)
}

// toStored shows an object of this version as it is written to etcd.
func (v *servedVersion) toStored(o store.Object) (store.Object, error) {
	to := v.def.versions[v.def.storage]
	if to == v || to == nil {
		return o, nil
	}
	out := o.(*unstructured.Unstructured).DeepCopy()
	return out, to.rename(out, v)
}

// rename makes an object of another version one of this: conversion None.
func (v *servedVersion) rename(u *unstructured.Unstructured, from *servedVersion) error {
	u.SetAPIVersion(v.gvk.GroupVersion().String())
	if from == v {
		return nil
	}
	s, err := v.structure()
	if err == nil {
		_, err = s.coerce(u.Object, true)
	}
	return err
}

// compareVersions orders versions by age and maturity: v2 is after v1, which is after v1beta1.
func compareVersions(a, b string) int { return version.CompareKubeAwareVersionStrings(a, b) }

// served are the versions that clients can use, the preferred one first.
func (d *definition) served() []*servedVersion {
	var out []*servedVersion
	for _, v := range d.versions {
		if v.spec.Served {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b *servedVersion) int { return compareVersions(b.spec.Name, a.spec.Name) })
	return out
}
