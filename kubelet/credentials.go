// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"sort"
	"strings"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"

	"github.com/mini-k8s/mini/kubelet/container"
)

// dockerAuth is one entry of a docker config file.
type dockerAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
}

// registryAuth is what a config has for one registry or part of one.
type registryAuth struct {
	registry string
	container.Credentials
}

// dockerConfig reads a Secret of type kubernetes.io/dockerconfigjson or kubernetes.io/dockercfg.
func dockerConfig(s *corev1.Secret) ([]registryAuth, error) {
	switch s.Type {
	case corev1.SecretTypeDockerConfigJson:
		var f struct {
			Auths map[string]dockerAuth `json:"auths"`
		}
		if err := json.Unmarshal(s.Data[corev1.DockerConfigJsonKey], &f); err != nil {
			return nil, badConfig(corev1.DockerConfigJsonKey, err)
		}
		return registryAuths(f.Auths)
	case corev1.SecretTypeDockercfg:
		var m map[string]dockerAuth
		if err := json.Unmarshal(s.Data[corev1.DockerConfigKey], &m); err != nil {
			return nil, badConfig(corev1.DockerConfigKey, err)
		}
		return registryAuths(m)
	}
	return nil, fmt.Errorf("type %q is no image pull secret", s.Type)
}

// badConfig names the key and, of a syntax error, the place, but never the content: it is a secret.
func badConfig(key string, err error) error {
	if se, ok := err.(*json.SyntaxError); ok {
		return fmt.Errorf("%s is no valid JSON at byte %d", key, se.Offset)
	}
	return fmt.Errorf("%s does not have the form of a docker config", key)
}

func registryAuths(m map[string]dockerAuth) ([]registryAuth, error) {
	var out []registryAuth
	for registry, a := range m {
		c := container.Credentials{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken}
		if a.Auth != "" {
			user, pass, err := decodeAuth(a.Auth)
			if err != nil {
				return nil, fmt.Errorf("auth of registry %q: %w", registry, err)
			}
			c.Username, c.Password = user, pass
		}
		out = append(out, registryAuth{registry, c})
	}
	// The most specific first; that is also a fixed order.
	sort.Slice(out, func(i, j int) bool { return out[i].registry > out[j].registry })
	return out, nil
}

func decodeAuth(s string) (user, password string, err error) {
	data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(s))
	if err != nil {
		// Some tools leave the padding away.
		if data, err = base64.RawStdEncoding.DecodeString(strings.TrimSpace(s)); err != nil {
			return "", "", fmt.Errorf("not base64")
		}
	}
	user, password, ok := strings.Cut(string(data), ":")
	if !ok {
		return "", "", fmt.Errorf("no colon between user and password")
	}
	return user, strings.TrimRight(password, "\x00"), nil
}

// dockerHub has many names in config files.
const dockerHub = "docker.io"

// matching returns the entries for an image reference, by the API's rules: host parts may be globs and must be equally many, the
// port must be equal, the path is a prefix.
func matching(entries []registryAuth, ref string) []container.Credentials {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return nil
	}
	host, image := reference.Domain(named), reference.Path(named)
	var out []container.Credentials
	for _, e := range entries {
		if registryMatches(e.registry, host, image) {
			out = append(out, e.Credentials)
		}
	}
	return out
}

func registryMatches(entry, host, image string) bool {
	if !strings.Contains(entry, "://") {
		entry = "https://" + entry
	}
	u, err := url.Parse(entry)
	if err != nil || u.Host == "" {
		return false
	}
	want, prefix := u.Host, strings.Trim(u.Path, "/")
	// https://index.docker.io/v1/ is how docker login spells its hub; v1 and v2 are the protocol's, not the image's.
	if prefix == "v1" || prefix == "v2" {
		prefix = ""
	}
	if want == "index.docker.io" || want == "registry-1.docker.io" {
		want = dockerHub
	}
	if prefix != "" && image != prefix && !strings.HasPrefix(image, prefix+"/") {
		return false
	}
	wantHost, wantPort, _ := strings.Cut(want, ":")
	haveHost, havePort, _ := strings.Cut(host, ":")
	if wantPort != havePort {
		return false
	}
	a, b := strings.Split(wantHost, "."), strings.Split(haveHost, ".")
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if ok, err := path.Match(a[i], b[i]); err != nil || !ok {
			return false
		}
	}
	return true
}
