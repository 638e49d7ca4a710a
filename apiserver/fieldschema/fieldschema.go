package fieldschema

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

//go:embed types.txt
var types string

// words stand in types.txt for what it says most often. None is part of another, and longer ones come before their beginnings.
var words = [][2]string{
	{"io.k8s.apimachinery.pkg.apis.meta.v1.", "!"}, {"io.k8s.api.core.v1.", "?"}, {"io.k8s.api.", "%"},
	{`","t":{"s":"string"}`, "@"}, {`","t":`, "#"}, {`{"s":"numeric"}`, "*"}, {`{"l":{"e":`, "|"}, {`{"m":{"f":[`, "&"},
	{`{"n":"`, "~"}, {`"},"r":"atomic"`, ";"}, {`,"d":`, "<"},
}

// wording replaces what words[i][from] says by the other.
func wording(from int) *strings.Replacer {
	pairs := make([]string, 0, 2*len(words))
	for _, w := range words {
		pairs = append(pairs, w[from], w[1-from])
	}
	return strings.NewReplacer(pairs...)
}

// Converter is the managedfields.TypeConverter of the scheme's kinds. It is safe for concurrent use.
type Converter struct {
	scheme          *runtime.Scheme
	shorten, expand *strings.Replacer

	mu    sync.Mutex
	lines map[string]string // a type's line by its name, both as they are in types.txt
	known map[kschema.GroupVersionKind]*typed.ParseableType
}

var _ managedfields.TypeConverter = (*Converter)(nil)

// New returns a converter that has read nothing yet.
func New(scheme *runtime.Scheme) *Converter {
	return &Converter{scheme: scheme, shorten: wording(0), expand: wording(1), known: map[kschema.GroupVersionKind]*typed.ParseableType{}}
}

// ObjectToTyped shows an object, typed or unstructured, with the schema of its kind.
func (c *Converter) ObjectToTyped(obj runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	t, err := c.Type(obj.GetObjectKind().GroupVersionKind())
	if err != nil {
		return nil, err
	}
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return t.FromUnstructured(u.UnstructuredContent(), opts...)
	}
	return t.FromStructured(obj, opts...)
}

// TypedToObject returns an unstructured object.
func (c *Converter) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	content, ok := v.AsValue().Unstructured().(map[string]any)
	if !ok {
		return nil, fmt.Errorf("a value of %T is not an object", v.AsValue().Unstructured())
	}
	return &unstructured.Unstructured{Object: content}, nil
}

// Type returns the schema of a kind, reading it the first time. It is an error if there is none.
func (c *Converter) Type(gvk kschema.GroupVersionKind) (*typed.ParseableType, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.known[gvk]; ok {
		return t, nil
	}
	name, err := c.scheme.ToOpenAPIDefinitionName(gvk)
	if err != nil {
		return nil, err
	}
	if c.lines == nil {
		c.lines = readLines()
	}
	parser := &typed.Parser{}
	if err := c.reach(name, &parser.Schema, map[string]bool{}); err != nil {
		return nil, fmt.Errorf("schema of %s: %w", gvk, err)
	}
	t := parser.Type(name)
	c.known[gvk] = &t
	return &t, nil
}

// Definitions returns a type, by its OpenAPI name, with all that it refers to.
func Definitions(name string) ([]schema.TypeDef, error) {
	c := New(nil)
	c.lines = readLines()
	var out schema.Schema
	err := c.reach(name, &out, map[string]bool{})
	return out.Types, err
}

func readLines() map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(types) {
		name, definition, _ := strings.Cut(line, " ")
		out[name] = definition
	}
	return out
}

// reach adds a type and all that it refers to.
func (c *Converter) reach(name string, to *schema.Schema, seen map[string]bool) error {
	if seen[name] {
		return nil
	}
	seen[name] = true
	line, ok := c.lines[c.shorten.Replace(name)]
	if !ok {
		return fmt.Errorf("there is no type %s", name)
	}
	var a atom
	if err := json.Unmarshal([]byte(c.expand.Replace(line)), &a); err != nil {
		return fmt.Errorf("type %s: %w", name, err)
	}
	var refs []string
	to.Types = append(to.Types, schema.TypeDef{Name: name, Atom: a.schema(&refs)})
	for _, ref := range refs {
		if err := c.reach(ref, to, seen); err != nil {
			return err
		}
	}
	return nil
}

// atom, reference, list, structure and field are the schema's parts as they are written in types.txt.
type atom struct {
	Scalar string     `json:"s,omitempty"`
	List   *list      `json:"l,omitempty"`
	Map    *structure `json:"m,omitempty"`
}

type reference struct {
	atom
	Name     string `json:"n,omitempty"`
	Relation string `json:"r,omitempty"`
	Nullable bool   `json:"0,omitempty"`
}

type list struct {
	Element  reference `json:"e"`
	Relation string    `json:"r,omitempty"`
	Keys     []string  `json:"k,omitempty"`
}

type structure struct {
	Fields   []field    `json:"f,omitempty"`
	Element  *reference `json:"e,omitempty"`
	Relation string     `json:"r,omitempty"`
	Unions   []union    `json:"u,omitempty"`
}

type field struct {
	Name    string    `json:"n"`
	Type    reference `json:"t"`
	Default any       `json:"d,omitempty"`
}

type union struct {
	Discriminator string      `json:"d,omitempty"`
	Deduce        bool        `json:"i,omitempty"`
	Fields        [][2]string `json:"f,omitempty"`
}

// schema turns an atom back, adding the types it names to refs.
func (a *atom) schema(refs *[]string) schema.Atom {
	var out schema.Atom
	if a.Scalar != "" {
		s := schema.Scalar(a.Scalar)
		out.Scalar = &s
	}
	if a.List != nil {
		out.List = &schema.List{
			ElementType: a.List.Element.schema(refs), ElementRelationship: schema.ElementRelationship(a.List.Relation), Keys: a.List.Keys,
		}
	}
	if a.Map != nil {
		out.Map = &schema.Map{ElementRelationship: schema.ElementRelationship(a.Map.Relation)}
		for i := range a.Map.Fields {
			f := &a.Map.Fields[i]
			out.Map.Fields = append(out.Map.Fields, schema.StructField{Name: f.Name, Type: f.Type.schema(refs), Default: f.Default})
		}
		if a.Map.Element != nil {
			out.Map.ElementType = a.Map.Element.schema(refs)
		}
		for _, u := range a.Map.Unions {
			out.Map.Unions = append(out.Map.Unions, u.schema())
		}
	}
	return out
}

func (r *reference) schema(refs *[]string) schema.TypeRef {
	out := schema.TypeRef{Inlined: r.atom.schema(refs), Nullable: r.Nullable}
	if r.Name != "" {
		name := r.Name
		out.NamedType = &name
		*refs = append(*refs, name)
	}
	if r.Relation != "" {
		relation := schema.ElementRelationship(r.Relation)
		out.ElementRelationship = &relation
	}
	return out
}

func (u *union) schema() schema.Union {
	out := schema.Union{DeduceInvalidDiscriminator: u.Deduce}
	if u.Discriminator != "" {
		out.Discriminator = &u.Discriminator
	}
	for _, f := range u.Fields {
		out.Fields = append(out.Fields, schema.UnionField{FieldName: f[0], DiscriminatorValue: f[1]})
	}
	return out
}
