package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/mini-k8s/mini/internal/pki"
)

// firstLabel marks the Secret of the first token, so that a crash before its file is written makes no second one.
const firstLabel = "mini-k8s.io/first-token"

// Ensure returns the token of the file at path, made at the first start together with its Secret. preset (--token) decides
// ID and secret; the zero Token lets them be random. Once the file exists its Secret is never made again: whoever deleted
// it wanted the token to end. A preset that differs from the file is a new token, and replaces it there. made says that
// the token is new and worth telling.
func Ensure(ctx context.Context, client kubernetes.Interface, path string, preset Token, caHash []byte) (token Token, made bool, err error) {
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return Token{}, false, fmt.Errorf("join token: %w", err)
	default:
		old, err := Parse(string(data))
		if err != nil {
			return Token{}, false, fmt.Errorf("join token in %s: %w", path, err)
		}
		if preset.ID == "" || preset.Bearer() == old.Bearer() {
			token = Token{ID: old.ID, Secret: old.Secret, CAHash: caHash}
			if token.String() == strings.TrimSpace(string(data)) {
				return token, false, nil
			}
			return token, true, writeToken(path, token) // the CA is another one now
		}
	}

	token = Token{ID: preset.ID, Secret: preset.Secret, CAHash: caHash}
	if preset.ID == "" {
		if token, err = first(ctx, client, caHash); err != nil {
			return Token{}, false, fmt.Errorf("join token: %w", err)
		}
	}
	record := Record{Token: token, Description: "The first token of this cluster, also in the server's token file.", Authentication: true, Signing: true}
	secret := record.MakeSecret()
	if preset.ID == "" {
		secret.Labels = map[string]string{firstLabel: "true"}
	}
	if err := put(ctx, client, secret); err != nil {
		return Token{}, false, fmt.Errorf("join token: %w", err)
	}
	return token, true, writeToken(path, token)
}

// first is the token of a start that did not get as far as its file, or a new one.
func first(ctx context.Context, client kubernetes.Interface, caHash []byte) (Token, error) {
	secrets, err := client.CoreV1().Secrets(SecretNamespace).List(ctx, metav1.ListOptions{LabelSelector: firstLabel + "=true"})
	if err != nil {
		return Token{}, err
	}
	for i := range secrets.Items {
		if record, err := FromSecret(&secrets.Items[i]); err == nil {
			record.CAHash = caHash
			return record.Token, nil
		}
	}
	return New(caHash)
}

func put(ctx context.Context, client kubernetes.Interface, secret *corev1.Secret) error {
	api := client.CoreV1().Secrets(SecretNamespace)
	_, err := api.Create(ctx, secret, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	old, err := api.Get(ctx, secret.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if record, err := FromSecret(old); err == nil && record.Token.Secret == string(secret.Data[keySecret]) {
		return nil
	}
	old.Data = secret.Data
	_, err = api.Update(ctx, old, metav1.UpdateOptions{})
	return err
}

func writeToken(path string, token Token) error {
	if err := pki.WriteFile(path, []byte(token.String()+"\n"), true); err != nil {
		return fmt.Errorf("join token: %w", err)
	}
	return nil
}
