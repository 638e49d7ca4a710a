package plugins

import (
	"io"
	"log/slog"
	"testing"

	"k8s.io/client-go/kubernetes/fake"

	"github.com/mini-k8s/mini/internal/pki"
)

func TestPluginsAreWhole(t *testing.T) {
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	p, err := build(Config{ClientCAs: ca.Pool(), Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}, fake.NewClientset())
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"SubjectAccessReview", "SelfSubjectAccessReview", "SelfSubjectRulesReview", "LocalSubjectAccessReview"} {
		if p.Review[kind] == nil {
			t.Errorf("nobody answers %s", kind)
		}
	}
	if p.Authenticator == nil || p.Authorizer == nil {
		t.Error("nobody decides")
	}
}
