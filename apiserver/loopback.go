package apiserver

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync"

	"k8s.io/apiserver/pkg/authentication/user"
	clientrest "k8s.io/client-go/rest"

	"github.com/mini-k8s/mini/apiserver/request"
	"github.com/mini-k8s/mini/internal/version"
)

// loopbackUserKey is the context key of the user of an in-process request.
type loopbackUserKey struct{}

// LoopbackUser is who the components of this process are to the server.
var loopbackUser = &user.DefaultInfo{
	Name: "system:apiserver", UID: "loopback", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated},
}

// LoopbackConfig is a client of this server without a network: its requests go straight to the handler as
// system:apiserver, and may impersonate. It speaks protobuf, is not rate-limited, and streams watches and logs; connections
// that are taken over (exec, port-forward) need the real server.
func (s *Server) LoopbackConfig() *clientrest.Config {
	return &clientrest.Config{
		Host:      "http://in-process",
		Transport: &loopback{server: s},
		UserAgent: "mini/" + version.Mini,
		QPS:       -1,
		ContentConfig: clientrest.ContentConfig{
			AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json",
			ContentType:        "application/vnd.kubernetes.protobuf",
		},
	}
}

// loopback is an http.RoundTripper over the server's handler. A short request runs in its caller's goroutine and leaves its
// body in memory; a long one has a goroutine and a pipe of its own.
type loopback struct{ server *Server }

func (l *loopback) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := context.WithValue(r.Context(), loopbackUserKey{}, loopbackUser)
	info := request.Parse(r)
	if longRunning(&info) {
		return l.stream(ctx, r)
	}
	w := &memoryWriter{header: http.Header{}}
	in := serverRequest(ctx, r)
	l.server.handler.ServeHTTP(w, in)
	if r.Body != nil {
		r.Body.Close() //nolint:errcheck // a RoundTripper closes it, and has read what it needs
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.response(r, io.NopCloser(bytes.NewReader(w.body))), nil
}

// serverRequest makes of a client's request what a server would have received.
func serverRequest(ctx context.Context, r *http.Request) *http.Request {
	in := r.WithContext(ctx)
	in.RequestURI = r.URL.RequestURI()
	if claimsAnother(r.Header) { // the chain takes these headers away
		in.Header = r.Header.Clone()
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	return in
}

func (l *loopback) stream(ctx context.Context, r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(ctx)
	p := newPipe(cancel)
	go func() {
		defer p.finish()
		l.server.handler.ServeHTTP(p, serverRequest(ctx, r))
		if r.Body != nil {
			r.Body.Close() //nolint:errcheck // a RoundTripper closes it, and has read what it needs
		}
	}()
	select {
	case <-p.started:
		return p.sent.response(r, p), nil
	case <-r.Context().Done():
		cancel()
		return nil, r.Context().Err()
	}
}

// memoryWriter keeps an answer.
type memoryWriter struct {
	header http.Header
	code   int
	body   []byte
}

func (w *memoryWriter) Header() http.Header { return w.header }

func (w *memoryWriter) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
	}
}

func (w *memoryWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	w.body = append(w.body, b...)
	return len(b), nil
}

func (w *memoryWriter) response(r *http.Request, body io.ReadCloser) *http.Response {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	return &http.Response{
		Status: http.StatusText(w.code), StatusCode: w.code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, Body: body, ContentLength: -1, Request: r,
	}
}

// pipeLimit is how far a writer may be ahead of its reader.
const pipeLimit = 1 << 20

// pipe is a ResponseWriter whose other end is the response's body. Unlike io.Pipe it has a buffer, so that a frame costs no
// hand-over between goroutines per write.
type pipe struct {
	memoryWriter
	cancel  context.CancelFunc
	started chan struct{}
	begin   sync.Once
	sent    memoryWriter // code and header of the response, once started is closed

	mu       sync.Mutex
	moved    sync.Cond
	buf      []byte
	off      int
	finished bool // the handler has returned
	closed   bool // the reader has gone
}

func newPipe(cancel context.CancelFunc) *pipe {
	p := &pipe{memoryWriter: memoryWriter{header: http.Header{}}, cancel: cancel, started: make(chan struct{})}
	p.moved.L = &p.mu
	return p
}

func (p *pipe) WriteHeader(code int) {
	p.begin.Do(func() {
		p.sent = memoryWriter{header: p.header.Clone(), code: code} // the handler may go on with its own
		close(p.started)
	})
}

func (p *pipe) Write(b []byte) (int, error) {
	p.WriteHeader(http.StatusOK)
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.buf)-p.off > pipeLimit && !p.closed {
		p.moved.Wait()
	}
	if p.closed {
		return 0, io.ErrClosedPipe
	}
	p.buf = append(p.buf, b...)
	p.moved.Broadcast()
	return len(b), nil
}

// FlushError does nothing: what is written can be read.
func (p *pipe) FlushError() error { return nil }

func (p *pipe) finish() {
	p.WriteHeader(http.StatusOK)
	p.mu.Lock()
	p.finished = true
	p.moved.Broadcast()
	p.mu.Unlock()
	p.cancel()
}

func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.off == len(p.buf) {
		switch {
		case p.closed:
			return 0, io.ErrClosedPipe
		case p.finished:
			return 0, io.EOF
		}
		p.moved.Wait()
	}
	n := copy(b, p.buf[p.off:])
	p.off += n
	if p.off == len(p.buf) {
		p.off = 0
		if p.buf = p.buf[:0]; cap(p.buf) > 64<<10 {
			p.buf = nil
		}
	}
	p.moved.Broadcast()
	return n, nil
}

func (p *pipe) Close() error {
	p.mu.Lock()
	p.closed = true
	p.moved.Broadcast()
	p.mu.Unlock()
	p.cancel()
	return nil
}
