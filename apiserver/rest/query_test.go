package rest

import (
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestFromQuery(t *testing.T) {
	for _, c := range []struct {
		name, query string
		want        runtime.Object
	}{
		{"exec", "command=cat&command=%2Fetc%2Fhosts&container=c&stdout=true&stderr=1&tty=false&stdin=0",
			&corev1.PodExecOptions{Command: []string{"cat", "/etc/hosts"}, Container: "c", Stdout: true, Stderr: true}},
		{"attach without values", "stdin&tty=", &corev1.PodAttachOptions{Stdin: true, TTY: true}},
		{"proxy", "path=%2Fa%2Fb&other=1", &corev1.ServiceProxyOptions{Path: "/a/b"}},
		{"nothing", "", &corev1.PodExecOptions{}},
		{"what is no option", "kind=Pod&ports=x", &corev1.PodPortForwardOptions{}},
	} {
		query, err := url.ParseQuery(c.query)
		if err != nil {
			t.Fatal(err)
		}
		got := c.want.DeepCopyObject()
		switch o := got.(type) {
		case *corev1.PodExecOptions:
			*o = corev1.PodExecOptions{}
		case *corev1.PodAttachOptions:
			*o = corev1.PodAttachOptions{}
		case *corev1.ServiceProxyOptions:
			*o = corev1.ServiceProxyOptions{}
		}
		fromQuery(query, got)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}
