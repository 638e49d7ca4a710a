package authn

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/mini-k8s/mini/internal/bootstrap"
	"github.com/mini-k8s/mini/internal/pki"
)

func newCA(t testing.TB) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func certificate(t testing.TB, ca *pki.CA, subject pki.Subject, lifetime time.Duration) *x509.Certificate {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.Sign(subject, key.Public(), lifetime)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func get(path string) *http.Request { return httptest.NewRequest("GET", "https://server"+path, nil) }

func withCertificate(cert *x509.Certificate) *http.Request {
	req := get("/api/v1/pods")
	req.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
	return req
}

func TestClientCertificates(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	auth := New(Config{ClientCAs: ca.Pool()})
	ada := pki.Subject{CommonName: "ada", Organizations: []string{"devs", "ops"}, Client: true}
	cases := map[string]struct {
		cert    *x509.Certificate
		ok, err bool
	}{
		"client":              {cert: certificate(t, ca, ada, 0), ok: true},
		"of another CA":       {cert: certificate(t, other, ada, 0), err: true},
		"only a server":       {cert: certificate(t, ca, pki.Subject{CommonName: "ada", Server: true}, 0), err: true},
		"without name":        {cert: certificate(t, ca, pki.Subject{Organizations: []string{"devs"}, Client: true}, 0)},
		"expired":             {cert: certificate(t, ca, ada, -time.Minute), err: true},
		"the other CA's self": {cert: other.Certificate(), err: true},
	}
	for name, c := range cases {
		for range 2 { // the second time from memory
			response, ok, err := auth.AuthenticateRequest(withCertificate(c.cert))
			if ok != c.ok || (err != nil) != c.err {
				t.Fatalf("%s: %v, %v", name, ok, err)
			}
			if !ok {
				continue
			}
			u := response.User
			if u.GetName() != "ada" || !slices.Equal(slices.Sorted(slices.Values(u.GetGroups())), []string{"devs", "ops", user.AllAuthenticated}) || len(u.GetExtra()[user.CredentialIDKey]) != 1 {
				t.Errorf("%s: %+v", name, u)
			}
		}
	}
}

func TestRememberedCertificateEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newCA(t)
		auth := New(Config{ClientCAs: ca.Pool()})
		req := withCertificate(certificate(t, ca, pki.Subject{CommonName: "ada", Client: true}, time.Hour))
		if _, ok, err := auth.AuthenticateRequest(req); !ok || err != nil {
			t.Fatal(ok, err)
		}
		time.Sleep(2 * time.Hour)
		if _, ok, err := auth.AuthenticateRequest(req); ok || err == nil {
			t.Error("an expired certificate was accepted from memory")
		}
	})
}

