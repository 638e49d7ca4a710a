package stream

import (
	"context"
	"encoding/base64"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// The protocols in which a plain stream of bytes goes over a WebSocket: binary messages, or text messages in base64.
const (
	protocolBinary = "binary.k8s.io"
	protocolBase64 = "base64.binary.k8s.io"
)

// closeTime is how long a client may take to read that the stream has ended.
const closeTime = 5 * time.Second

// overWebSocket answers a WebSocket with what h answers to the plain request: the body goes as messages, and its end closes
// the connection. An answer that is no success goes out as it is, before any upgrade.
func overWebSocket(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !websocket.IsWebSocketUpgrade(r) {
			h.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		plain := r.Clone(ctx)
		for name := range plain.Header {
			if name == "Connection" || name == "Upgrade" || strings.HasPrefix(name, "Sec-Websocket-") {
				delete(plain.Header, name)
			}
		}
		m := &messages{w: w, r: r, cancel: cancel, header: http.Header{}}
		defer m.close()
		h.ServeHTTP(m, plain)
	})
}

// messages is a ResponseWriter that sends a body as WebSocket messages.
type messages struct {
	w      http.ResponseWriter
	r      *http.Request
	cancel context.CancelFunc
	header http.Header
	wrote  bool
	failed bool // the answer is no success and goes to w
	conn   *websocket.Conn
}

func (m *messages) Header() http.Header { return m.header }

func (m *messages) WriteHeader(code int) {
	if m.wrote || code < http.StatusOK {
		return
	}
	m.wrote = true
	if code >= http.StatusMultipleChoices {
		m.failed = true
		for k, v := range m.header {
			m.w.Header()[k] = v
		}
		m.w.WriteHeader(code)
		return
	}
	// Every origin may ask: what a user may do hangs on credentials that no browser adds by itself.
	up := websocket.Upgrader{Subprotocols: []string{protocolBinary, protocolBase64}, CheckOrigin: func(*http.Request) bool { return true }}
	conn, err := up.Upgrade(m.w, m.r, nil)
	if err != nil { // the client has been told
		m.cancel()
		return
	}
	m.conn = conn
	go func() { // the client says nothing but that it goes
		defer m.cancel()
		for {
			if _, _, err := conn.NextReader(); err != nil {
				return
			}
		}
	}()
}

func (m *messages) Write(p []byte) (int, error) {
	m.WriteHeader(http.StatusOK)
	switch {
	case m.failed:
		return m.w.Write(p)
	case m.conn == nil:
		return 0, context.Canceled
	case m.conn.Subprotocol() == protocolBase64:
		return len(p), m.conn.WriteMessage(websocket.TextMessage, []byte(base64.StdEncoding.EncodeToString(p)))
	}
	return len(p), m.conn.WriteMessage(websocket.BinaryMessage, p)
}

// Flush has nothing to do: a message is sent when it is written.
func (m *messages) Flush() {}

func (m *messages) close() {
	if m.conn == nil {
		return
	}
	end := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	_ = m.conn.WriteControl(websocket.CloseMessage, end, time.Now().Add(closeTime)) // it may have gone
	m.conn.Close()
}
