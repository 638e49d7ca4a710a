package apiserver_test

import (
	"strings"
	"testing"
)

// TestKubectl drives the server with an unmodified kubectl.
func TestKubectl(t *testing.T) {
	c := start(t)
	const manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: {app: x}}\ndata: {k: v}\n"
	for _, step := range []struct {
		args  string
		stdin string
		want  []string
		fails bool
	}{
		{args: "version", want: []string{"Server Version: v1.36.3"}},
		{args: "api-resources", want: []string{"configmaps", "cm", "namespaces"}},
		{args: "get ns", want: []string{"default", "kube-system", "kube-public", "kube-node-lease", "Active"}},
		{args: "create configmap b --from-literal=x=y", want: []string{"configmap/b created"}},
		{args: "create configmap b --from-literal=x=y", want: []string{`configmaps "b" already exists`}, fails: true},
		{args: "apply -f - --validate=false", stdin: manifest, want: []string{"configmap/a created"}},
		{args: "apply -f - --validate=false", stdin: manifest, want: []string{"configmap/a unchanged"}},
		{args: "apply -f - --validate=false", stdin: strings.Replace(manifest, "k: v", "k: w", 1), want: []string{"configmap/a configured"}},
		{args: "get cm a -o jsonpath={.data.k}", want: []string{"w"}},
		{args: "get cm", want: []string{"NAME", "DATA", "AGE", "a ", "b "}},
		{args: "get cm -l app=x -o name", want: []string{"configmap/a"}},
		{args: "get cm -A", want: []string{"NAMESPACE"}},
		{args: "get cm a -o yaml", want: []string{"k: w", "kind: ConfigMap", "resourceVersion:"}},
		{args: "patch cm a --type=json -p [{\"op\":\"replace\",\"path\":\"/data/k\",\"value\":\"j\"}]", want: []string{"patched"}},
		{args: "patch cm a --type=merge -p {\"data\":{\"m\":\"1\"}}", want: []string{"patched"}},
		{args: "patch cm a -p {\"data\":{\"s\":\"2\"}}", want: []string{"patched"}},
		{args: "get cm a -o jsonpath={.data}", want: []string{`"k":"j"`, `"m":"1"`, `"s":"2"`}},
		{args: "label cm a l=1", want: []string{"labeled"}},
		{args: "annotate cm a n=1", want: []string{"annotated"}},
		{args: "apply --server-side -f - --validate=false", stdin: manifest, want: []string{"conflict"}, fails: true},
		{args: "apply --server-side --force-conflicts -f - --validate=false", stdin: manifest, want: []string{"serverside-applied"}},
		{args: "get cm a --show-managed-fields -o yaml", want: []string{"manager: kubectl", "operation: Apply", "f:data"}},
		{args: "describe cm a", want: []string{"Name:", "Data"}},
		{args: "delete cm a", want: []string{`configmap "a" deleted`}},
		{args: "get cm a", want: []string{`configmaps "a" not found`}, fails: true},
		{args: "create ns n", want: []string{"namespace/n created"}},
		{args: "get svc kubernetes", want: []string{"10.43.0.1", "443/TCP"}},
	} {
		out, err := c.kubectl(t, step.stdin, strings.Fields(step.args)...)
		if (err != nil) != step.fails {
			t.Errorf("kubectl %s: %v\n%s", step.args, err, out)
		}
		for _, want := range step.want {
			if !strings.Contains(out, want) {
				t.Errorf("kubectl %s: no %q in\n%s", step.args, want, out)
			}
		}
	}
}
