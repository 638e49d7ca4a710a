package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/mini-k8s/mini/e2e/scenario"
)

// neverCreated are the kinds of which nobody can make an object, and why.
var neverCreated = map[string]string{
	"v1/ComponentStatus": "tells how the server's parts are",
}

// alwaysConfigured are the kinds of which kubectl says "configured" when nothing has changed, with any server: it always sends
// the fields that their types say are replaced as a whole.
var alwaysConfigured = []string{"PodDisruptionBudget"}

// TestKubectlEveryKind takes an object of every kind that discovery names through explain, create --dry-run=server, apply (by
// kubectl and by the server), diff, get, describe and delete of the kubectl that mini holds. A kind without an example fails.
func TestKubectlEveryKind(t *testing.T) {
	c := scenario.Start(t, scenario.Options{}).With(t, scenario.EmbeddedKubectl(), "kinds")
	k := manifestTest{T: t, c: c, cache: t.TempDir()}
	stored, created := readExamples(t, "testdata/kinds.yaml", "kinds"), readExamples(t, "testdata/created.yaml", "kinds")
	k.kinds(stored, created)
	var explaining sync.WaitGroup
	defer explaining.Wait()
	explaining.Go(func() { k.explain(slices.Concat(stored, created)) })

	k.dryRun("testdata/kinds.yaml", stored)
	k.apply(stored)
	k.ask(created)
	k.delete(stored)
	k.apply(stored, "--server-side")
	k.delete(stored)
}

// manifestTest runs one kubectl on files with many objects: most of what a call costs is kubectl's start.
type manifestTest struct {
	*testing.T
	c     *scenario.Cluster
	cache string // of what kubectl knows of the server: another one may have had its port
}

// example is one object of a file.
type example struct {
	schema.GroupVersionKind
	resource        string // from discovery
	namespace, name string
	before, after   string   // the object, before and after its change
	was, then       []string // lines of YAML that the change takes away, and that it brings
}

// String is what kubectl calls the object.
func (e *example) String() string {
	name := e.name
	switch {
	case e.Kind == "Binding":
		return "status/<unknown>" // that is what is answered
	case name == "":
		name = "<unknown>"
	}
	return strings.ToLower((schema.GroupKind{Group: e.Group, Kind: e.Kind}).String()) + "/" + name
}

// id names the kind as the tables above do.
func (e *example) id() string { return e.GroupVersion().String() + "/" + e.Kind }

// change is a line of which the value changes: KEY: VALUE # then OTHER.
var change = regexp.MustCompile(`(?m)^(.*?: |\s*- )(.+) # then (.+)$`)

// readExamples reads a file of objects in the namespace.
func readExamples(t *testing.T, file, namespace string) []*example {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []*example
	for _, text := range strings.Split(string(content), "\n---\n") {
		var meta metav1.PartialObjectMetadata
		if err := yaml.UnmarshalStrict([]byte(text), &map[string]any{}); err != nil {
			t.Fatalf("%s: %v in\n%s", file, err, text)
		}
		if err := yaml.Unmarshal([]byte(text), &meta); err != nil {
			t.Fatalf("%s: %v in\n%s", file, err, text)
		}
		e := &example{
			GroupVersionKind: meta.GroupVersionKind(), namespace: namespace, name: meta.Name, after: change.ReplaceAllString(text, "$1$3"),
			before: change.ReplaceAllString(text, "$1$2"),
		}
		for _, m := range change.FindAllStringSubmatch(text, -1) {
			key := strings.TrimSpace(m[1]) + " "
			e.was, e.then = append(e.was, "-"+bare(key+m[2])), append(e.then, "+"+bare(key+m[3]))
		}
		if e.Kind == "Secret" { // kubectl does not show what is in them
			key, _, _ := strings.Cut(e.was[0], " ")
			e.was, e.then = []string{key + " '*** (before)'"}, []string{"+" + key[1:] + " '*** (after)'"}
		}
		all = append(all, e)
	}
	return all
}

// bare is a line of YAML without its place in the object.
func bare(line string) string { return strings.TrimPrefix(strings.TrimSpace(line), "- ") }

func together(all []*example, text func(*example) string) string {
	var parts []string
	for _, e := range all {
		parts = append(parts, text(e))
	}
	return strings.Join(parts, "\n---\n")
}

func before(e *example) string { return e.before }
func after(e *example) string  { return e.after }

