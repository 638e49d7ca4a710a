package openapi

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	openapiv3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/mini-k8s/mini/apiserver/openapi/render"
	"github.com/mini-k8s/mini/apiserver/registry"
)

// Kind is a custom resource in one version.
type Kind struct {
	ID  string // another one whenever the documents would say something else
	Row registry.Resource
	// Schemas returns the schemas of the kind and of its list, ready for package json, by model name.
	Schemas func(v2 bool) (map[string]any, error)
	// Model is the model name of a kind, this one or one it refers to.
	Model func(schema.GroupVersionKind) string
}

// Extend replaces the custom resources that are published. Documents are made of them when somebody asks.
func (h *Handler) Extend(kinds []Kind) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return
	}
	c := &custom{v3: map[string][]*part{}, hashes: map[string]string{}, parts: map[string]*part{}}
	ids := map[string][]string{}
	for _, k := range kinds {
		gv := k.Row.GVK.GroupVersion()
		path := strings.TrimPrefix(render.Base(gv), "/")
		if _, builtin := h.index.V3[path]; builtin {
			continue
		}
		if c.v3[path] == nil {
			c.add(h.custom, "discovery of "+path, path, func() *part { return newPart(discoveryOf(gv), true) })
		}
		c.add(h.custom, k.ID, path, func() *part { return newPart(k.render, false) })
		ids[path] = append(ids[path], k.ID)
	}
	all := sha256.New()
	io.WriteString(all, h.index.V2) //nolint:errcheck // a hash takes everything
	for _, path := range slices.Sorted(maps.Keys(ids)) {
		sum := sha256.Sum256([]byte(h.index.V2 + strings.Join(ids[path], "\n")))
		c.hashes[path] = strings.ToUpper(hex.EncodeToString(sum[:]))
		all.Write(sum[:])
	}
	c.v2Hash = h.index.V2
	if len(ids) > 0 {
		c.v2Hash = strings.ToUpper(hex.EncodeToString(all.Sum(nil)))
	}
	h.custom = c
}

// custom are the published custom resources.
type custom struct {
	v2Hash string
	hashes map[string]string  // of version 3's documents, by path
	v3     map[string][]*part // by path
	all    []*part
	parts  map[string]*part // by ID
}

// add takes a part over from before where it is the same.
func (c *custom) add(before *custom, id, path string, fresh func() *part) {
	p := before.parts[id]
	if p == nil {
		p = fresh()
	}
	c.parts[id] = p
	c.v3[path] = append(c.v3[path], p)
	c.all = append(c.all, p)
}

// part is what one kind adds to documents. Each form is made when it is first asked for, and kept compressed: documents
// are put together from compressed pieces without looking into them, since pieces of gzip one after the other are gzip,
// and so are messages of protobuf.
type part struct {
	definitions, paths, schemas, paths3, proto2, proto3 func() ([]byte, error)
}

// content is what a part says in one version of OpenAPI.
type content struct{ schemas, paths map[string]any }

// newPart returns a part of what render says; it is the first one of version 3's paths where that is so.
func newPart(render func(v2 bool) (content, error), first bool) *part {
	members := func(v2, first bool, of func(content) map[string]any) func() ([]byte, error) {
		return sync.OnceValues(func() ([]byte, error) {
			c, err := render(v2)
			if err != nil {
				return nil, err
			}
			return compressMembers(of(c), first)
		})
	}
	schemas := func(c content) map[string]any { return c.schemas }
	paths := func(c content) map[string]any { return c.paths }
	return &part{
		definitions: members(true, false, schemas), paths: members(true, false, paths),
		schemas: members(false, false, schemas), paths3: members(false, first, paths),
		proto2: sync.OnceValues(func() ([]byte, error) {
			c, err := render(true)
			if err != nil {
				return nil, err
			}
			return protoV2(c)
		}),
		proto3: sync.OnceValues(func() ([]byte, error) {
			c, err := render(false)
			if err != nil {
				return nil, err
			}
			return protoV3(c)
		}),
	}
}

func (k *Kind) render(v2 bool) (c content, err error) {
	if c.schemas, err = k.Schemas(v2); err != nil {
		return c, err
	}
	items, gv := render.Row(&k.Row, k.Model), k.Row.GVK.GroupVersion()
	if v2 {
		c.paths, _ = render.V2Paths(gv, items)
	} else {
		c.paths, _ = render.V3Paths(gv, items)
	}
	return c, nil
}

