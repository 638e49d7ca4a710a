package serviceaccount

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
)

// maxVerified bounds the tokens whose signature is remembered; beyond it all are forgotten.
const maxVerified = 8192

// Authenticator knows ServiceAccounts by their tokens. It is safe for concurrent use.
type Authenticator struct {
	config  Config
	objects *objects

	mu       sync.Mutex
	verified map[[sha256.Size]byte]*claims
}

var _ authenticator.Token = (*Authenticator)(nil)

// NewAuthenticator verifies tokens of the issuer.
func NewAuthenticator(config Config) *Authenticator {
	if len(config.Audiences) == 0 {
		config.Audiences = []string{config.Issuer}
	}
	return &Authenticator{config: config, objects: newObjects(config.Client, config.Informers), verified: map[[sha256.Size]byte]*claims{}}
}

// Why a token of ours is not good.
var (
	errExpired     = errors.New("service account token has expired")
	errNotYet      = errors.New("service account token is not valid yet")
	errInvalidated = errors.New("service account token has been invalidated")
)

// AuthenticateToken knows nothing of tokens of other issuers. The audiences that count are the context's
// (authenticator.WithAudiences), or else the API server's.
func (a *Authenticator) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	c, ours, err := a.parse(token)
	if !ours || err != nil {
		return nil, false, err
	}
	now := time.Now()
	switch {
	case !now.Before(time.Unix(c.Expiry, 0)):
		return nil, false, errExpired
	case now.Add(deletedLeeway).Before(time.Unix(c.NotBefore, 0)):
		return nil, false, errNotYet
	}
	wanted, ok := authenticator.AudiencesFrom(ctx)
	if !ok {
		wanted = a.config.Audiences
	}
	audiences := authenticator.Audiences(c.Audience).Intersect(wanted)
	if len(audiences) == 0 {
		return nil, false, fmt.Errorf("token audiences %q is invalid for the target audiences %q", []string(c.Audience), []string(wanted))
	}
	info, err := a.live(ctx, c, now)
	if err != nil {
		return nil, false, err
	}
	return &authenticator.Response{Audiences: audiences, User: info.UserInfo()}, true, nil
}

// parse returns the claims of a token that is ours by issuer and signature.
func (a *Authenticator) parse(token string) (c *claims, ours bool, err error) {
	id := sha256.Sum256([]byte(token))
	a.mu.Lock()
	c = a.verified[id]
	a.mu.Unlock()
	if c != nil {
		return c, true, nil
	}
	if iss, err := issuer(token); err != nil || iss != a.config.Issuer {
		return nil, false, nil
	}
	if c, err = a.config.Keys.verify(token); err != nil {
		return nil, true, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.verified) >= maxVerified {
		clear(a.verified)
	}
	a.verified[id] = c
	return c, true, nil
}

// live checks that everything the token names exists and is the same that it was.
func (a *Authenticator) live(ctx context.Context, c *claims, now time.Time) (*serviceaccount.ServiceAccountInfo, error) {
	k := &c.Kubernetes
	if c.Subject != serviceaccount.MakeUsername(k.Namespace, k.ServiceAccount.Name) {
		return nil, errors.New("sub does not match the service account of the token")
	}
	check := func(what string, obj metav1.Object, err error, uid types.UID) error {
		switch {
		case apierrors.IsNotFound(err):
			return errInvalidated
		case err != nil:
			return fmt.Errorf("service account token: %w", err)
		case obj.GetUID() != uid:
			return fmt.Errorf("%s UID (%s) does not match claim (%s)", what, obj.GetUID(), uid)
		}
		if deleted := obj.GetDeletionTimestamp(); deleted != nil && deleted.Time.Before(now.Add(-deletedLeeway)) {
			return errInvalidated
		}
		return nil
	}
	account, err := a.objects.account(ctx, k.Namespace, k.ServiceAccount.Name, k.ServiceAccount.UID)
	if err := check("service account", account, err, k.ServiceAccount.UID); err != nil {
		return nil, err
	}
	info := &serviceaccount.ServiceAccountInfo{Namespace: k.Namespace, Name: k.ServiceAccount.Name, UID: string(k.ServiceAccount.UID)}
	if k.Secret != nil {
		secret, err := a.objects.secret(ctx, k.Namespace, k.Secret.Name)
		if err := check("secret", secret, err, k.Secret.UID); err != nil {
			return nil, err
		}
	}
	if k.Pod != nil {
		pod, err := a.objects.pod(ctx, k.Namespace, k.Pod.Name, k.Pod.UID)
		if err := check("pod", pod, err, k.Pod.UID); err != nil {
			return nil, err
		}
		info.PodName, info.PodUID = k.Pod.Name, string(k.Pod.UID)
	}
	if k.Node != nil {
		if k.Pod == nil { // a pod's token lives and dies with the pod, not with the node
			node, err := a.objects.node(ctx, k.Node.Name, k.Node.UID)
			if err := check("node", node, err, k.Node.UID); err != nil {
				return nil, err
			}
		}
		info.NodeName, info.NodeUID = k.Node.Name, string(k.Node.UID)
	}
	if c.ID != "" {
		info.CredentialID = "JTI=" + c.ID
	}
	return info, nil
}