// run runs kubectl and returns what it printed on both of its outputs, and its exit code.
func (k manifestTest) run(input string, args ...string) (stdout, stderr string, code int) {
	k.Helper()
	ctx, cancel := context.WithTimeout(k.Context(), 2*time.Minute)
	defer cancel()
	cmd := k.c.KubectlCommand(ctx, append([]string{"--cache-dir", k.cache}, args...)...)
	var out, errs bytes.Buffer
	cmd.Env = append(cmd.Env, "GOGC=400") // a kubectl lives for a fraction of a second
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() < 0 {
			k.Errorf("kubectl %s: %v (%v)\n%s", strings.Join(args, " "), err, ctx.Err(), errs.String())
			return "", "", -1
		}
		code = exit.ExitCode()
	}
	return out.String(), errs.String(), code
}

// ok runs kubectl and wants it to succeed.
func (k manifestTest) ok(input string, args ...string) string {
	k.Helper()
	out, errs, code := k.run(input, args...)
	if code != 0 {
		k.Errorf("kubectl %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// says wants kubectl to print one line for each object, in their order.
func (k manifestTest) says(input string, all []*example, what func(*example) string, args ...string) {
	k.Helper()
	var want []string
	for _, e := range all {
		want = append(want, e.String()+" "+what(e))
	}
	got := strings.Split(strings.TrimSpace(k.ok(input, args...)), "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		k.Errorf("kubectl %s (-want +got):\n%s", strings.Join(args, " "), diff)
	}
}

func always(what string) func(*example) string { return func(*example) string { return what } }

// kinds holds the examples against discovery, and learns the resources' names.
func (k manifestTest) kinds(stored, created []*example) {
	k.Helper()
	_, lists, err := k.c.Client.Discovery().ServerGroupsAndResources()
	if err != nil {
		k.Fatal(err)
	}
	served := map[string]metav1.APIResource{}
	for _, list := range lists {
		for _, r := range list.APIResources {
			if !strings.Contains(r.Name, "/") {
				served[list.GroupVersion+"/"+r.Kind] = r
			}
		}
	}
	known := map[string]bool{}
	for _, e := range slices.Concat(stored, created) {
		r, ok := served[e.id()]
		if !ok {
			k.Errorf("an example of %s, which is not served", e.id())
		}
		if !r.Namespaced {
			e.namespace = ""
		}
		e.resource, known[e.id()] = r.Name, true
	}
	for id, r := range served {
		switch _, never := neverCreated[id]; {
		case never == known[id]:
			k.Errorf("%s: there is no example, or one too many", id)
		case never == slices.Contains(r.Verbs, "create"):
			k.Errorf("%s: is it created? It has %v", id, r.Verbs)
		}
	}
	for _, e := range created {
		if verbs := served[e.id()].Verbs; !slices.Equal(verbs, []string{"create"}) {
			k.Errorf("%s belongs to what is stored: it has %v", e.id(), verbs)
		}
	}
	for _, e := range stored {
		if len(e.was) != 1 {
			k.Errorf("%s: %d lines change, not one", e, len(e.was))
		}
	}
	k.Logf("%d kinds", len(served))
}

// explain wants kubectl to know every kind, and every field that the examples use.
func (k manifestTest) explain(all []*example) {
	k.Helper()
	all = slices.Clone(all)
	for id := range neverCreated {
		gv, kind, _ := strings.Cut(id, "/")
		all = append(all, &example{GroupVersionKind: schema.GroupVersionKind{Version: gv, Kind: kind}, resource: strings.ToLower(kind)})
	}
	var running sync.WaitGroup
	kinds := make(chan *example, len(all))
	for _, e := range all {
		kinds <- e
	}
	close(kinds)
	for range 2 {
		running.Go(func() {
			for e := range kinds {
				k.explainKind(e)
			}
		})
	}
	running.Wait()
}

func (k manifestTest) explainKind(e *example) {
	args := []string{"explain", e.resource, "--api-version", e.GroupVersion().String()}
	out := k.ok("", args...)
	head := regexp.MustCompile(`(?s)KIND:\s+` + e.Kind + `\nVERSION:\s+` + e.Version + `\n\nDESCRIPTION:\n    \w.*\nFIELDS:\n`)
	if !head.MatchString(out) {
		k.Errorf("explain %s says\n%s", e.id(), out)
	}
	_, fields, _ := strings.Cut(k.ok("", append(args, "--recursive")...), "\nFIELDS:\n")
	lines := strings.Split(fields, "\n")
	tree, _ := fieldTree(lines, 2)
	var object map[string]any
	if err := yaml.Unmarshal([]byte(e.before), &object); err != nil {
		k.Error(err)
	}
	for _, path := range unexplained(object, tree, "") {
		k.Errorf("explain --recursive %s has no field %s", e.id(), path)
	}
}

// explained are fields as kubectl explains them. One without fields of its own is a value, a map of values, or not explained any
// further; those of the values of a map are below anyKey.
type explained map[string]explained

const anyKey = "*"

var explainedField = regexp.MustCompile(`^( *)(\S+)\t<(map\[string\])?`)

// fieldTree reads the fields at the indentation, and returns what comes after them.
func fieldTree(lines []string, indent int) (explained, []string) {
	tree, last, isMap := explained{}, "", false
	for len(lines) > 0 {
		m := explainedField.FindStringSubmatch(lines[0])
		switch {
		case m == nil: // what an enumeration allows, or nothing
			lines = lines[1:]
		case len(m[1]) < indent:
			return tree, lines
		case len(m[1]) > indent:
			if tree[last], lines = fieldTree(lines, len(m[1])); isMap {
				tree[last] = explained{anyKey: tree[last]}
			}
		default:
			last, isMap, lines = m[2], m[3] != "", lines[1:]
			tree[last] = nil
		}
	}
	return tree, nil
}

// unexplained returns the paths of an object's fields that the tree has not.
func unexplained(value any, tree explained, path string) []string {
	var missing []string
	switch v := value.(type) {
	case []any:
		for _, item := range v {
			missing = append(missing, unexplained(item, tree, path)...)
		}
	case map[string]any:
		for key, item := range v {
			of, ok := tree[key]
			if !ok {
				of, ok = tree[anyKey]
			}
			if !ok {
				missing = append(missing, path+"."+key)
			} else if len(of) > 0 {
				missing = append(missing, unexplained(item, of, path+"."+key)...)
			}
		}
	}
	return missing
}

// dryRun wants the file's objects to be created, and not to be there.
func (k manifestTest) dryRun(file string, all []*example) {
	k.Helper()
	k.says("", all, always("created (server dry run)"), "create", "--dry-run=server", "-f", file)
	if out := k.ok(together(all, before), "get", "-f", "-", "--ignore-not-found", "-o", "name"); out != "" {
		k.Errorf("a dry run left these behind:\n%s", out)
	}
}

// apply applies the objects, changes them, and looks at what there is to see each time. Mode is what apply and diff are called
// with.
func (k manifestTest) apply(all []*example, mode ...string) {
	k.Helper()
	command := func(name string) []string { return slices.Concat([]string{name, "-f", "-"}, mode) }
	created, unchanged, configured := always("created"), func(e *example) string {
		if slices.Contains(alwaysConfigured, e.Kind) {
			return "configured"
		}
		return "unchanged"
	}, always("configured")
	if len(mode) > 0 {
		created, unchanged, configured = always("serverside-applied"), always("serverside-applied"), always("serverside-applied")
	}
	k.says(together(all, before), all, created, command("apply")...)
	k.says(together(all, before), all, unchanged, command("apply")...)
	k.same(together(all, before), command("diff")...)
	k.differ(all, command("diff")...)
	k.says(together(all, after), all, configured, command("apply")...)
	k.same(together(all, after), command("diff")...)
	k.get(all)
}

// same wants kubectl diff to see no difference. Controllers write into some objects when they are new, between kubectl's
// two questions too: so at last.
func (k manifestTest) same(manifests string, args ...string) {
	k.Helper()
	k.c.Eventually(time.Minute, func() error {
		if out, errs, code := k.run(manifests, args...); code != 0 || out != "" {
			return fmt.Errorf("kubectl %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errs)
		}
		return nil
	})
}

// byServer are the lines that the server changes because something else has changed.
var byServer = regexp.MustCompile(`^[+-](  generation: |    deprecated\.daemonset\.template\.generation: )`)

// differ wants kubectl diff to see of the changed objects what was changed.
func (k manifestTest) differ(all []*example, args ...string) {
	k.Helper()
	want := map[string][]string{}
	for _, e := range all {
		gvk := strings.TrimPrefix(fmt.Sprintf("%s.%s.%s", e.Group, e.Version, e.Kind), ".")
		lines := slices.Concat(e.was, e.then)
		slices.Sort(lines)
		want[fmt.Sprintf("%s.%s.%s", gvk, e.namespace, e.name)] = lines
	}
	k.c.Eventually(time.Minute, func() error {
		out, errs, code := k.run(together(all, after), args...)
		if code != 1 {
			return fmt.Errorf("kubectl %s: exit code %d, want 1\n%s%s", strings.Join(args, " "), code, out, errs)
		}
		if diff := cmp.Diff(want, changedLines(out)); diff != "" {
			return fmt.Errorf("kubectl %s (-want +got):\n%s", strings.Join(args, " "), diff)
		}
		return nil
	})
}

// changedLines reads kubectl's diff: which lines of which object.
func changedLines(diff string) map[string][]string {
	changed, object := map[string][]string{}, ""
	for line := range strings.Lines(diff) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "diff "):
			object = line[strings.LastIndex(line, "/")+1:]
			changed[object] = nil
		case strings.HasPrefix(line, "--- "), strings.HasPrefix(line, "+++ "), byServer.MatchString(line):
		case strings.HasPrefix(line, "-"), strings.HasPrefix(line, "+"):
			changed[object] = append(changed[object], line[:1]+bare(line[1:]))
		}
	}
	for _, lines := range changed {
		slices.Sort(lines)
	}
	return changed
}

// get wants the changed objects to be what they were changed to, and to be shown in tables and in words.
func (k manifestTest) get(all []*example) {
	k.Helper()
	var list unstructured.UnstructuredList
	if err := yaml.Unmarshal([]byte(k.ok(together(all, after), "get", "-f", "-", "-o", "yaml")), &list); err != nil || len(list.Items) != len(all) {
		k.Errorf("get -o yaml: %d objects of %d, %v", len(list.Items), len(all), err)
		return
	}
	table, words := k.ok(together(all, after), "get", "-f", "-"), k.ok(together(all, after), "describe", "-f", "-")
	for i, e := range all {
		var want map[string]any
		if err := yaml.Unmarshal([]byte(e.after), &want); err != nil {
			k.Error(err)
		}
		if got := list.Items[i].Object; !within(want, got) {
			k.Errorf("%s is not what was applied (-want +got):\n%s", e, cmp.Diff(want, got))
		}
		if e.Kind != "Event" && !regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(e.String())+` `).MatchString(table) {
			k.Errorf("no %s in\n%s", e, table)
		}
		if !regexp.MustCompile(`(?m)^Name: +` + regexp.QuoteMeta(e.name) + `$`).MatchString(words) {
			k.Errorf("no %s in\n%s", e.name, words)
		}
	}
}

