package bootstraptoken

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/controller/controllertest"
	"github.com/mini-k8s/mini/internal/bootstrap"
)

func token(id string, expires time.Time) *corev1.Secret {
	return bootstrap.Record{Token: bootstrap.Token{ID: id, Secret: "0123456789abcdef"}, Expires: expires, Signing: true}.MakeSecret()
}

func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := controllertest.New(t, token("aaaaaa", time.Time{}), token("bbbbbb", time.Now().Add(time.Hour)), token("cccccc", time.Now().Add(-time.Hour)))
		c, err := New(Config{Client: w.Client, Feeds: w.Feeds, Logger: w.Logger, CA: []byte("PEM"), ServerURL: "https://192.0.2.1:6443"})
		if err != nil {
			t.Fatal(err)
		}
		w.Start(c)
		check := func(when string, want ...string) {
			t.Helper()
			synctest.Wait()
			for _, id := range []string{"aaaaaa", "bbbbbb", "cccccc", "dddddd"} {
				expected := strings.Contains(strings.Join(want, " "), id)
				_, err := w.Client.CoreV1().Secrets("kube-system").Get(ctx, bootstrap.SecretName(id), metav1.GetOptions{})
				if expected == apierrors.IsNotFound(err) {
					t.Errorf("%s: token %s there: %v", when, id, !expected)
				}
				info, err := w.Client.CoreV1().ConfigMaps("kube-public").Get(ctx, bootstrap.ClusterInfo, metav1.GetOptions{})
				if err != nil {
					t.Fatalf("%s: %v", when, err)
				}
				_, err = bootstrap.VerifyClusterInfo(info, bootstrap.Token{ID: id, Secret: "0123456789abcdef"})
				if signed := err != bootstrap.ErrUnknownToken; signed != expected {
					t.Errorf("%s: signed by %s: %v", when, id, signed)
				}
			}
		}
		check("at start", "aaaaaa", "bbbbbb")
		time.Sleep(2 * time.Hour)
		check("later", "aaaaaa")
		if _, err := w.Client.CoreV1().Secrets("kube-system").Create(ctx, token("dddddd", time.Time{}), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		check("a new one", "aaaaaa", "dddddd")
	})
}
