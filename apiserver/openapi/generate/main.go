// Generate makes the OpenAPI documents that package openapi embeds: one of version 2, one of version 3 for each group
// version, as compressed JSON. It reads the sources of the API types in the module cache for
// descriptions, list types and map keys, and the rows of package builtin for kinds, paths and verbs.
package main

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strconv"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/mini-k8s/mini/apiserver/openapi"
	"github.com/mini-k8s/mini/apiserver/openapi/render"
	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/registry/builtin"
	"github.com/mini-k8s/mini/store"
)

func main() {
	out := flag.String("out", "apiserver/openapi/gen", "the folder to write to")
	flag.Parse()
	if err := run(*out); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

// rows are all rows there can be: those that depend on an injected function included.
func rows() []registry.Resource {
	answer := func(_ context.Context, o store.Object) (store.Object, error) { return o, nil }
	review := map[string]func(context.Context, store.Object) (store.Object, error){}
	for _, kind := range []string{
		"TokenReview", "SelfSubjectReview", "SubjectAccessReview", "LocalSubjectAccessReview", "SelfSubjectAccessReview", "SelfSubjectRulesReview",
	} {
		review[kind] = answer
	}
	rows, _ := builtin.Resources(registry.Deps{
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		Review:       review,
		CreateToken: func(_ context.Context, _, _ string, req *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
			return req, nil
		},
	})
	return rows
}

func run(out string) error {
	groups, definitions, err := build(builtin.NewScheme(), rows())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	index := openapi.Index{V3: map[string]string{}}
	document := render.V2(groups, definitions)
	if index.V2, err = write(out, "v2", document); err != nil {
		return err
	}
	if index.V2Ends, err = writePieces(out, "v2", document, "definitions"); err != nil {
		return err
	}
	custom := render.V3Document(map[string]any{}, render.V3Schemas(definitions, customModels(definitions)...))
	if _, err = write(out, openapi.CustomFile, custom); err != nil {
		return err
	}
	if index.CustomEnds, err = writePieces(out, openapi.CustomFile, custom, "components", "schemas"); err != nil {
		return err
	}
	for gv, paths := range groups {
		path := strings.TrimPrefix(render.Base(gv), "/")
		if index.V3[path], err = write(out, "v3/"+path, render.V3(gv, paths, definitions)); err != nil {
			return err
		}
	}
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, openapi.IndexFile), data, 0o644)
}

// build makes the paths of each group version and the definitions of all kinds in them.
func build(s *runtime.Scheme, rows []registry.Resource) (map[schema.GroupVersion][]render.Item, map[string]node, error) {
	src, err := newSources("k8s.io/api", "k8s.io/apimachinery", "k8s.io/apiextensions-apiserver", "k8s.io/kube-aggregator")
	if err != nil {
		return nil, nil, err
	}
	defs := &schemas{sources: src, definitions: map[string]node{}}
	var failed error
	models := func(gvk schema.GroupVersionKind) string {
		t := s.AllKnownTypes()[gvk]
		if t == nil {
			failed = fmt.Errorf("no type is known for %v", gvk)
			return ""
		}
		m, err := defs.define(t.PkgPath(), t.Name())
		if err != nil && failed == nil {
			failed = err
		}
		return m
	}
	groups := map[schema.GroupVersion][]render.Item{}
	for i := range rows {
		gv := rows[i].GVK.GroupVersion()
		groups[gv] = append(groups[gv], render.Row(&rows[i], models)...)
	}
	for _, name := range []string{"Status", "DeleteOptions", "Patch", "WatchEvent", "APIResourceList"} {
		if _, err := defs.define("k8s.io/apimachinery/pkg/apis/meta/v1", name); err != nil && failed == nil {
			failed = err
		}
	}
	if failed != nil {
		return nil, nil, failed
	}
	for gv, items := range groups {
		groups[gv] = append(items, render.Discovery(gv))
	}
	markKinds(s, groups, defs.definitions)
	return groups, defs.definitions, nil
}

// markKinds says in each definition which kinds it is the schema of.
func markKinds(s *runtime.Scheme, groups map[schema.GroupVersion][]render.Item, definitions map[string]node) {
	kinds := map[string][]schema.GroupVersionKind{}
	for gvk, t := range s.AllKnownTypes() {
		if _, served := groups[gvk.GroupVersion()]; !served && t.PkgPath() != reflect.TypeFor[authenticationv1.TokenRequest]().PkgPath() && gvk.Group != "autoscaling" && gvk.Group != "policy" {
			continue
		}
		m := model(t.PkgPath(), t.Name())
		if definitions[m] != nil && gvk.Version != runtime.APIVersionInternal {
			kinds[m] = append(kinds[m], gvk)
		}
	}
	for m, list := range kinds {
		sort.Slice(list, func(i, j int) bool { return list[i].String() < list[j].String() })
		var marks []any
		for _, gvk := range list {
			marks = append(marks, render.KindMark(gvk))
		}
		definitions[m]["x-kubernetes-group-version-kind"] = marks
	}
}

// customModels are the models that documents of custom resources refer to.
func customModels(definitions map[string]node) []string {
	names := []string{"io.k8s.api.autoscaling.v1.Scale"}
	for _, name := range []string{"ObjectMeta", "ListMeta", "Status", "DeleteOptions", "Patch", "APIResourceList"} {
		names = append(names, render.MetaV1+name)
	}
	return names
}

// writePieces stores the JSON of a document in three pieces: up to the last member of the object at the place, up to the
// last path, and the rest. Members can so be added without looking into it. It returns where the first two end.
func writePieces(dir, path string, document map[string]any, place ...string) (ends [2]int, err error) {
	outer := document
	for _, name := range place[:len(place)-1] {
		outer = outer[name].(map[string]any)
	}
	definitions, err := json.Marshal(outer[place[len(place)-1]])
	if err != nil {
		return ends, err
	}
	paths, err := json.Marshal(document["paths"])
	if err != nil {
		return ends, err
	}
	first := string(definitions[:len(definitions)-1]) // without the closing brace
	last := "}}"
	for i := len(place) - 1; i >= 0; i-- {
		rest := map[string]any{}
		at := document
		for _, name := range place[:i] {
			at = at[name].(map[string]any)
		}
		for name, value := range at {
			if name != place[i] && (i > 0 || name != "paths") {
				rest[name] = value
			}
		}
		head, err := json.Marshal(rest)
		if err != nil {
			return ends, err
		}
		begin := string(head[:len(head)-1])
		if len(rest) > 0 {
			begin += ","
		}
		first = begin + strconv.Quote(place[i]) + ":" + first
	}
	middle := strings.Repeat("}", len(place)) + `,"paths":` + string(paths[:len(paths)-1])
	var whole []byte
	for i, text := range []string{first, middle, last} {
		piece, err := openapi.Compress([]byte(text))
		if err != nil {
			return ends, err
		}
		whole = append(whole, piece...)
		if i < 2 {
			ends[i] = len(whole)
		}
	}
	var back any
	if err := json.Unmarshal([]byte(first+middle+last), &back); err != nil {
		return ends, fmt.Errorf("%s in pieces: %w", path, err)
	}
	return ends, os.WriteFile(filepath.Join(dir, openapi.File(path)), whole, 0o644)
}

// write stores a document and returns the hash of its content.
func write(dir, path string, document map[string]any) (string, error) {
	data, err := json.Marshal(document)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	packed, err := openapi.Compress(data)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, openapi.File(path)), packed, 0o644); err != nil {
		return "", err
	}
	sum := sha512.Sum512(data)
	return strings.ToUpper(hex.EncodeToString(sum[:])), nil
}
