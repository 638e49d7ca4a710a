package stream

import (
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

func TestOverWebSocket(t *testing.T) {
	gone := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/text", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" || r.Header.Get("Sec-Websocket-Key") != "" {
			t.Errorf("the plain request has %v", r.Header)
		}
		io.WriteString(w, "one\n")
		http.NewResponseController(w).Flush()
		io.WriteString(w, "two\n")
	})
	mux.HandleFunc("/empty", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("/fails", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no such container", http.StatusBadRequest)
	})
	mux.HandleFunc("/follow", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "begun")
		<-r.Context().Done()
		close(gone)
	})
	srv := httptest.NewServer(overWebSocket(mux))
	defer srv.Close()
	dial := func(path string, protocols ...string) (*websocket.Conn, *http.Response, error) {
		return (&websocket.Dialer{Subprotocols: protocols}).Dial("ws"+strings.TrimPrefix(srv.URL, "http")+path, nil)
	}
	read := func(path string, protocols ...string) string {
		t.Helper()
		c, _, err := dial(path, protocols...)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var all []byte
		for {
			kind, p, err := c.ReadMessage()
			if websocket.IsCloseError(err, websocket.CloseNormalClosure) {
				return string(all)
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.Subprotocol() == protocolBase64 {
				if p, err = base64.StdEncoding.DecodeString(string(p)); err != nil || kind != websocket.TextMessage {
					t.Fatal(kind, err)
				}
			}
			all = append(all, p...)
		}
	}
	for _, protocol := range [][]string{nil, {protocolBinary}, {protocolBase64}, {"unknown.example.com", protocolBinary}} {
		if got := read("/text", protocol...); got != "one\ntwo\n" {
			t.Errorf("%v: %q", protocol, got)
		}
	}
	if got := read("/empty", protocolBinary); got != "" {
		t.Errorf("%q", got)
	}
	_, res, err := dial("/fails", protocolBinary)
	if !errors.Is(err, websocket.ErrBadHandshake) || res.StatusCode != http.StatusBadRequest {
		t.Fatalf("%v, %v", res, err)
	}
	if text, err := io.ReadAll(res.Body); err != nil || !strings.Contains(string(text), "no such container") {
		t.Errorf("%q, %v", text, err)
	}
	c, _, err := dial("/follow", protocolBinary)
	if err != nil {
		t.Fatal(err)
	}
	if _, p, err := c.ReadMessage(); err != nil || string(p) != "begun" {
		t.Errorf("%q, %v", p, err)
	}
	c.Close()
	select {
	case <-gone:
	case <-time.After(time.Minute):
		t.Error("the reader behind goes on after the client has gone")
	}
	// And the plain request is served as ever.
	plain, err := http.Get(srv.URL + "/text")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Body.Close()
	if text, err := io.ReadAll(plain.Body); err != nil || string(text) != "one\ntwo\n" {
		t.Errorf("%q, %v", text, err)
	}
}
