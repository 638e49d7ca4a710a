package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// sources reads the Go packages that declare API types, from the module cache, each one once.
type sources struct {
	modules  map[string]string // module path to directory
	packages map[string]*pkg
}

// pkg is what a package says about its types.
type pkg struct {
	path   string
	types  map[string]*typeDecl
	values map[string][]enumValue // constants by the name of their type
}

type typeDecl struct {
	pkg     *pkg
	name    string
	expr    ast.Expr
	comment []string
	imports map[string]string // of its file: name to path
}

type enumValue struct {
	value   string
	comment []string
}

func newSources(modules ...string) (*sources, error) {
	s := &sources{modules: map[string]string{}, packages: map[string]*pkg{}}
	for _, m := range modules {
		out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", m).Output()
		if err != nil {
			return nil, fmt.Errorf("go list -m %s: %w", m, err)
		}
		dir := strings.TrimSpace(string(out))
		if dir == "" {
			return nil, fmt.Errorf("module %s is not in the module cache: run `go mod download`", m)
		}
		s.modules[m] = dir
	}
	return s, nil
}

func (s *sources) dir(path string) (string, error) {
	for module, dir := range s.modules {
		if rest, ok := strings.CutPrefix(path, module); ok && (rest == "" || rest[0] == '/') {
			return filepath.Join(dir, rest), nil
		}
	}
	return "", fmt.Errorf("package %s is in none of the known modules", path)
}

func (s *sources) load(path string) (*pkg, error) {
	if p := s.packages[path]; p != nil {
		return p, nil
	}
	dir, err := s.dir(path)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	p := &pkg{path: path, types: map[string]*typeDecl{}, values: map[string][]enumValue{}}
	s.packages[path] = p
	files := token.NewFileSet()
	for _, e := range entries {
		name := e.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, "zz_generated") || name == "generated.pb.go" {
			continue
		}
		f, err := parser.ParseFile(files, filepath.Join(dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		p.add(f)
	}
	for _, values := range p.values {
		sort.Slice(values, func(i, j int) bool { return values[i].value < values[j].value })
	}
	return p, nil
}

func (p *pkg) add(f *ast.File) {
	imports := map[string]string{}
	for _, i := range f.Imports {
		path, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			continue
		}
		name := path[strings.LastIndexByte(path, '/')+1:]
		if i.Name != nil {
			name = i.Name.Name
		}
		imports[name] = path
	}
	for _, d := range f.Decls {
		decl, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range decl.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				doc := spec.Doc
				if doc == nil {
					doc = decl.Doc
				}
				p.types[spec.Name.Name] = &typeDecl{pkg: p, name: spec.Name.Name, expr: spec.Type, comment: lines(doc), imports: imports}
			case *ast.ValueSpec:
				p.addValue(decl, spec)
			}
		}
	}
}

func (p *pkg) addValue(decl *ast.GenDecl, spec *ast.ValueSpec) {
	typ, ok := spec.Type.(*ast.Ident)
	if decl.Tok != token.CONST || !ok || len(spec.Values) != 1 || len(spec.Names) != 1 {
		return
	}
	lit, ok := spec.Values[0].(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return
	}
	value, err := strconv.Unquote(lit.Value)
	if err != nil {
		return
	}
	p.values[typ.Name] = append(p.values[typ.Name], enumValue{value, lines(spec.Doc)})
}

// lines are a comment's lines without their markers.
func lines(group *ast.CommentGroup) []string {
	if group == nil {
		return nil
	}
	var out []string
	for _, c := range group.List {
		if text, ok := strings.CutPrefix(c.Text, "//"); ok {
			out = append(out, strings.TrimPrefix(text, " "))
			continue
		}
		text := strings.TrimSuffix(strings.TrimPrefix(c.Text, "/*"), "*/")
		for line := range strings.SplitSeq(strings.Trim(text, "\n"), "\n") {
			out = append(out, strings.TrimPrefix(strings.TrimSpace(line), "* "))
		}
	}
	return out
}

// marker returns the values of "+name" or "+name=value" lines.
func marker(comment []string, name string) (values []string) {
	for _, line := range comment {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "+"+name)
		if !ok || (rest != "" && rest[0] != '=') {
			continue
		}
		values = append(values, strings.TrimPrefix(rest, "="))
	}
	return values
}

// describe makes a description of a comment: paragraphs stay, lines are joined, indented lines stand alone; markers, TODOs
// and what follows "---" are not for readers.
func describe(comment []string) string {
	var b strings.Builder
	text := func() string { return b.String() }
	chop := func() {
		if s := text(); s != "" {
			b.Reset()
			b.WriteString(s[:len(s)-1])
		}
	}
	for _, line := range comment {
		if line == "---" {
			break
		}
		line = strings.TrimRight(line, " ")
		trimmed := strings.TrimLeft(line, " ")
		switch {
		case line == "":
			chop()
			b.WriteString("\n\n")
		case strings.HasPrefix(trimmed, "TODO"), strings.HasPrefix(trimmed, "+"):
		case strings.HasPrefix(line, " "), strings.HasPrefix(line, "\t"):
			chop()
			b.WriteString("\n" + line + "\n")
		default:
			b.WriteString(line + " ")
		}
	}
	return strings.TrimSpace(text())
}