// within says whether all of want is in got.
func within(want, got any) bool {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return len(w) == 0 && got == nil
		}
		for key, value := range w {
			if !within(value, g[key]) {
				return false
			}
		}
		return true
	case []any:
		g, ok := got.([]any)
		return ok && !slices.ContainsFunc(w, func(item any) bool {
			return !slices.ContainsFunc(g, func(other any) bool { return within(item, other) })
		})
	case bool:
		return w == (got == true) // false may be left out
	default:
		return fmt.Sprint(want) == fmt.Sprint(got)
	}
}

// ask creates what is not stored and looks at the answers.
func (k manifestTest) ask(all []*example) {
	k.Helper()
	k.says("", all, always("created (server dry run)"), "create", "--dry-run=server", "-f", "testdata/created.yaml")
	node := []string{"get", "pod", "example", "-o", "jsonpath={.spec.nodeName}"}
	if out := k.ok("", node...); out != "" {
		k.Errorf("a dry run bound the pod to %q", out)
	}
	answers := strings.Split(k.ok(together(all, before), "create", "-f", "-", "-o", "yaml"), "\n---\n")
	want := map[string]string{
		"SelfSubjectReview": "username: kubernetes-admin", "TokenReview": "status:", "LocalSubjectAccessReview": "allowed: false", "SubjectAccessReview": "allowed: false",
		"SelfSubjectAccessReview": "allowed: true", "SelfSubjectRulesReview": "incomplete: false", "Binding": "status: Success",
	}
	for _, answer := range answers {
		maps.DeleteFunc(want, func(kind, part string) bool {
			return (strings.Contains(answer, "kind: "+kind+"\n") || kind == "Binding" && strings.Contains(answer, "kind: Status\n")) && strings.Contains(answer, part)
		})
	}
	if len(want) > 0 {
		k.Errorf("not answered: %v in\n%s", want, strings.Join(answers, "\n---\n"))
	}
	if out := k.ok("", node...); out != "server" {
		k.Errorf("the Binding bound the pod to %q", out)
	}
}

// delete deletes the objects. It does not let kubectl wait, because kubectl then asks for five a second.
func (k manifestTest) delete(all []*example) {
	k.Helper()
	manifests := together(all, after)
	out := k.ok(manifests, "delete", "-f", "-", "--wait=false")
	if got := strings.Count(out, " deleted"); got != len(all) {
		k.Errorf("%d objects of %d were deleted:\n%s", got, len(all), out)
	}
	k.c.Eventually(time.Minute, func() error {
		if out, errs, code := k.run(manifests, "get", "-f", "-", "--ignore-not-found", "-o", "name"); code != 0 || out != "" {
			return fmt.Errorf("still there, exit code %d:\n%s%s", code, out, errs)
		}
		return nil
	})
}
