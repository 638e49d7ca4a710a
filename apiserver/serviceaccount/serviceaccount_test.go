package serviceaccount

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/mini-k8s/mini/apiserver/request"
	"github.com/mini-k8s/mini/internal/pki"
)

const testIssuer = "https://kubernetes.default.svc.cluster.local"

func testKeys(t testing.TB) *Keys {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := NewKeys([]crypto.Signer{key})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func meta(name string, uid string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + uid)}
}

func objectsOfTest() []runtime.Object {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a", UID: "uid-node"}}
	return []runtime.Object{
		&corev1.ServiceAccount{ObjectMeta: meta("bot", "bot")},
		&corev1.ServiceAccount{ObjectMeta: meta("other", "other")},
		&corev1.Pod{ObjectMeta: meta("pod", "pod"), Spec: corev1.PodSpec{ServiceAccountName: "bot", NodeName: "node-a"}},
		&corev1.Secret{ObjectMeta: meta("secret", "secret")},
		node,
	}
}

// unit has no running informers: everything goes by the API, which is the harder half.
func unit(t testing.TB, keys *Keys, objects ...runtime.Object) (*Tokens, *Authenticator, *fake.Clientset) {
	t.Helper()
	client := fake.NewClientset(objects...)
	config := Config{Keys: keys, Issuer: testIssuer, Client: client, Informers: informers.NewSharedInformerFactory(client, 0)}
	return NewTokens(config), NewAuthenticator(config), client
}

func bound(kind, name string) *authenticationv1.BoundObjectReference {
	return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name}
}

