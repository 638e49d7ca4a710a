package bootstrap

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	clientcmd "k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"
)

// The ConfigMap from which a node with a short token learns the CA, in kubeadm's format (k8s.io/cluster-bootstrap):
// a kubeconfig without user, and a detached JWS of it for each signing token.
const (
	ClusterInfo          = "cluster-info"
	clusterInfoKey       = "kubeconfig"
	clusterInfoSignature = "jws-kubeconfig-"
)

// MakeClusterInfo is the ConfigMap for a cluster's CA (PEM), the URL of its server and its tokens. Tokens that may not
// sign sign nothing.
func MakeClusterInfo(caPEM []byte, url string, tokens []Record) (*corev1.ConfigMap, error) {
	kubeconfig, err := yaml.Marshal(clientcmd.Config{
		APIVersion: "v1", Kind: "Config",
		Clusters: []clientcmd.NamedCluster{{Cluster: clientcmd.Cluster{Server: url, CertificateAuthorityData: caPEM}}},
	})
	if err != nil {
		return nil, err
	}
	data := map[string]string{clusterInfoKey: string(kubeconfig)}
	for _, token := range tokens {
		if token.Signing {
			data[clusterInfoSignature+token.ID] = token.sign(kubeconfig)
		}
	}
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespacePublic, Name: ClusterInfo}, Data: data}, nil
}

// VerifyClusterInfo returns the CA (PEM) of a ConfigMap that the token has signed. Nothing of another is believed.
func VerifyClusterInfo(info *corev1.ConfigMap, token Token) (caPEM []byte, err error) {
	kubeconfig := info.Data[clusterInfoKey]
	signature, ok := info.Data[clusterInfoSignature+token.ID]
	if !ok {
		return nil, ErrUnknownToken
	}
	if !hmac.Equal([]byte(signature), []byte(token.sign([]byte(kubeconfig)))) {
		return nil, ErrSignature
	}
	var config clientcmd.Config
	if err := yaml.Unmarshal([]byte(kubeconfig), &config); err != nil {
		return nil, fmt.Errorf("cluster-info: %w", err)
	}
	if len(config.Clusters) != 1 || len(config.Clusters[0].Cluster.CertificateAuthorityData) == 0 {
		return nil, errors.New("cluster-info has no CA of one cluster")
	}
	return config.Clusters[0].Cluster.CertificateAuthorityData, nil
}

// ErrUnknownToken and ErrSignature are why cluster-info is not believed.
var (
	ErrUnknownToken = errors.New("the server does not know the token")
	ErrSignature    = errors.New("the server's answer is not signed with the token's secret")
)

// sign is the detached JWS (RFC 7515, appendix F) with HS256 and the token's secret.
func (t Token) sign(payload []byte) string {
	header, _ := json.Marshal(map[string]string{"alg": "HS256", "kid": t.ID}) // strings marshal
	encode := base64.RawURLEncoding.EncodeToString
	mac := hmac.New(sha256.New, []byte(t.Secret))
	mac.Write([]byte(encode(header) + "." + encode(payload)))
	return encode(header) + ".." + encode(mac.Sum(nil))
}

// List returns the tokens of the cluster. Secrets that are no well-formed tokens are left out.
func List(ctx context.Context, client kubernetes.Interface) ([]Record, error) {
	secrets, err := client.CoreV1().Secrets(SecretNamespace).List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(SecretType)})
	if err != nil {
		return nil, err
	}
	var out []Record
	for i := range secrets.Items {
		if record, err := FromSecret(&secrets.Items[i]); err == nil {
			out = append(out, record)
		}
	}
	return out, nil
}

// Publish writes cluster-info for the tokens there are, if it is not right already.
func Publish(ctx context.Context, client kubernetes.Interface, caPEM []byte, url string) error {
	tokens, err := List(ctx, client)
	if err != nil {
		return fmt.Errorf("publish cluster-info: %w", err)
	}
	want, err := MakeClusterInfo(caPEM, url, tokens)
	if err != nil {
		return fmt.Errorf("publish cluster-info: %w", err)
	}
	api := client.CoreV1().ConfigMaps(metav1.NamespacePublic)
	for range 5 {
		have, getErr := api.Get(ctx, ClusterInfo, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(getErr):
			_, err = api.Create(ctx, want, metav1.CreateOptions{})
		case getErr != nil:
			err = getErr
		case maps.Equal(have.Data, want.Data):
			return nil
		default:
			have.Data = want.Data
			_, err = api.Update(ctx, have, metav1.UpdateOptions{})
		}
		if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) { // another server writes the same
			break
		}
	}
	if err != nil {
		return fmt.Errorf("publish cluster-info: %w", err)
	}
	return nil
}
