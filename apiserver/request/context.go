package request

import (
	"context"
	"maps"
	"sync"

	"k8s.io/apiserver/pkg/authentication/user"
)

// State is what is known about one request.
type State struct {
	Info    Info
	User    user.Info // who the request is for: the impersonated user where there is one
	Actor   user.Info // who authenticated, where that is not User; else nil
	AuditID string

	// Started is called, any number of times, by who serves a watch once its client has all that was there before: from
	// then on the watch costs next to nothing. nil where nobody wants to know.
	Started func()

	Audit *Audit // what an audit event says beside all that; nil outside of the server's own requests
}

// Audit gathers the annotations of a request's audit event: what admission plugins and policies say about it. It is the
// place an audit log reads them from. The zero Audit is empty; it may be used by several goroutines.
type Audit struct {
	mu          sync.Mutex
	annotations map[string]string
}

// Annotate sets an annotation: a write that is tried again says it again.
func (a *Audit) Annotate(key, value string) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.annotations == nil {
		a.annotations = map[string]string{}
	}
	a.annotations[key] = value
}

// Annotations are those set so far.
func (a *Audit) Annotations() map[string]string {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.annotations)
}

type stateKey struct{}

// With returns a context that carries s.
func With(ctx context.Context, s *State) context.Context {
	return context.WithValue(ctx, stateKey{}, s)
}

// From returns the request's state, nil outside of a request.
func From(ctx context.Context) *State {
	s, _ := ctx.Value(stateKey{}).(*State)
	return s
}

// InfoFrom returns what the request asks for; the zero Info outside of a request.
func InfoFrom(ctx context.Context) Info {
	if s := From(ctx); s != nil {
		return s.Info
	}
	return Info{}
}

// WithUser returns a context whose user is u; everything else stays.
func WithUser(ctx context.Context, u user.Info) context.Context {
	s := State{}
	if old := From(ctx); old != nil {
		s = *old
	}
	s.User = u
	return With(ctx, &s)
}

// UserFrom returns the user the request is for; nil before authentication and outside of a request.
func UserFrom(ctx context.Context) user.Info {
	if s := From(ctx); s != nil {
		return s.User
	}
	return nil
}
