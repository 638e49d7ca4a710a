package apiserver

import (
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"
)

// TestPipe checks that what is written is read, whole and in order, however the two sides cut it.
func TestPipe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		writes := rapid.SliceOfN(rapid.SliceOf(rapid.Byte()), 0, 20).Draw(t, "writes")
		size := rapid.IntRange(1, 50).Draw(t, "size")
		p := newPipe(func() {})
		var want []byte
		for _, b := range writes {
			want = append(want, b...)
		}
		go func() {
			defer p.finish()
			for _, b := range writes {
				p.Write(b) //nolint:errcheck // the reader below misses what is lost
			}
		}()
		var got []byte
		for buf := make([]byte, size); ; {
			n, err := p.Read(buf)
			got = append(got, buf[:n]...)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if string(got) != string(want) {
			t.Fatalf("%q, want %q", got, want)
		}
	})
}

// TestPipeWaits checks that a writer waits for a reader that is far behind, and is let go when the reader leaves.
func TestPipeWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cancelled := false
		p := newPipe(func() { cancelled = true })
		done := make(chan error, 1)
		go func() {
			for {
				if _, err := p.Write(make([]byte, 64<<10)); err != nil {
					done <- err
					return
				}
			}
		}()
		synctest.Wait()
		p.mu.Lock()
		ahead := len(p.buf)
		p.mu.Unlock()
		if ahead < pipeLimit || ahead > pipeLimit+128<<10 {
			t.Errorf("the writer is %d bytes ahead", ahead)
		}
		p.Close()
		if err := <-done; !errors.Is(err, io.ErrClosedPipe) || !cancelled {
			t.Errorf("%v, cancelled %v", err, cancelled)
		}
		if _, err := p.Read(make([]byte, 1)); err == nil && ahead == 0 {
			t.Error("a closed pipe can be read for ever")
		}
	})
}

// TestPipeHeader checks that the response has the headers as they were when it began.
func TestPipeHeader(t *testing.T) {
	p := newPipe(func() {})
	p.Header().Set("A", "1")
	p.WriteHeader(http.StatusTeapot)
	p.Header().Set("A", "2")
	p.WriteHeader(http.StatusOK)
	if r := p.sent.response(&http.Request{}, p); r.StatusCode != http.StatusTeapot || r.Header.Get("A") != "1" {
		t.Errorf("%d %v", r.StatusCode, r.Header)
	}
}
