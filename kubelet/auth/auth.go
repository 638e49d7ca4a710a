// SPDX-License-Identifier: Apache-2.0

// Package auth decides who may ask a kubelet what.
//
// The API server, known by its client certificate, may do everything: it has judged its client before. Everybody else, by a
// client certificate of the cluster's CA or a bearer token, is judged by the API server: TokenReview says who it is, and
// SubjectAccessReview whether it may do to nodes/NAME/{metrics,stats,log,healthz,configz,pods,proxy} what the method says.
// That is how metrics are read from kubelets (docs/reference/access-authn-authz/kubelet-authn-authz of Kubernetes). There
// are no anonymous requests.
//
// Answers are remembered as upstream does: a good token for two minutes, permission for five, refusal for half a minute.
// There are no goroutines.
package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/mini-k8s/mini/internal/pki"
)

const (
	tokenLife   = 2 * time.Minute
	allowedLife = 5 * time.Minute
	deniedLife  = 30 * time.Second
	// maxRemembered bounds each memory; beyond it everything is forgotten.
	maxRemembered = 1024
	askTimeout    = 10 * time.Second
)

// Config says whose kubelet it is.
type Config struct {
	Client kubernetes.Interface // as the node
	Node   string
	Logger *slog.Logger
}

// New makes the middleware of a kubelet's server. The server must have verified the client certificates that it was given
// (tls.VerifyClientCertIfGiven) by the cluster's CA.
func New(config Config) (func(http.Handler) http.Handler, error) {
	if config.Client == nil || config.Node == "" || config.Logger == nil {
		return nil, errors.New("kubelet/auth: Client, Node and Logger must be set")
	}
	g := &guard{Config: config, tokens: memory[tokenKey, authenticationv1.UserInfo]{}, decisions: memory[string, decision]{}}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if code, text := g.judge(r); code != 0 {
				http.Error(w, text, code)
				return
			}
			r.Header.Del("Authorization")
			next.ServeHTTP(w, r)
		})
	}, nil
}

type tokenKey [sha256.Size]byte

type decision struct {
	allowed bool
	reason  string
}

type guard struct {
	Config
	tokens    memory[tokenKey, authenticationv1.UserInfo]
	decisions memory[string, decision]
}

// judge returns 0 for a request that may pass.
func (g *guard) judge(r *http.Request) (code int, text string) {
	if certificateUser(r) == pki.KubeletClientUser {
		return 0, ""
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	user, err := g.user(ctx, r)
	if err != nil {
		g.Logger.Warn("Cannot ask the API server whose request this is", "err", err)
		return http.StatusInternalServerError, "Authentication error"
	}
	if user == nil {
		return http.StatusUnauthorized, "Unauthorized"
	}
	verb := verbOf(r.Method)
	var last decision
	subresources := subresourcesOf(r.URL.Path)
	for _, sub := range subresources {
		if last, err = g.ask(ctx, user, verb, sub); err != nil {
			g.Logger.Warn("Cannot ask the API server whether this is allowed", "user", user.Username, "err", err)
			return http.StatusInternalServerError, fmt.Sprintf("Authorization error (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", user.Username, verb, subresources)
		}
		if last.allowed {
			return 0, ""
		}
	}
	return http.StatusForbidden, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", user.Username, verb, subresources)
}

func certificateUser(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return ""
	}
	return r.TLS.VerifiedChains[0][0].Subject.CommonName
}

// user finds out who asks; nil is nobody.
func (g *guard) user(ctx context.Context, r *http.Request) (*authenticationv1.UserInfo, error) {
	if name := certificateUser(r); name != "" {
		groups := append(slices.Clone(r.TLS.VerifiedChains[0][0].Subject.Organization), "system:authenticated")
		return &authenticationv1.UserInfo{Username: name, Groups: groups}, nil
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if token = strings.TrimSpace(token); !strings.EqualFold(scheme, "bearer") || token == "" {
		return nil, nil
	}
	key := tokenKey(sha256.Sum256([]byte(token)))
	if user, ok := g.tokens.get(key); ok {
		return &user, nil
	}
	review, err := g.Client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token},
	}, metav1.CreateOptions{})
	if err != nil || !review.Status.Authenticated {
		return nil, err
	}
	g.tokens.put(key, review.Status.User, tokenLife)
	return &review.Status.User, nil
}

func (g *guard) ask(ctx context.Context, user *authenticationv1.UserInfo, verb, sub string) (decision, error) {
	key := fmt.Sprintf("%q %q %q %q %s %s", user.Username, user.UID, user.Groups, user.Extra, verb, sub)
	if d, ok := g.decisions.get(key); ok {
		return d, nil
	}
	extra := make(map[string]authorizationv1.ExtraValue, len(user.Extra))
	for k, v := range user.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	review, err := g.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Version: "v1", Resource: "nodes", Subresource: sub, Name: g.Node},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return decision{}, err
	}
	d := decision{allowed: review.Status.Allowed, reason: review.Status.Reason}
	life := deniedLife
	if d.allowed {
		life = allowedLife
	}
	g.decisions.put(key, d, life)
	return d, nil
}

func verbOf(method string) string {
	switch method {
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		return "delete"
	}
	return "get"
}

// subresourcesOf are what a path needs: any one of them is enough. A WebSocket for exec is a GET, but of nodes/proxy like
// everything that has no name of its own.
func subresourcesOf(path string) []string {
	below := func(prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }
	switch {
	case below("/stats"):
		return []string{"stats"}
	case below("/metrics"):
		return []string{"metrics"}
	case below("/logs"):
		return []string{"log"}
	case below("/healthz"):
		return []string{"healthz", "proxy"}
	case below("/configz"):
		return []string{"configz", "proxy"}
	case below("/pods"), below("/runningpods"):
		return []string{"pods", "proxy"}
	}
	return []string{"proxy"}
}

// memory remembers values for a while. The zero value is empty.
type memory[K comparable, V any] struct {
	mu     sync.Mutex
	values map[K]remembered[V]
}

type remembered[V any] struct {
	value V
	until time.Time
}

func (m *memory[K, V]) get(key K) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.values[key]
	return r.value, ok && time.Now().Before(r.until)
}

func (m *memory[K, V]) put(key K, value V, life time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.values == nil || len(m.values) >= maxRemembered {
		m.values = map[K]remembered[V]{}
	}
	m.values[key] = remembered[V]{value, time.Now().Add(life)}
}
