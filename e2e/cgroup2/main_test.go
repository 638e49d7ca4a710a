package main

import (
	"errors"
	"strings"
	"testing"
)

// TestVerdict: only a machine that says PASS at its end, and ends well, has passed.
func TestVerdict(t *testing.T) {
	broken := errors.New("qemu: exit status 1")
	for _, c := range []struct {
		last string
		err  error
		want string // part of the error; "" for none
	}{
		{"cgroup2: PASS", nil, ""},
		{"cgroup2: PASS", broken, "exit status 1"},
		{"cgroup2: FAIL: the node is Ready: too late", nil, "the scenario failed: the node is Ready: too late"},
		{"cgroup2: FAIL: the node is Ready: too late", broken, "the scenario failed: the node is Ready: too late"},
		{"cgroup2: ok  the node is Ready", nil, `without a result; its last step was "cgroup2: ok  the node is Ready"`},
		{"", nil, "without a result"},
		{"", broken, "exit status 1"},
	} {
		got := verdict(c.last, c.err)
		if (got == nil) != (c.want == "") || got != nil && !strings.Contains(got.Error(), c.want) {
			t.Errorf("%q, %v: %v, want %q", c.last, c.err, got, c.want)
		}
	}
}
