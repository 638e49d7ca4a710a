package result

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestSend(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan Result, 2)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Receive(func(r Result) { got <- r })
	}()
	if err := Send(socket, Result{Name: "a", Passed: true}); err != nil {
		t.Fatal(err)
	}
	if err := Send(socket, Result{Name: "b", Failure: strings.Repeat("\n", 1<<20)}); err != nil {
		t.Fatal(err)
	}
	if r := <-got; r.Name != "a" || !r.Passed {
		t.Errorf("got %+v", r)
	}
	if r := <-got; r.Name != "b" || len(r.Failure) != maxFailure {
		t.Errorf("got %s with a failure of %d bytes, want it cut", r.Name, len(r.Failure))
	}
	l.Close()
	<-done
	if err := Send(socket, Result{Name: "c"}); err == nil {
		t.Error("nobody listens, and Send says nothing")
	}
}
