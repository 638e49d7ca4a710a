package request

import (
	"context"

	"k8s.io/apiserver/pkg/authentication/user"
)

// State is what is known about one request.
type State struct {
	Info    Info
	User    user.Info // who the request is for: the impersonated user where there is one
	Actor   user.Info // who authenticated, where that is not User; else nil
	AuditID string
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