func discoveryOf(gv schema.GroupVersion) func(bool) (content, error) {
	return func(v2 bool) (c content, err error) {
		items := []render.Item{render.Discovery(gv)}
		if v2 {
			c.paths, _ = render.V2Paths(gv, items)
		} else {
			c.paths, _ = render.V3Paths(gv, items)
		}
		return c, nil
	}
}

// compressMembers writes the members of a JSON object, each after a comma unless it is the very first.
func compressMembers(members map[string]any, first bool) ([]byte, error) {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(members)) {
		key, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(members[name])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if !first {
			b.WriteByte(',')
		}
		first = false
		b.Write(key)
		b.WriteByte(':')
		b.Write(value)
	}
	return Compress(b.Bytes())
}

// Compress makes one piece of gzip.
func Compress(data []byte) ([]byte, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(data); err != nil {
		return nil, err
	}
	err = z.Close()
	return b.Bytes(), err
}

// object is what json makes of nil maps as well.
func object(m map[string]any) map[string]any {
	if m == nil {
		return map[string]any{}
	}
	return m
}

func protoV2(c content) ([]byte, error) {
	text, err := json.Marshal(map[string]any{
		"swagger": "2.0", "info": map[string]any{"title": "", "version": ""}, "paths": object(c.paths), "definitions": object(c.schemas),
	})
	if err != nil {
		return nil, err
	}
	doc, err := openapiv2.ParseDocument(text)
	if err != nil {
		return nil, err
	}
	doc.Swagger, doc.Info = "", nil // the built-in part says it
	data, err := proto.Marshal(doc)
	if err != nil {
		return nil, err
	}
	return Compress(data)
}

func protoV3(c content) ([]byte, error) {
	text, err := json.Marshal(map[string]any{
		"openapi": "3.0.0", "info": map[string]any{"title": "", "version": ""}, "paths": object(c.paths),
		"components": map[string]any{"schemas": object(c.schemas)},
	})
	if err != nil {
		return nil, err
	}
	doc, err := openapiv3.ParseDocument(text)
	if err != nil {
		return nil, err
	}
	doc.Openapi, doc.Info = "", nil
	data, err := proto.Marshal(doc)
	if err != nil {
		return nil, err
	}
	return Compress(data)
}

// document puts a document of custom resources together from its compressed pieces; nil if path is none. The embedded
// pieces are read from files.
func (c *custom) document(files *documents, index *Index, path, encoding string) ([][]byte, error) {
	document, isV3 := strings.CutPrefix(path, "v3/")
	parts := c.all
	if isV3 {
		parts = c.v3[document]
	}
	base := "v2"
	if isV3 {
		base = CustomFile
	}
	first, err := files.read(base, encoding)
	if err != nil {
		return nil, err
	}
	var pieces [][]byte
	take := func(of func(*part) func() ([]byte, error)) {
		for _, p := range parts {
			if err != nil {
				return
			}
			var piece []byte
			if piece, err = of(p)(); err == nil {
				pieces = append(pieces, piece)
			}
		}
	}
	switch {
	case encoding == "pb" && isV3:
		pieces = append(pieces, first)
		take(func(p *part) func() ([]byte, error) { return p.proto3 })
	case encoding == "pb":
		pieces = append(pieces, first)
		take(func(p *part) func() ([]byte, error) { return p.proto2 })
	default:
		of := []func(*part) func() ([]byte, error){
			func(p *part) func() ([]byte, error) { return p.definitions }, func(p *part) func() ([]byte, error) { return p.paths },
		}
		ends := index.V2Ends
		if isV3 {
			of[0] = func(p *part) func() ([]byte, error) { return p.schemas }
			of[1] = func(p *part) func() ([]byte, error) { return p.paths3 }
			ends = index.CustomEnds
		}
		if ends[0] > ends[1] || ends[1] > len(first) {
			return nil, fmt.Errorf("the index does not fit %s", base)
		}
		pieces = append(pieces, first[:ends[0]])
		take(of[0])
		pieces = append(pieces, first[ends[0]:ends[1]])
		take(of[1])
		pieces = append(pieces, first[ends[1]:])
	}
	return pieces, err
}
