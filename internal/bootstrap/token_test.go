package bootstrap

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	hash := strings.Repeat("0a", 32)
	good := map[string]Token{
		"abcdef.0123456789abcdef":                           {ID: "abcdef", Secret: "0123456789abcdef"},
		"mini1." + hash + ".abcdef.0123456789abcdef":        {ID: "abcdef", Secret: "0123456789abcdef", CAHash: bytes.Repeat([]byte{10}, 32)},
		"  mini1." + hash + ".abcdef.0123456789abcdef \r\n": {ID: "abcdef", Secret: "0123456789abcdef", CAHash: bytes.Repeat([]byte{10}, 32)},
	}
	for text, want := range good {
		got, err := Parse(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
	for _, text := range []string{
		"", ".", "abcdef", "abcde.0123456789abcdef", "abcdef.0123456789abcde", "abcdef.0123456789abcdef0", "ABCDEF.0123456789abcdef",
		"abcdef.0123456789abcd-f", "mini1..abcdef.0123456789abcdef", "mini2." + hash + ".abcdef.0123456789abcdef",
		"mini1." + hash[2:] + ".abcdef.0123456789abcdef", "mini1." + strings.ToUpper(hash) + ".abcdef.0123456789abcdef",
		"mini1." + hash + ".abcdef.0123456789abcdef.", "abcdef.\u00e9123456789abcde",
	} {
		if got, err := Parse(text); err == nil {
			t.Errorf("%q: %v", text, got)
		} else if strings.Contains(err.Error(), "0123456789") {
			t.Errorf("%q: the error repeats the secret", text)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("abcdef.0123456789abcdef")
	f.Add("mini1." + strings.Repeat("0a", 32) + ".abcdef.0123456789abcdef")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := Parse(text)
		if err != nil {
			return
		}
		if token.String() != strings.TrimSpace(text) {
			t.Fatalf("%q became %q", text, token)
		}
		again, err := Parse(token.String())
		if err != nil || cmp.Diff(token, again) != "" {
			t.Fatalf("%q: %v, %v", text, again, err)
		}
		record := Record{Token: Token{ID: token.ID, Secret: token.Secret}, Authentication: true}
		back, err := FromSecret(record.MakeSecret())
		if err != nil || cmp.Diff(record, back) != "" {
			t.Fatalf("%q: %v, %v", text, back, err)
		}
	})
}

func TestNewTokensDiffer(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		token, err := New(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(token.String()); err != nil || seen[token.ID] {
			t.Fatalf("%v, seen %v", err, seen[token.ID])
		}
		seen[token.ID] = true
	}
}

func TestSecretRoundTrip(t *testing.T) {
	token, _ := New(nil)
	record := Record{
		Token: token, Expires: time.Now().Add(time.Hour).UTC().Truncate(time.Second), Description: "for the rack",
		Groups: []string{"system:bootstrappers:a", "system:bootstrappers:b"}, Authentication: true, Signing: true,
	}
	secret := record.MakeSecret()
	got, err := FromSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(record, got); diff != "" {
		t.Error(diff)
	}
	if got.Expired(record.Expires.Add(-time.Second)) || !got.Expired(record.Expires) {
		t.Error("expires at the wrong time")
	}
	secret.Name = "bootstrap-token-zzzzzz"
	if _, err := FromSecret(secret); err == nil {
		t.Error("a Secret of another name was accepted")
	}
}
