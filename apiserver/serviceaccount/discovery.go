package serviceaccount

import (
	"encoding/json"
	"net/http"
)

// Paths of the OpenID documents.
const (
	ConfigurationPath = "/.well-known/openid-configuration"
	JWKSPath          = "/openid/v1/jwks"
)

// Discovery are the handlers of the OpenID documents, by path: how others verify tokens of this issuer. jwksURI is where
// they find the keys: the API server's address with JWKSPath.
func Discovery(issuer, jwksURI string, keys *Keys) (map[string]http.Handler, error) {
	set, err := keys.jwks()
	if err != nil {
		return nil, err
	}
	var signing []string
	seen := map[string]bool{}
	for _, key := range keys.public {
		if !seen[key.Algorithm] {
			signing = append(signing, key.Algorithm)
			seen[key.Algorithm] = true
		}
	}
	configuration, err := json.Marshal(struct {
		Issuer     string   `json:"issuer"`
		JWKSURI    string   `json:"jwks_uri"`
		Responses  []string `json:"response_types_supported"`
		Subjects   []string `json:"subject_types_supported"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}{issuer, jwksURI, []string{"id_token"}, []string{"public"}, signing})
	if err != nil {
		return nil, err
	}
	return map[string]http.Handler{
		ConfigurationPath: document("application/json", configuration),
		JWKSPath:          document("application/jwk-set+json", set),
	}, nil
}

func document(contentType string, body []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "public, max-age=3600")
		_, _ = w.Write(body)
	})
}
