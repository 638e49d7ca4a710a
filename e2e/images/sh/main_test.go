package main

import "testing"

func TestShell(t *testing.T) {
	for want, environ := range map[string][]string{
		"/bin/ash":  {"PATH=/bin", "KUBERNETES_PORT_443_TCP=tcp://10.43.0.1:443", "A=b-c.d"},
		"/bin/bash": {"PATH=/bin", "data-1=value"},
	} {
		if got := shell(environ); got != want {
			t.Errorf("shell(%q) = %s, want %s", environ, got, want)
		}
	}
	if got := shell([]string{"a.b=c"}); got != "/bin/bash" {
		t.Errorf("a dot: %s", got)
	}
}