func create(t testing.TB, tokens *Tokens, spec authenticationv1.TokenRequestSpec) *authenticationv1.TokenRequest {
	t.Helper()
	out, err := tokens.Create(t.Context(), "ns", "bot", &authenticationv1.TokenRequest{Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestClaims(t *testing.T) {
	tokens, _, _ := unit(t, testKeys(t), objectsOfTest()...)
	out := create(t, tokens, authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Pod", "pod")})
	payload, ok := payloadOf(out.Status.Token)
	if !ok {
		t.Fatal(out.Status.Token)
	}
	var got map[string]any
	if err := json.Unmarshal(payload, &got); err != nil {
		t.Fatal(err)
	}
	for _, claim := range []string{"exp", "iat", "nbf", "jti"} {
		if got[claim] == nil {
			t.Errorf("no %s", claim)
		}
		delete(got, claim)
	}
	text, _ := json.Marshal(got)
	want := `{"aud":["` + testIssuer + `"],"iss":"` + testIssuer + `","kubernetes.io":{"namespace":"ns","node":{"name":"node-a","uid":"uid-node"},"pod":{"name":"pod","uid":"uid-pod"},"serviceaccount":{"name":"bot","uid":"uid-bot"}},"sub":"system:serviceaccount:ns:bot"}`
	if string(text) != want {
		t.Errorf("claims\n%s, want\n%s", text, want)
	}
	header, _ := base64.RawURLEncoding.DecodeString(strings.Split(out.Status.Token, ".")[0])
	if !strings.Contains(string(header), `"alg":"ES256"`) || !strings.Contains(string(header), `"kid":"`) {
		t.Errorf("header %s", header)
	}
	if left := time.Until(out.Status.ExpirationTimestamp.Time); left < 59*time.Minute || *out.Spec.ExpirationSeconds != 3600 {
		t.Errorf("expires in %v, spec %d", left, *out.Spec.ExpirationSeconds)
	}
}

func TestCreateRefuses(t *testing.T) {
	tokens, _, _ := unit(t, testKeys(t), append(objectsOfTest(),
		&corev1.Pod{ObjectMeta: meta("foreign", "foreign"), Spec: corev1.PodSpec{ServiceAccountName: "other"}})...)
	seconds := func(n int64) *int64 { return &n }
	stale := bound("Pod", "pod")
	stale.UID = "uid-of-an-older-pod"
	cases := map[string]struct {
		account string
		spec    authenticationv1.TokenRequestSpec
		is      func(error) bool
		want    string
	}{
		"no such account": {"none", authenticationv1.TokenRequestSpec{}, apierrors.IsNotFound, `serviceaccounts "none" not found`},
		"too short":       {"bot", authenticationv1.TokenRequestSpec{ExpirationSeconds: seconds(599)}, apierrors.IsInvalid, "may not specify a duration less than 10 minutes"},
		"too long":        {"bot", authenticationv1.TokenRequestSpec{ExpirationSeconds: seconds(1<<32 + 1)}, apierrors.IsInvalid, "larger than 2^32 seconds"},
		"another's pod":   {"bot", authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Pod", "foreign")}, apierrors.IsBadRequest, `cannot bind token for serviceaccount "bot" to pod running with different serviceaccount name.`},
		"no such pod":     {"bot", authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Pod", "none")}, apierrors.IsNotFound, `pods "none" not found`},
		"older pod":       {"bot", authenticationv1.TokenRequestSpec{BoundObjectRef: stale}, apierrors.IsConflict, "does not match the UID in record"},
		"unknown kind":    {"bot", authenticationv1.TokenRequestSpec{BoundObjectRef: bound("ConfigMap", "x")}, apierrors.IsBadRequest, "cannot bind token to object of type /v1, Kind=ConfigMap"},
		"no such node":    {"bot", authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Node", "none")}, apierrors.IsNotFound, `nodes "none" not found`},
		"no such secret":  {"bot", authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Secret", "none")}, apierrors.IsNotFound, `secrets "none" not found`},
	}
	for name, c := range cases {
		_, err := tokens.Create(t.Context(), "ns", c.account, &authenticationv1.TokenRequest{Spec: c.spec})
		if err == nil || !c.is(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAuthenticate(t *testing.T) {
	keys := testKeys(t)
	tokens, auth, client := unit(t, keys, objectsOfTest()...)
	podToken := create(t, tokens, authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Pod", "pod")}).Status.Token
	secretToken := create(t, tokens, authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Secret", "secret")}).Status.Token
	nodeToken := create(t, tokens, authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Node", "node-a")}).Status.Token
	vault := create(t, tokens, authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}}).Status.Token
	plain := create(t, tokens, authenticationv1.TokenRequestSpec{}).Status.Token
	strangerTokens, _, _ := unit(t, testKeys(t), objectsOfTest()...)
	stranger := create(t, strangerTokens, authenticationv1.TokenRequestSpec{}).Status.Token
	elsewhere, _, _ := unit(t, keys, objectsOfTest()...)
	elsewhere.config.Issuer = "https://elsewhere"
	foreign := create(t, elsewhere, authenticationv1.TokenRequestSpec{}).Status.Token

	must := func(name, token string, want string) *authenticator.Response {
		t.Helper()
		response, ok, err := auth.AuthenticateToken(t.Context(), token)
		switch {
		case want == "" && (!ok || err != nil):
			t.Errorf("%s: %v, %v", name, ok, err)
		case want == "-" && (ok || err != nil):
			t.Errorf("%s: %v, %v; want no opinion", name, ok, err)
		case want != "" && want != "-" && (ok || err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, %v; want %s", name, ok, err, want)
		}
		return response
	}
	response := must("pod", podToken, "")
	u := response.User
	if u.GetName() != "system:serviceaccount:ns:bot" || u.GetUID() != "uid-bot" || !slices.Equal(u.GetGroups(), []string{"system:serviceaccounts", "system:serviceaccounts:ns"}) {
		t.Errorf("%+v", u)
	}
	extra := u.GetExtra()
	if extra["authentication.kubernetes.io/pod-name"][0] != "pod" || extra["authentication.kubernetes.io/pod-uid"][0] != "uid-pod" ||
		extra["authentication.kubernetes.io/node-name"][0] != "node-a" || extra["authentication.kubernetes.io/node-uid"][0] != "uid-node" ||
		!strings.HasPrefix(extra["authentication.kubernetes.io/credential-id"][0], "JTI=") {
		t.Errorf("extra %v", extra)
	}
	must("secret", secretToken, "")
	must("node", nodeToken, "")
	must("plain", plain, "")
	must("plain again", plain, "")
	must("for another audience", vault, "is invalid for the target audiences")
	must("another key", stranger, "signature is invalid")
	must("another issuer", foreign, "-")
	must("nonsense", "a.b.c", "-")
	must("a bootstrap token", "abcdef.0123456789abcdef", "-")

	parts := strings.Split(plain, ".")
	payload, _ := payloadOf(plain)
	forged := strings.Replace(string(payload), "ns:bot", "ns:other", 1)
	must("forged payload", parts[0]+"."+base64.RawURLEncoding.EncodeToString([]byte(forged))+"."+parts[2], "signature is invalid")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`))
	if _, ok, _ := auth.AuthenticateToken(t.Context(), none+"."+parts[1]+"."); ok {
		t.Error("alg none was accepted")
	}

	// What the token names goes away: so does the token.
	remove := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	core := client.CoreV1()
	remove(core.Secrets("ns").Delete(t.Context(), "secret", metav1.DeleteOptions{}))
	must("secret is gone", secretToken, "invalidated")
	remove(core.Nodes().Delete(t.Context(), "node-a", metav1.DeleteOptions{}))
	must("node is gone", nodeToken, "invalidated")
	must("pod stays", podToken, "")
	remove(core.Pods("ns").Delete(t.Context(), "pod", metav1.DeleteOptions{}))
	must("pod is gone", podToken, "invalidated")
	if _, err := core.Pods("ns").Create(t.Context(), &corev1.Pod{ObjectMeta: meta("pod", "new")}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	must("pod is another one", podToken, "does not match claim")
	remove(core.ServiceAccounts("ns").Delete(t.Context(), "bot", metav1.DeleteOptions{}))
	must("account is gone", plain, "invalidated")
}

func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens, auth, _ := unit(t, testKeys(t), objectsOfTest()...)
		hour := create(t, tokens, authenticationv1.TokenRequestSpec{}).Status.Token
		asked := int64(projectedSeconds)
		mounted := create(t, tokens, authenticationv1.TokenRequestSpec{ExpirationSeconds: &asked, BoundObjectRef: bound("Pod", "pod")})
		if left := time.Until(mounted.Status.ExpirationTimestamp.Time); left > projectedSeconds*time.Second {
			t.Errorf("the kubelet would renew after %v", left)
		}
		good := func(token string) bool {
			_, ok, _ := auth.AuthenticateToken(t.Context(), token)
			return ok
		}
		time.Sleep(59 * time.Minute)
		if !good(hour) || !good(mounted.Status.Token) {
			t.Error("ended too early")
		}
		time.Sleep(2 * time.Minute)
		if good(hour) {
			t.Error("outlived its hour")
		}
		time.Sleep(300 * 24 * time.Hour)
		if !good(mounted.Status.Token) {
			t.Error("a mounted token that is never read again ended")
		}
		time.Sleep(66 * 24 * time.Hour)
		if good(mounted.Status.Token) {
			t.Error("a mounted token lasts for more than a year")
		}
	})
}

func TestKeysRotate(t *testing.T) {
	old, err := rsa.GenerateKey(rand.Reader, 2048) // as kubeadm makes them
	if err != nil {
		t.Fatal(err)
	}
	fresh, _ := pki.NewKey()
	before, err := NewKeys([]crypto.Signer{old})
	if err != nil {
		t.Fatal(err)
	}
	after, err := NewKeys([]crypto.Signer{fresh, old})
	if err != nil {
		t.Fatal(err)
	}
	oldTokens, _, _ := unit(t, before, objectsOfTest()...)
	token := create(t, oldTokens, authenticationv1.TokenRequestSpec{}).Status.Token
	newTokens, auth, _ := unit(t, after, objectsOfTest()...)
	for _, token := range []string{token, create(t, newTokens, authenticationv1.TokenRequestSpec{}).Status.Token} {
		if _, ok, err := auth.AuthenticateToken(t.Context(), token); !ok {
			t.Error(err)
		}
	}
}

func TestTokenReview(t *testing.T) {
	tokens, auth, _ := unit(t, testKeys(t), objectsOfTest()...)
	reviews := NewReviews([]string{testIssuer}, auth, authenticator.TokenFunc(func(context.Context, string) (*authenticator.Response, bool, error) {
		return nil, false, nil
	}))
	ask := func(token string, audiences ...string) authenticationv1.TokenReviewStatus {
		t.Helper()
		out, err := reviews.Token(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences}})
		if err != nil {
			t.Fatal(err)
		}
		return out.Status
	}
	plain := create(t, tokens, authenticationv1.TokenRequestSpec{}).Status.Token
	vault := create(t, tokens, authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}}).Status.Token
	if s := ask(plain); !s.Authenticated || s.User.Username != "system:serviceaccount:ns:bot" || !slices.Contains(s.User.Groups, user.AllAuthenticated) || !slices.Equal(s.Audiences, []string{testIssuer}) {
		t.Errorf("%+v", s)
	}
	if s := ask(vault); s.Authenticated || s.Error == "" {
		t.Errorf("%+v", s)
	}
	if s := ask(vault, "vault", "x"); !s.Authenticated || !slices.Equal(s.Audiences, []string{"vault"}) {
		t.Errorf("%+v", s)
	}
	if s := ask("who"); s.Authenticated || s.Error != "" {
		t.Errorf("%+v", s)
	}
	if _, err := reviews.Token(t.Context(), &authenticationv1.TokenReview{}); !apierrors.IsInvalid(err) {
		t.Errorf("empty: %v", err)
	}
	self, err := reviews.SelfSubject(request.WithUser(t.Context(), &user.DefaultInfo{Name: "ada", Extra: map[string][]string{"k": {"v"}}}), &authenticationv1.SelfSubjectReview{})
	if err != nil || self.Status.UserInfo.Username != "ada" || self.Status.UserInfo.Extra["k"][0] != "v" {
		t.Errorf("%+v, %v", self, err)
	}
}

func TestDiscovery(t *testing.T) {
	keys := testKeys(t)
	tokens, _, _ := unit(t, keys, objectsOfTest()...)
	handlers, err := Discovery(testIssuer, "https://192.0.2.1:6443"+JWKSPath, keys)
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string, into any) string {
		t.Helper()
		w := httptest.NewRecorder()
		handlers[path].ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatal(err)
		}
		return w.Header().Get("Content-Type")
	}
	var configuration map[string]any
	if ct := get(ConfigurationPath, &configuration); ct != "application/json" || configuration["issuer"] != testIssuer || configuration["jwks_uri"] != "https://192.0.2.1:6443/openid/v1/jwks" {
		t.Errorf("%s: %v", ct, configuration)
	}
	var set jose.JSONWebKeySet
	if ct := get(JWKSPath, &set); ct != "application/jwk-set+json" {
		t.Error(ct)
	}
	parsed, err := jose.ParseSigned(create(t, tokens, authenticationv1.TokenRequestSpec{}).Status.Token, algorithms)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parsed.Verify(set); err != nil {
		t.Errorf("the published keys do not verify: %v", err)
	}
	for _, key := range set.Keys {
		if !key.IsPublic() {
			t.Error("a private key is published")
		}
	}
}

// No text becomes a user unless it is a token that was issued.
func FuzzAuthenticate(f *testing.F) {
	tokens, auth, _ := unit(f, testKeys(f), objectsOfTest()...)
	out, err := tokens.Create(context.Background(), "ns", "bot", &authenticationv1.TokenRequest{})
	if err != nil {
		f.Fatal(err)
	}
	parts := strings.Split(out.Status.Token, ".")
	f.Add(out.Status.Token)
	f.Add(parts[0] + "." + parts[1] + ".")
	f.Add(parts[0] + ".e30." + parts[2])
	f.Add("eyJhbGciOiJub25lIn0." + parts[1] + "." + parts[2])
	f.Add(parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"`+testIssuer+`","kubernetes.io":null}`)) + "." + parts[2])
	f.Fuzz(func(t *testing.T, token string) {
		_, ok, _ := auth.AuthenticateToken(t.Context(), token)
		if !ok {
			return
		}
		// Base64 has spare bits in the last character: another spelling of the same signature is no forgery.
		got := strings.Split(token, ".")
		if len(got) != 3 || got[0] != parts[0] || got[1] != parts[1] {
			t.Fatalf("%q was accepted", token)
		}
	})
}

func BenchmarkAuthenticateAgain(b *testing.B) {
	client := fake.NewClientset(objectsOfTest()...)
	factory := informers.NewSharedInformerFactory(client, 0)
	config := Config{Keys: testKeys(b), Issuer: testIssuer, Client: client, Informers: factory}
	tokens, auth := NewTokens(config), NewAuthenticator(config)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	token := create(b, tokens, authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Pod", "pod")}).Status.Token
	b.ReportAllocs()
	for b.Loop() {
		if _, ok, err := auth.AuthenticateToken(ctx, token); !ok {
			b.Fatal(err)
		}
	}
}
