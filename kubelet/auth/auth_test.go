// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// api knows the token "good" as bob, who may get nodes/metrics of node-a, and ada, who may get nodes/proxy.
type api struct {
	*fake.Clientset
	reviews, accesses int
	fails             bool
}

func newAPI() *api {
	a := &api{Clientset: fake.NewClientset()}
	a.PrependReactor("create", "tokenreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		a.reviews++
		review := action.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview)
		if a.fails {
			return true, nil, errors.New("no answer")
		}
		if review.Spec.Token == "good" {
			review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: "bob", Groups: []string{"g"}}}
		}
		return true, review, nil
	})
	a.PrependReactor("create", "subjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		a.accesses++
		review := action.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview)
		at := review.Spec.ResourceAttributes
		review.Status.Allowed = at.Resource == "nodes" && at.Name == "node-a" && at.Verb == "get" &&
			(review.Spec.User == "bob" && at.Subresource == "metrics" || review.Spec.User == "ada" && at.Subresource == "proxy")
		return true, review, nil
	})
	return a
}

func guarded(t *testing.T, a *api) http.Handler {
	t.Helper()
	wrap, err := New(Config{Client: a, Node: "node-a", Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the token goes on")
		}
	}))
}

func ask(h http.Handler, method, path, token, certificate string) int {
	r := httptest.NewRequest(method, path, nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if certificate != "" {
		r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{Subject: pkix.Name{CommonName: certificate}}}}}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code
}

func TestGuard(t *testing.T) {
	cases := map[string]struct {
		method, path, token, certificate string
		want                             int
	}{
		"API server":                   {"POST", "/exec/ns/p/c", "", "kube-apiserver-kubelet-client", 200},
		"nobody":                       {"GET", "/metrics", "", "", 401},
		"wrong token":                  {"GET", "/metrics", "bad", "", 401},
		"metrics with a token":         {"GET", "/metrics", "good", "", 200},
		"more metrics":                 {"GET", "/metrics/resource", "good", "", 200},
		"writing metrics":              {"POST", "/metrics", "good", "", 403},
		"what looks like metrics":      {"GET", "/metricsx", "good", "", 403},
		"stats":                        {"GET", "/stats/summary", "good", "", 403},
		"exec with a token":            {"GET", "/exec/ns/p/c", "good", "", 403},
		"pods with proxy":              {"GET", "/pods", "", "ada", 200},
		"logs of a container by proxy": {"GET", "/containerLogs/ns/p/c", "", "ada", 200},
		"metrics with proxy":           {"GET", "/metrics", "", "ada", 403},
		"another node":                 {"GET", "/pods", "", "system:node:node-b", 403},
	}
	for name, c := range cases {
		if got := ask(guarded(t, newAPI()), c.method, c.path, c.token, c.certificate); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	// Without an answer nobody is let in.
	broken := newAPI()
	broken.fails = true
	if got := ask(guarded(t, broken), "GET", "/metrics", "good", ""); got != 500 {
		t.Errorf("API server does not answer: %d", got)
	}
	// A certificate that the server did not verify is none.
	r := httptest.NewRequest("GET", "/pods", nil)
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Subject: pkix.Name{CommonName: "kube-apiserver-kubelet-client"}}}}
	w := httptest.NewRecorder()
	guarded(t, newAPI()).ServeHTTP(w, r)
	if w.Code != 401 {
		t.Errorf("unverified certificate: %d", w.Code)
	}
}

func TestGuardRemembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		h := guarded(t, a)
		for range 10 {
			ask(h, "GET", "/metrics", "good", "")
			ask(h, "GET", "/stats", "good", "")
		}
		if a.reviews != 1 || a.accesses != 2 {
			t.Errorf("%d token reviews, %d access reviews", a.reviews, a.accesses)
		}
		time.Sleep(time.Minute)
		ask(h, "GET", "/metrics", "good", "")
		ask(h, "GET", "/stats", "good", "")
		if a.reviews != 1 || a.accesses != 3 {
			t.Errorf("after a minute: %d token reviews, %d access reviews", a.reviews, a.accesses)
		}
		time.Sleep(10 * time.Minute)
		ask(h, "GET", "/metrics", "good", "")
		if a.reviews != 2 || a.accesses != 4 {
			t.Errorf("after ten minutes: %d token reviews, %d access reviews", a.reviews, a.accesses)
		}
	})
}
