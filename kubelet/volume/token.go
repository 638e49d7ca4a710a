// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// Tokens requests ServiceAccount tokens bound to pods and keeps each until 80 % of its life has passed.
type Tokens struct {
	client kubernetes.Interface

	mu    sync.Mutex
	cache map[tokenKey]token
}

type tokenKey struct {
	pod      types.UID
	audience string
	seconds  int64
}

type token struct {
	value string
	renew time.Time
}

// NewTokens returns an empty cache.
func NewTokens(client kubernetes.Interface) *Tokens {
	return &Tokens{client: client, cache: map[tokenKey]token{}}
}

// defaultTokenSeconds is the API's default for a projected token.
const defaultTokenSeconds = 3600

func (t *Tokens) token(ctx context.Context, pod *corev1.Pod, audience string, seconds *int64) (token, error) {
	k := tokenKey{pod.UID, audience, defaultTokenSeconds}
	if seconds != nil {
		k.seconds = *seconds
	}
	t.mu.Lock()
	have, ok := t.cache[k]
	t.mu.Unlock()
	if ok && time.Now().Before(have.renew) {
		return have, nil
	}
	req := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &k.seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if audience != "" {
		req.Spec.Audiences = []string{audience}
	}
	name := pod.Spec.ServiceAccountName
	if name == "" {
		name = "default"
	}
	began := time.Now()
	res, err := t.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, name, req, metav1.CreateOptions{})
	if err != nil {
		return token{}, err
	}
	if res.Status.Token == "" {
		return token{}, fmt.Errorf("the API server answered the token request for %s/%s without a token", pod.Namespace, name)
	}
	// Renewal is spread a little, so that the pods of a Deployment do not ask all at once for the rest of their lives.
	life := res.Status.ExpirationTimestamp.Sub(began)
	have = token{value: res.Status.Token, renew: began.Add(life*8/10 - time.Duration(rand.Int64N(int64(life/100)+1)))}
	t.mu.Lock()
	t.cache[k] = have
	t.mu.Unlock()
	return have, nil
}

// forget drops a pod's tokens.
func (t *Tokens) forget(pod types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.cache {
		if k.pod == pod {
			delete(t.cache, k)
		}
	}
}
