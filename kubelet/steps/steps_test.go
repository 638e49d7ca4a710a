// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New()
		ctx := With(t.Context(), r)
		time.Sleep(time.Millisecond)
		whole := Begin(ctx, "the sandbox: all of it")
		time.Sleep(2 * time.Millisecond)
		network := Begin(context.WithoutCancel(ctx), "network")
		time.Sleep(1500 * time.Microsecond)
		network()
		whole()
		want := []Step{
			{"the sandbox: all of it", time.Millisecond, 3500 * time.Microsecond},
			{"network", 3 * time.Millisecond, 1500 * time.Microsecond},
		}
		if d := cmp.Diff(want, r.Steps()); d != "" {
			t.Error(d)
		}
		if got, want := r.String(), "the sandbox: all of it 1.000+3.500; network 3.000+1.500"; got != want {
			t.Errorf("String: %q, want %q", got, want)
		}
		read, err := Parse(r.String())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, read); d != "" {
			t.Error("Parse:", d)
		}
	})
}

func TestNoRecord(t *testing.T) {
	Begin(t.Context(), "nobody asked")()
	if ctx := t.Context(); With(ctx, nil) != ctx {
		t.Error("no record changed the context")
	}
	if got := (*Record)(nil).String(); got != "" {
		t.Errorf("no record: %q", got)
	}
	if n := testing.AllocsPerRun(100, func() { Begin(context.Background(), "x")() }); n > 0 {
		t.Errorf("a step that nobody notes allocates %.0f times", n)
	}
}

func TestRecordIsBounded(t *testing.T) {
	r := New()
	for range 10 * most {
		r.Begin("x")()
	}
	if n := len(r.Steps()); n != most {
		t.Errorf("%d steps are kept, want %d", n, most)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{"x", "x 1", "x 1+", "x a+1", "1+1", "x 1+1; "} {
		if got, err := Parse(s); err == nil {
			t.Errorf("%q is %v", s, got)
		}
	}
}
