package authn

import (
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"unicode/utf8"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Config says which credentials count.
type Config struct {
	// ClientCAs sign client certificates; nil accepts none.
	ClientCAs *x509.CertPool
	// Tokens judge bearer tokens, in order. One that does not know a token says so without an error; an error means that
	// the token is of its kind and is wrong.
	Tokens []authenticator.Token
	// AnonymousPaths may be asked without a credential: exact paths, or prefixes that end with "*". nil means
	// DefaultAnonymousPaths; an empty list none.
	AnonymousPaths []string
}

// DefaultAnonymousPaths are health, version, and the ConfigMap from which a node with only a short join token learns the
// cluster's CA.
var DefaultAnonymousPaths = []string{
	"/livez", "/livez/*", "/readyz", "/readyz/*", "/healthz", "/healthz/*", "/version", "/version/",
	"/api/v1/namespaces/kube-public/configmaps/cluster-info",
}

// ErrInvalidToken is the error for a bearer token that nobody knows.
var ErrInvalidToken = errors.New("invalid bearer token")

// New makes the server's authenticator.
func New(config Config) authenticator.Request {
	c := &chain{tokens: config.Tokens, anonymous: config.AnonymousPaths}
	if config.ClientCAs != nil {
		c.certificates = newCertificates(config.ClientCAs)
	}
	if c.anonymous == nil {
		c.anonymous = DefaultAnonymousPaths
	}
	return c
}

type chain struct {
	certificates *certificates
	tokens       []authenticator.Token
	anonymous    []string
}

// AuthenticateRequest implements authenticator.Request. A bearer token that was accepted is taken off the request, so that
// it is not passed on.
func (c *chain) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	if c.certificates != nil && req.TLS != nil && len(req.TLS.PeerCertificates) > 0 {
		response, ok, err := c.certificates.authenticate(req.TLS.PeerCertificates)
		if ok || err != nil {
			return response, ok, err
		}
	}
	token, forget := bearer(req)
	if token != "" {
		response, err := c.token(req, token)
		if err != nil {
			return nil, false, err
		}
		forget()
		return response, true, nil
	}
	if slices.ContainsFunc(c.anonymous, func(p string) bool { return matchesPath(p, req.URL.Path) }) {
		return &authenticator.Response{User: &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}}, true, nil
	}
	return nil, false, nil
}

func (c *chain) token(req *http.Request, token string) (*authenticator.Response, error) {
	var errs []error
	for _, one := range c.tokens {
		response, ok, err := one.AuthenticateToken(req.Context(), token)
		if err != nil {
			errs = append(errs, err)
		} else if ok {
			return authenticated(response), nil
		}
	}
	if len(errs) == 0 {
		return nil, ErrInvalidToken
	}
	return nil, errors.Join(errs...)
}

// authenticated adds the group of everybody who has proved who he is.
func authenticated(response *authenticator.Response) *authenticator.Response {
	u := response.User
	groups := u.GetGroups()
	if u.GetName() == user.Anonymous || slices.Contains(groups, user.AllAuthenticated) || slices.Contains(groups, user.AllUnauthenticated) {
		return response
	}
	return &authenticator.Response{
		Audiences: response.Audiences,
		User: &user.DefaultInfo{
			Name: u.GetName(), UID: u.GetUID(), Extra: u.GetExtra(),
			Groups: append(slices.Clone(groups), user.AllAuthenticated),
		},
	}
}

func matchesPath(pattern, path string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(path, prefix)
	}
	return pattern == path
}

const subprotocolPrefix = "base64url.bearer.authorization.k8s.io."

// bearer returns the request's token, "" if there is none, and what takes it off the request.
func bearer(req *http.Request) (token string, forget func()) {
	scheme, rest, _ := strings.Cut(strings.TrimSpace(req.Header.Get("Authorization")), " ")
	if strings.EqualFold(scheme, "bearer") {
		return strings.TrimSpace(rest), func() { req.Header.Del("Authorization") }
	}
	if !strings.EqualFold(req.Header.Get("Upgrade"), "websocket") {
		return "", nil
	}
	const header = "Sec-Websocket-Protocol"
	var keep []string
	for _, line := range req.Header[textproto.CanonicalMIMEHeaderKey(header)] {
		for protocol := range strings.SplitSeq(line, ",") {
			protocol = strings.TrimSpace(protocol)
			encoded, ok := strings.CutPrefix(protocol, subprotocolPrefix)
			if !ok || token != "" {
				keep = append(keep, protocol)
				continue
			}
			decoded, err := base64.RawURLEncoding.DecodeString(encoded)
			if err != nil || !utf8.Valid(decoded) {
				return "", nil
			}
			token = string(decoded)
		}
	}
	// A browser ends the connection if none of the protocols it offered comes back: the token cannot be that one.
	if len(keep) == 0 {
		return "", nil
	}
	return token, func() { req.Header.Set(header, strings.Join(keep, ",")) }
}
