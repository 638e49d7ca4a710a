package bootstrap

import (
	"crypto/subtle"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The names by which Kubernetes knows bootstrap tokens (k8s.io/cluster-bootstrap/token/api).
const (
	SecretNamespace = metav1.NamespaceSystem
	SecretPrefix    = "bootstrap-token-"
	SecretType      = corev1.SecretTypeBootstrapToken

	keyID          = "token-id"
	keySecret      = "token-secret"
	keyExpiration  = "expiration"
	keyDescription = "description"
	keyGroups      = "auth-extra-groups"
	keyUseAuth     = "usage-bootstrap-authentication"
	keyUseSigning  = "usage-bootstrap-signing"

	// UserPrefix and Group make the user of a token: system:bootstrap:ID in the group system:bootstrappers.
	UserPrefix = "system:bootstrap:"
	Group      = "system:bootstrappers"
)

// Record is a token as its Secret keeps it.
type Record struct {
	Token
	Expires     time.Time // zero: never
	Description string
	Groups      []string // besides Group; each begins with "system:bootstrappers:"
	// Authentication lets it authenticate; Signing lets it sign cluster-info, which the short form needs.
	Authentication, Signing bool
}

// SecretName is the name of the Secret of a token.
func SecretName(id string) string { return SecretPrefix + id }

// MakeSecret is the Secret of the record. The hash is no part of it.
func (r Record) MakeSecret() *corev1.Secret {
	data := map[string][]byte{keyID: []byte(r.ID), keySecret: []byte(r.Token.Secret)}
	if !r.Expires.IsZero() {
		data[keyExpiration] = []byte(r.Expires.UTC().Format(time.RFC3339))
	}
	if r.Description != "" {
		data[keyDescription] = []byte(r.Description)
	}
	if len(r.Groups) > 0 {
		data[keyGroups] = []byte(strings.Join(r.Groups, ","))
	}
	if r.Authentication {
		data[keyUseAuth] = []byte("true")
	}
	if r.Signing {
		data[keyUseSigning] = []byte("true")
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: SecretNamespace, Name: SecretName(r.ID)},
		Type:       SecretType,
		Data:       data,
	}
}

// FromSecret reads the Secret of a token. It fails if type, name or content are not those of a token.
func FromSecret(secret *corev1.Secret) (Record, error) {
	r := Record{
		Token:          Token{ID: string(secret.Data[keyID]), Secret: string(secret.Data[keySecret])},
		Description:    string(secret.Data[keyDescription]),
		Authentication: string(secret.Data[keyUseAuth]) == "true",
		Signing:        string(secret.Data[keyUseSigning]) == "true",
	}
	if secret.Type != SecretType {
		return Record{}, fmt.Errorf("secret %s/%s has type %q, not %q", secret.Namespace, secret.Name, secret.Type, SecretType)
	}
	if !wellFormed(r.ID, idLength) || !wellFormed(r.Token.Secret, secretLength) || secret.Name != SecretName(r.ID) {
		return Record{}, fmt.Errorf("secret %s/%s has no well-formed token-id of its name and token-secret", secret.Namespace, secret.Name)
	}
	if text := string(secret.Data[keyExpiration]); text != "" {
		expires, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return Record{}, fmt.Errorf("secret %s/%s: expiration: %w", secret.Namespace, secret.Name, err)
		}
		r.Expires = expires
	}
	if text := string(secret.Data[keyGroups]); text != "" {
		for group := range strings.SplitSeq(text, ",") {
			if !strings.HasPrefix(group, Group+":") {
				return Record{}, fmt.Errorf("secret %s/%s: group %q does not begin with %q", secret.Namespace, secret.Name, group, Group+":")
			}
			if !slices.Contains(r.Groups, group) {
				r.Groups = append(r.Groups, group)
			}
		}
	}
	return r, nil
}

// Expired says whether the token has ended.
func (r Record) Expired(now time.Time) bool { return !r.Expires.IsZero() && !now.Before(r.Expires) }

// Matches compares the secret in constant time.
func (r Record) Matches(t Token) bool {
	return subtle.ConstantTimeCompare([]byte(r.Token.Secret), []byte(t.Secret)) == 1 && r.ID == t.ID
}