func TestTokens(t *testing.T) {
	wrong := errors.New("expired")
	auth := New(Config{Tokens: []authenticator.Token{
		authenticator.TokenFunc(func(_ context.Context, token string) (*authenticator.Response, bool, error) {
			if token == "bad" {
				return nil, false, wrong
			}
			return nil, false, nil
		}),
		authenticator.TokenFunc(func(_ context.Context, token string) (*authenticator.Response, bool, error) {
			if token != "good" {
				return nil, false, nil
			}
			return &authenticator.Response{User: &user.DefaultInfo{Name: "bob"}}, true, nil
		}),
	}})
	bearerHeader := func(path, value string) *http.Request {
		req := get(path)
		req.Header.Set("Authorization", value)
		return req
	}
	webSocket := func(protocols string) *http.Request {
		req := get("/api/v1/pods")
		req.Header.Set("Upgrade", "websocket")
		req.Header.Set("Sec-WebSocket-Protocol", protocols)
		return req
	}
	good := subprotocolPrefix + base64.RawURLEncoding.EncodeToString([]byte("good"))
	cases := map[string]struct {
		req  *http.Request
		want string // user
		err  error
	}{
		"none":                          {req: get("/api/v1/pods")},
		"none for health":               {req: get("/readyz"), want: user.Anonymous},
		"none for one check":            {req: get("/livez/etcd"), want: user.Anonymous},
		"none for version":              {req: get("/version"), want: user.Anonymous},
		"none for what looks alike":     {req: get("/versions")},
		"none for metrics":              {req: get("/metrics")},
		"good":                          {req: bearerHeader("/api/v1/pods", "Bearer good"), want: "bob"},
		"lower case":                    {req: bearerHeader("/api/v1/pods", "bearer  good "), want: "bob"},
		"unknown":                       {req: bearerHeader("/api/v1/pods", "Bearer who"), err: ErrInvalidToken},
		"unknown for health":            {req: bearerHeader("/readyz", "Bearer who"), err: ErrInvalidToken},
		"bad":                           {req: bearerHeader("/api/v1/pods", "Bearer bad"), err: wrong},
		"basic":                         {req: bearerHeader("/api/v1/pods", "Basic Z29vZDpnb29k")},
		"web socket":                    {req: webSocket("v5.channel.k8s.io, " + good), want: "bob"},
		"web socket without a protocol": {req: webSocket(good)},
	}
	for name, c := range cases {
		response, ok, err := auth.AuthenticateRequest(c.req)
		if !errors.Is(err, c.err) || ok != (c.want != "") {
			t.Errorf("%s: %v, %v", name, ok, err)
			continue
		}
		if ok && response.User.GetName() != c.want {
			t.Errorf("%s: %s", name, response.User.GetName())
		}
		if ok && c.want == "bob" {
			if c.req.Header.Get("Authorization") != "" {
				t.Errorf("%s: the token stays on the request", name)
			}
			if p := c.req.Header.Get("Sec-WebSocket-Protocol"); p != "" && p != "v5.channel.k8s.io" {
				t.Errorf("%s: subprotocols %q", name, p)
			}
			if !slices.Contains(response.User.GetGroups(), user.AllAuthenticated) {
				t.Errorf("%s: groups %v", name, response.User.GetGroups())
			}
		}
	}
}

func TestBootstrapTokens(t *testing.T) {
	token, err := bootstrap.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		change func(*bootstrap.Record)
		token  func(bootstrap.Token) string
		ok     bool
	}{
		"good":           {ok: true},
		"not yet over":   {change: func(r *bootstrap.Record) { r.Expires = time.Now().Add(time.Hour) }, ok: true},
		"expired":        {change: func(r *bootstrap.Record) { r.Expires = time.Now().Add(-time.Second) }},
		"not for this":   {change: func(r *bootstrap.Record) { r.Authentication = false }},
		"wrong group":    {change: func(r *bootstrap.Record) { r.Groups = []string{"system:masters"} }},
		"wrong secret":   {token: func(t bootstrap.Token) string { return t.ID + ".aaaaaaaaaaaaaaaa" }},
		"unknown id":     {token: func(t bootstrap.Token) string { return "zzzzzz." + t.Secret }},
		"something else": {token: func(bootstrap.Token) string { return "eyJh.eyJi.c" }},
	}
	for name, c := range cases {
		record := bootstrap.Record{Token: token, Authentication: true, Groups: []string{"system:bootstrappers:more"}}
		if c.change != nil {
			c.change(&record)
		}
		text := token.Bearer()
		if c.token != nil {
			text = c.token(token)
		}
		response, ok, err := NewBootstrap(fake.NewClientset(record.MakeSecret())).AuthenticateToken(t.Context(), text)
		if ok != c.ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
		if ok && (response.User.GetName() != "system:bootstrap:"+token.ID || !slices.Equal(response.User.GetGroups(), []string{"system:bootstrappers", "system:bootstrappers:more"})) {
			t.Errorf("%s: %+v", name, response.User)
		}
	}
}

func BenchmarkKnownCertificate(b *testing.B) {
	ca := newCA(b)
	auth := New(Config{ClientCAs: ca.Pool()})
	req := withCertificate(certificate(b, ca, pki.Subject{CommonName: "ada", Client: true}, 0))
	b.ReportAllocs()
	for b.Loop() {
		if _, ok, _ := auth.AuthenticateRequest(req); !ok {
			b.Fatal("refused")
		}
	}
}
