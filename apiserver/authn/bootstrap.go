package authn

import (
	"context"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"

	"github.com/mini-k8s/mini/internal/bootstrap"
)

// Bootstrap knows bootstrap tokens by their Secrets. The Secret is read at every request, so that a deleted token ends at
// once; nodes use their token for a moment only.
type Bootstrap struct {
	client kubernetes.Interface
}

var _ authenticator.Token = (*Bootstrap)(nil)

// NewBootstrap reads Secrets with the client.
func NewBootstrap(client kubernetes.Interface) *Bootstrap { return &Bootstrap{client: client} }

// AuthenticateToken knows nothing of a token that is not of the form ID.SECRET or has no Secret. All reasons why a token
// is wrong are one to the client.
func (b *Bootstrap) AuthenticateToken(ctx context.Context, text string) (*authenticator.Response, bool, error) {
	token, err := bootstrap.Parse(text)
	if err != nil || token.CAHash != nil {
		return nil, false, nil
	}
	secret, err := b.client.CoreV1().Secrets(bootstrap.SecretNamespace).Get(ctx, bootstrap.SecretName(token.ID), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("bootstrap token: %w", err)
	}
	record, err := bootstrap.FromSecret(secret)
	if err != nil || secret.DeletionTimestamp != nil || !record.Matches(token) || !record.Authentication || record.Expired(time.Now()) {
		return nil, false, nil
	}
	return &authenticator.Response{User: &user.DefaultInfo{
		Name:   bootstrap.UserPrefix + record.ID,
		Groups: append([]string{bootstrap.Group}, slices.Clone(record.Groups)...),
	}}, true, nil
}
