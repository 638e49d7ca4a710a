package bootstrap

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/big"
	"strings"
)

const (
	prefix       = "mini1"
	idLength     = 6
	secretLength = 16
	alphabet     = "abcdefghijklmnopqrstuvwxyz0123456789"
)

// ErrMalformed is the error for everything that is no token. It does not repeat the text: it may be a secret.
var ErrMalformed = errors.New("malformed token: want mini1.HASH.ID.SECRET, or the short form ID.SECRET, with an ID of 6 and a SECRET of 16 lower-case letters and digits")

// Token lets a node join.
type Token struct {
	ID, Secret string
	// CAHash is the SHA-256 of the cluster CA's subject public key info (pki.PublicKeyHash); nil in a short token.
	CAHash []byte
}

// New makes a token with random ID and secret (83 bits). caHash may be nil.
func New(caHash []byte) (Token, error) {
	id, err := random(idLength)
	if err != nil {
		return Token{}, err
	}
	secret, err := random(secretLength)
	if err != nil {
		return Token{}, err
	}
	return Token{ID: id, Secret: secret, CAHash: caHash}, nil
}

func random(n int) (string, error) {
	var b strings.Builder
	for range n {
		i, err := rand.Int(rand.Reader, big.NewInt(int64(len(alphabet))))
		if err != nil {
			return "", err
		}
		b.WriteByte(alphabet[i.Int64()])
	}
	return b.String(), nil
}

// Parse reads either form of a token. White space around it is ignored.
func Parse(text string) (Token, error) {
	parts := strings.Split(strings.TrimSpace(text), ".")
	var t Token
	switch {
	case len(parts) == 2:
		t.ID, t.Secret = parts[0], parts[1]
	case len(parts) == 4 && parts[0] == prefix:
		hash, err := hex.DecodeString(parts[1])
		if err != nil || len(hash) != sha256.Size || strings.ToLower(parts[1]) != parts[1] {
			return Token{}, ErrMalformed
		}
		t.CAHash, t.ID, t.Secret = hash, parts[2], parts[3]
	default:
		return Token{}, ErrMalformed
	}
	if !wellFormed(t.ID, idLength) || !wellFormed(t.Secret, secretLength) {
		return Token{}, ErrMalformed
	}
	return t, nil
}

func wellFormed(s string, length int) bool {
	if len(s) != length {
		return false
	}
	return strings.Trim(s, alphabet) == ""
}

// String is the token as Parse reads it: the long form if the token has a hash.
func (t Token) String() string {
	if t.CAHash == nil {
		return t.Bearer()
	}
	return prefix + "." + hex.EncodeToString(t.CAHash) + "." + t.Bearer()
}

// Bearer is the short form, which is also what authenticates at the API server.
func (t Token) Bearer() string { return t.ID + "." + t.Secret }
