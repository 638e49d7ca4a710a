package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/google/uuid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/mini-k8s/mini/apiserver/request"
	"github.com/mini-k8s/mini/apiserver/rest"
)

// requestTimeout is how long a request that is not long-running may take.
const requestTimeout = 60 * time.Second

// chain puts the handlers around next that every request passes, outermost first.
func (s *Server) chain(next http.Handler) http.Handler {
	// An audit log belongs here: the request's state is complete, and when next has returned the state's Audit holds what
	// admission has said about it.
	next = s.withAuthorization(next)
	next = s.withFairness(next)
	next = s.withImpersonation(next)
	next = s.withAuthentication(next)
	next = s.withMetrics(next)
	next = s.withPublic(next)
	next = s.withInfo(next)
	return s.withRecovery(next)
}

// withRecovery turns a panic into a 500 and a log line with the stack.
func (s *Server) withRecovery(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(v)
			}
			s.logger.Error("a request made the server panic", "method", r.Method, "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
			rest.WriteError(w, r, apierrors.NewInternalError(fmt.Errorf("this request caused apiserver to panic. Look in the logs for details")))
		}()
		next.ServeHTTP(w, r)
	})
}

// maxURL bounds paths and queries: a selector that names a thousand objects fits. The headers have net/http's limit.
const maxURL = 128 << 10

// withInfo reads the URL and starts the request's state. A request that came in-process brings its user along.
func (s *Server) withInfo(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := len(r.URL.Path) + len(r.URL.RawQuery); n > maxURL {
			rest.WriteStatus(w, r, &metav1.Status{
				TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: http.StatusRequestURITooLong,
				Message: fmt.Sprintf("the URL is too long: limit is %d", maxURL),
			})
			return
		}
		state := &request.State{Info: request.Parse(r), AuditID: r.Header.Get("Audit-ID"), Audit: &request.Audit{}}
		if state.AuditID == "" {
			state.AuditID = uuid.NewString()
		}
		state.User, _ = r.Context().Value(loopbackUserKey{}).(user.Info)
		h := w.Header()
		h["Audit-Id"] = []string{state.AuditID}
		h["Cache-Control"] = noCache
		ctx := request.With(r.Context(), state)
		if longRunning(&state.Info) {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			defer context.AfterFunc(s.ending, cancel)()
			next.ServeHTTP(w, r.WithContext(ctx))
			return
		}
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

var noCache = []string{"no-cache, private"}

// longRunning requests last as long as their client likes: they have no timeout and do not count as in flight.
func longRunning(info *request.Info) bool {
	if !info.IsResource {
		return false
	}
	switch info.Subresource {
	case "attach", "exec", "log", "portforward", "proxy":
		return true
	}
	return info.Verb == "watch"
}

func (s *Server) withPublic(next http.Handler) http.Handler {
	if len(s.config.Public) == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h, ok := s.config.Public[r.URL.Path]; ok {
			h.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

var anonymous = &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}

// withAuthentication finds out who asks; who brings no credentials is anonymous, wrong ones are refused.
func (s *Server) withAuthentication(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		state := request.From(r.Context())
		if state.User == nil {
			answer, ok, err := s.plugins.Authenticator.AuthenticateRequest(r)
			switch {
			case err != nil:
				s.logger.Debug("authentication failed", "path", r.URL.Path, "remote", r.RemoteAddr, "error", err)
				rest.WriteError(w, r, apierrors.NewUnauthorized("Unauthorized"))
				return
			case ok:
				state.User = answer.User
			default:
				state.User = anonymous
			}
			r.Header.Del("Authorization")
		}
		next.ServeHTTP(w, r)
	})
}

// withAuthorization asks whether the user may do this.
func (s *Server) withAuthorization(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		state := request.From(r.Context())
		a := attributes(r, state)
		decision, reason, err := s.plugins.Authorizer.Authorize(r.Context(), a)
		if decision == authorizer.DecisionAllow {
			next.ServeHTTP(w, r)
			return
		}
		if err != nil && decision != authorizer.DecisionDeny && reason == "" {
			s.logger.Debug("authorization failed", "user", state.User.GetName(), "path", r.URL.Path, "error", err)
		}
		rest.WriteError(w, r, forbidden(a, reason))
	})
}

// attributes are what authorizers see of a request.
func attributes(r *http.Request, state *request.State) *authorizer.AttributesRecord {
	info := &state.Info
	a := &authorizer.AttributesRecord{
		User: state.User, Verb: info.Verb, Namespace: info.Namespace, APIGroup: info.Group, APIVersion: info.Version,
		Resource: info.Resource, Subresource: info.Subresource, Name: info.Name, ResourceRequest: info.IsResource, Path: info.Path,
	}
	if info.IsResource && info.IsCollection() && strings.Contains(r.URL.RawQuery, "Selector=") {
		query := r.URL.Query()
		if v := query.Get("fieldSelector"); v != "" {
			if sel, err := fields.ParseSelector(v); err != nil {
				a.FieldSelectorParsingErr = err
			} else {
				a.FieldSelectorRequirements = sel.Requirements()
			}
		}
		if v := query.Get("labelSelector"); v != "" {
			if sel, err := labels.Parse(v); err != nil {
				a.LabelSelectorParsingErr = err
			} else {
				a.LabelSelectorRequirements, _ = sel.Requirements()
			}
		}
	}
	return a
}

// forbidden says no in upstream's words.
func forbidden(a *authorizer.AttributesRecord, reason string) error {
	text := fmt.Sprintf("User %q cannot %s path %q", a.User.GetName(), a.Verb, a.Path)
	if a.ResourceRequest {
		resource := a.Resource
		if a.Subresource != "" {
			resource += "/" + a.Subresource
		}
		text = fmt.Sprintf("User %q cannot %s resource %q in API group %q", a.User.GetName(), a.Verb, resource, a.APIGroup)
		if a.Namespace != "" {
			text += fmt.Sprintf(" in the namespace %q", a.Namespace)
		} else {
			text += " at the cluster scope"
		}
	}
	if reason != "" {
		text += ": " + reason
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.APIGroup, Resource: a.Resource}, a.Name, errors.New(text))
}

// withImpersonation lets a user act as another one, if he may "impersonate" each thing he claims to be.
func (s *Server) withImpersonation(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !claimsAnother(r.Header) {
			next.ServeHTTP(w, r)
			return
		}
		state := request.From(r.Context())
		as, checks, err := impersonated(r.Header)
		if err != nil {
			rest.WriteError(w, r, err)
			return
		}
		for _, a := range checks {
			a.User, a.Verb, a.ResourceRequest = state.User, "impersonate", true
			decision, reason, err := s.plugins.Authorizer.Authorize(r.Context(), &a)
			if decision != authorizer.DecisionAllow {
				if err != nil && reason == "" {
					reason = err.Error()
				}
				rest.WriteError(w, r, forbidden(&a, reason))
				return
			}
		}
		state.Actor, state.User = state.User, as
		for name := range r.Header {
			if strings.HasPrefix(name, "Impersonate-") {
				r.Header.Del(name)
			}
		}
		next.ServeHTTP(w, r)
	})
}
