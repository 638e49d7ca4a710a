package serviceaccount

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// algorithms are those of the keys that are accepted.
var algorithms = []jose.SignatureAlgorithm{jose.ES256, jose.RS256}

// Keys sign with the first and verify with all of them.
type Keys struct {
	signer jose.Signer
	byID   map[string]crypto.PublicKey
	public []jose.JSONWebKey
}

// NewKeys takes ECDSA P-256 and RSA keys.
func NewKeys(keys []crypto.Signer) (*Keys, error) {
	if len(keys) == 0 {
		return nil, errors.New("no ServiceAccount signing key")
	}
	k := &Keys{byID: map[string]crypto.PublicKey{}}
	for i, key := range keys {
		algorithm, err := algorithmOf(key.Public())
		if err != nil {
			return nil, err
		}
		id, err := keyID(key.Public())
		if err != nil {
			return nil, err
		}
		if k.byID[id] != nil {
			continue
		}
		k.byID[id] = key.Public()
		k.public = append(k.public, jose.JSONWebKey{Key: key.Public(), KeyID: id, Algorithm: string(algorithm), Use: "sig"})
		if i == 0 {
			k.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: jose.JSONWebKey{Key: key, KeyID: id}}, nil)
			if err != nil {
				return nil, err
			}
		}
	}
	return k, nil
}

func algorithmOf(key crypto.PublicKey) (jose.SignatureAlgorithm, error) {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() {
			return jose.ES256, nil
		}
	case *rsa.PublicKey:
		return jose.RS256, nil
	}
	return "", fmt.Errorf("ServiceAccount key of type %T: want ECDSA P-256 or RSA", key)
}

// keyID names a key by the hash of its SubjectPublicKeyInfo, as upstream does, so that tokens of both verify at once.
func keyID(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

func (k *Keys) sign(c *claims) (string, error) {
	return jwt.Signed(k.signer).Claims(c).Serialize()
}

// errSignature is the error for a token that none of the keys has signed.
var errSignature = errors.New("token signature is invalid")

func (k *Keys) verify(token string) (*claims, error) {
	parsed, err := jwt.ParseSigned(token, algorithms)
	if err != nil {
		return nil, err
	}
	c := &claims{}
	if len(parsed.Headers) == 1 && parsed.Headers[0].KeyID != "" {
		key := k.byID[parsed.Headers[0].KeyID]
		if key == nil || parsed.Claims(key, c) != nil {
			return nil, errSignature
		}
		return c, nil
	}
	for _, key := range k.public {
		if parsed.Claims(key.Key, c) == nil {
			return c, nil
		}
	}
	return nil, errSignature
}

func payloadOf(token string) ([]byte, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	return payload, err == nil
}

// jwks is the JSON Web Key Set of the public keys.
func (k *Keys) jwks() ([]byte, error) {
	return json.Marshal(jose.JSONWebKeySet{Keys: k.public})
}
