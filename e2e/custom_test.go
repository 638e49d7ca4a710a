package e2e

import (
	"regexp"
	"strings"
	"testing"

	"github.com/mini-k8s/mini/e2e/scenario"
)

// TestKubectlCustomKind does with a custom kind of two versions what TestKubectlEveryKind does with the built-in ones, and what only
// custom kinds have: pruning, defaults, rules, columns and subresources that their definition says.
func TestKubectlCustomKind(t *testing.T) {
	c := scenario.Start(t, scenario.Options{}).With(t, scenario.EmbeddedKubectl(), "custom")
	k := manifestTest{T: t, c: c, cache: t.TempDir()}
	k.ok("", "apply", "-f", "testdata/boxdefinition.yaml")
	k.ok("", "wait", "--for=condition=Established", "crd/boxes.kinds.example.org", "--timeout=60s")
	boxes := readExamples(t, "testdata/custom.yaml", "custom")
	for _, e := range boxes {
		e.resource = "boxes"
		k.explainKind(e)
	}
	k.dryRun("testdata/custom.yaml", boxes)
	k.apply(boxes)
	k.subresources()
	k.delete(boxes)
	k.apply(boxes, "--server-side")
	k.columns()
	k.refused(boxes[0].after)
	k.pruned(boxes[0].after)
	k.ok("", "delete", "-f", "testdata/boxdefinition.yaml", "--timeout=60s")
	k.fails("", "the server ", "get", "boxes")
}

// fails runs kubectl and wants it to fail and to say the text.
func (k manifestTest) fails(input, want string, args ...string) {
	k.Helper()
	if out, errs, code := k.run(input, args...); code == 0 || !strings.Contains(out+errs, want) {
		k.Errorf("kubectl %s: exit code %d, want a failure with %q\n%s%s", strings.Join(args, " "), code, want, out, errs)
	}
}

// prints runs kubectl and wants it to print what the expression matches.
func (k manifestTest) prints(want string, args ...string) {
	k.Helper()
	if out := k.ok("", args...); !regexp.MustCompile(want).MatchString(out) {
		k.Errorf("kubectl %s: want %s in\n%s", strings.Join(args, " "), want, out)
	}
}

func (k manifestTest) columns() {
	k.Helper()
	k.prints(`^NAME +SIZE +COLOUR\none +4 +green\ntwo +3 +red\n$`, "get", "boxes")
	k.prints(`^NAME +PARTS\none +a\ntwo *\n$`, "get", "boxes.v1beta1.kinds.example.org")
	k.prints(`box\.kinds\.example\.org/one +4 +green`, "get", "all")
}

// subresources: spec and status are changed apart from each other, and scale changes what the definition says.
func (k manifestTest) subresources() {
	k.Helper()
	status := `{"spec":{"size":9},"status":{"size":2,"selector":"app=box"}}`
	k.ok("", "patch", "bx", "one", "--subresource=status", "--type=merge", "-p", status)
	k.prints(`^4 2$`, "get", "bx", "one", "-o", "jsonpath={.spec.size} {.status.size}")
	k.prints(`^4 2 app=box$`, "get", "bx", "one", "--subresource=scale", "-o", "jsonpath={.spec.replicas} {.status.replicas} {.status.selector}")
	k.ok("", "scale", "bx", "one", "--replicas=5")
	k.prints(`^5 2$`, "get", "bx", "one", "-o", "jsonpath={.spec.size} {.status.size}")
}

// refused: what the schema and its rules do not allow, and a field that it does not have.
func (k manifestTest) refused(box string) {
	k.Helper()
	for _, test := range []struct{ was, now, says string }{
		{"size: 4", "size: 0", "spec.size in body should be greater than or equal to 1"},
		{"size: 4", "size: 11\n  colour: red", "red boxes are small"},
		{"size: 4", "size: 5\n  colour: blue", "one thing at a time"},
		{"size: 4", "size: 4\n  colour: pink", `spec.colour: Unsupported value: "pink": supported values: "red", "green", "blue"`},
	} {
		k.fails(strings.Replace(box, test.was, test.now, 1), test.says, "apply", "--server-side", "--dry-run=server", "-f", "-")
	}
	k.fails(strings.Replace(box, "spec:\n", "spec:\n  shape: round\n", 1), `unknown field "spec.shape"`, "create", "--dry-run=server", "-f", "-")
}

// pruned: a field that the schema does not have is taken away, one where it allows anything stays, and defaults are filled in.
func (k manifestTest) pruned(box string) {
	k.Helper()
	box = strings.NewReplacer("name: one", "name: three", "spec:\n", "spec:\n  shape: round\n", "b, count: 1", "b").Replace(box)
	k.ok(box, "create", "--validate=ignore", "-f", "-")
	k.prints(`^green  1 \["all"\]$`, "get", "bx", "three", "-o", `jsonpath={.spec.colour} {.spec.shape} {.spec.parts[1].count} {.spec.anything.at}`)
}
