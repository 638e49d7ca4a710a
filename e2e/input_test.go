package e2e

import (
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/mini-k8s/mini/e2e/scenario"
)

// TestBadInput: mistakes get a clear answer and change nothing.
func TestBadInput(t *testing.T) {
	c := scenario.Start(t, scenario.Options{})
	cm := func(body string) string { return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad}\n" + body }
	for name, tt := range map[string]struct{ manifest, want string }{
		"unknown-field": {cm("dat: {a: b}"), `unknown field "dat"`},
		"wrong-type":    {cm("data: [1, 2]"), "cannot unmarshal array"},
		"number-value":  {cm("data: {a: 1}"), "cannot unmarshal number"},
		"bad-name":      {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Bad_Name}", "lowercase RFC 1123 subdomain"},
		"bad-key":       {cm("data: {'a b': x}"), "a valid config key must consist of"},
		"too-large":     {cm("data: {a: " + strings.Repeat("x", 2<<20) + "}"), "Too long"},
		"no-containers": {"apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: []}", "Required value"},
		"no-namespace":  {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: nowhere}", `namespaces "nowhere" not found`},
	} {
		out, err := c.TryKubectlInput(30*time.Second, tt.manifest, "create", "-f", "-")
		if err == nil || !strings.Contains(string(out), tt.want) {
			t.Errorf("%s: %v, said %q, want %q", name, err, out, tt.want)
		}
	}

	gizmo := "apiVersion: v1\nkind: Gizmo\nmetadata: {name: x}"
	if out, err := c.TryKubectlInput(30*time.Second, gizmo, "create", "--validate=false", "-f", "-"); err == nil || !strings.Contains(string(out), `no matches for kind "Gizmo"`) {
		t.Errorf("a kind that does not exist: %v, said %q", err, out)
	}

	c.Apply(cm("data: {a: '1'}"))
	stale := c.Kubectl("get", "configmap", "bad", "-o", "yaml")
	c.Kubectl("patch", "configmap", "bad", "-p", `{"data":{"a":"2"}}`)
	out, err := c.TryKubectlInput(30*time.Second, stale, "replace", "-f", "-")
	if err == nil || !strings.Contains(string(out), "the object has been modified; please apply your changes to the latest version and try again") {
		t.Errorf("stale resourceVersion: %v, said %q", err, out)
	}
	if v := c.Kubectl("get", "configmap", "bad", "-o", "jsonpath={.data.a}"); v != "2" {
		t.Errorf("the value is %q after a refused replace", v)
	}

	wrong := rest.AnonymousClientConfig(c.Config)
	wrong.BearerToken = "abcdef.0123456789abcdef"
	client, err := kubernetes.NewForConfig(wrong)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("a wrong token: %v, want Unauthorized", err)
	}

	c.Apply("apiVersion: v1\nkind: Pod\nmetadata: {name: no-image}\nspec: {containers: [{name: c, image: 'registry.invalid/nothing:1'}]}")
	c.Eventually(60*time.Second, func() error {
		return contains(c.Kubectl("get", "pod", "no-image"), "ErrImagePull", "ImagePullBackOff")
	})
	c.Eventually(60*time.Second, func() error {
		return contains(c.Kubectl("describe", "pod", "no-image"), "Failed to pull image")
	})
}

type missing string

func (m missing) Error() string { return string(m) }

func contains(text string, anyOf ...string) error {
	for _, want := range anyOf {
		if strings.Contains(text, want) {
			return nil
		}
	}
	return missing("none of " + strings.Join(anyOf, ", ") + " in: " + text)
}
