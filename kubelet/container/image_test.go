// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestNormalizeImage(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	for in, want := range map[string]string{
		"busybox":                      "docker.io/library/busybox:latest",
		"busybox:1.36":                 "docker.io/library/busybox:1.36",
		"user/app":                     "docker.io/user/app:latest",
		"example.test/a/b:c":           "example.test/a/b:c",
		"localhost:5000/x":             "localhost:5000/x:latest",
		"busybox@" + digest:            "docker.io/library/busybox@" + digest,
		"example.test/a:tag@" + digest: "example.test/a@" + digest,
		"UPPER":                        "",
		"":                             "",
		"a b":                          "",
	} {
		if got, err := NormalizeImage(in); got != want || (err != nil) != (want == "") {
			t.Errorf("%q is %q, %v; want %q", in, got, err, want)
		}
	}
}

func FuzzNormalizeImage(f *testing.F) {
	for _, s := range []string{"busybox", "a/b:c@sha256:", "sha256:0123456789ab", "x:y:z", "\x00", "host:1/a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		name, err := NormalizeImage(ref)
		if err != nil {
			return
		}
		if again, err := NormalizeImage(name); err != nil || again != name {
			t.Errorf("%q became %q, which became %q, %v", ref, name, again, err)
		}
	})
}

// dockerArchive is what `docker save` writes.
func dockerArchive(t *testing.T, names []string, config imagespec.Image, layer []byte) []byte {
	sum := sha256.Sum256(layer)
	config.RootFS = imagespec.RootFS{Type: "layers", DiffIDs: append(config.RootFS.DiffIDs, digestOf(layer))}
	configData, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": names, "Layers": []string{hex.EncodeToString(sum[:]) + "/layer.tar"}}})
	if err != nil {
		t.Fatal(err)
	}
	return tarball(t, func(add func(name, link string, mode int64, data []byte)) {
		add(hex.EncodeToString(sum[:])+"/layer.tar", "", 0o644, layer)
		add("config.json", "", 0o644, configData)
		add("manifest.json", "", 0o644, manifest)
	})
}

func TestImages(t *testing.T) {
	n := newNode(t)
	ctx := t.Context()
	n.importImage(testImage, func(c *imagespec.ImageConfig) { c.User = "101:0" })
	n.importImage(testImage, func(c *imagespec.ImageConfig) { c.User = "101:0" }) // again changes nothing
	layer := tarball(t, func(add func(name, link string, mode int64, data []byte)) { add("hello", "", 0o644, []byte("hi")) })
	config := imagespec.Image{Platform: imagespec.Platform{Architecture: goarch(), OS: "linux"}, Config: imagespec.ImageConfig{User: "web"}}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(dockerArchive(t, []string{"short:1", "example.test/long:2"}, config, layer))
	z.Close()
	imported, err := n.Import(ctx, &packed)
	if err != nil || len(imported) != 1 {
		t.Fatalf("docker archive: %+v, %v", imported, err)
	}
	img := imported[0]
	if img.Username != "web" || img.UID != nil || !slices.Contains(img.Names, "docker.io/library/short:1") || !slices.Contains(img.Names, "example.test/long:2") {
		t.Errorf("image %+v", img)
	}
	for _, ref := range []string{"short:1", "example.test/long:2", img.ID, strings.TrimPrefix(img.ID, "sha256:"), img.ID[7:19], img.Names[len(img.Names)-1]} {
		if got, err := n.Image(ctx, ref); err != nil || got.ID != img.ID {
			t.Errorf("image %s: %+v, %v", ref, got, err)
		}
	}
	for _, name := range img.Names {
		if got, err := n.Image(ctx, name); err != nil || got.ID != img.ID {
			t.Errorf("image %s: %+v, %v", name, got, err)
		}
	}
	for _, ref := range []string{"short:2", "nothing", "sha256:" + strings.Repeat("0", 64)} {
		if _, err := n.Image(ctx, ref); !errors.Is(err, ErrImageNotFound) {
			t.Errorf("image %s: %v", ref, err)
		}
	}
	if got, err := n.Image(ctx, testImage); err != nil || got.UID == nil || *got.UID != 101 || got.Size < 100<<10 {
		t.Errorf("image %+v, %v", got, err)
	}
	if all, err := n.ListImages(ctx); err != nil || len(all) != 2 {
		t.Errorf("images %+v, %v", all, err)
	}
	// One name goes, the image stays; its ID takes all.
	if err := n.RemoveImage(ctx, "short:1"); err != nil {
		t.Fatal(err)
	}
	if got, err := n.Image(ctx, img.ID); err != nil || slices.Contains(got.Names, "docker.io/library/short:1") {
		t.Errorf("image %+v, %v", got, err)
	}
	for range 2 {
		if err := n.RemoveImage(ctx, img.ID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.Image(ctx, "example.test/long:2"); !errors.Is(err, ErrImageNotFound) {
		t.Errorf("after removal: %v", err)
	}
	blob := strings.TrimPrefix(img.ID, "sha256:")
	if left, _ := filepath.Glob(filepath.Join(n.dir, "agent/containerd/root/io.containerd.content.v1.content/blobs/sha256", blob)); len(left) > 0 {
		t.Errorf("still on disk: %v", left)
	}
	for name, data := range map[string][]byte{"garbage": []byte("no archive at all"), "empty": nil, "cut": busyboxImage(t, testImage, nil)[:2000]} {
		if _, err := n.Import(ctx, bytes.NewReader(data)); err == nil {
			t.Errorf("%s was imported", name)
		}
	}
}

// testRegistry is a small one: it serves one image, and wants a token that it gives for a password.
type testRegistry struct {
	*httptest.Server
	mu       sync.Mutex
	blobs    map[string][]byte
	manifest imagespec.Descriptor
	user     string // "" lets everybody in
	asked    atomic.Int32
	secrets  []string // what clients sent as Authorization
}

func newRegistry(t *testing.T, user string, image []byte) *testRegistry {
	t.Helper()
	r := &testRegistry{user: user, blobs: make(map[string][]byte)}
	entries := untar(t, image)
	for name, data := range entries {
		if sum, ok := strings.CutPrefix(name, "blobs/sha256/"); ok {
			r.blobs["sha256:"+sum] = data
		}
	}
	var index imagespec.Index
	if err := json.Unmarshal(entries["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	r.manifest = index.Manifests[0]
	r.Server = httptest.NewTLSServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *testRegistry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	auth := req.Header.Get("Authorization")
	r.mu.Lock()
	if auth != "" {
		r.secrets = append(r.secrets, auth)
	}
	r.mu.Unlock()
	if req.URL.Path == "/token" {
		if auth != "Basic "+base64.StdEncoding.EncodeToString([]byte(r.user+":secret")) {
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, `{"token":"good"}`)
		return
	}
	if r.user != "" && auth != "Bearer good" {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test",scope="repository:app:pull"`, r.URL))
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	r.asked.Add(1)
	parts := strings.Split(req.URL.Path, "/")
	last := parts[len(parts)-1]
	switch {
	case strings.Contains(req.URL.Path, "/manifests/") && (last == "v1" || last == r.manifest.Digest.String()):
		w.Header().Set("Content-Type", r.manifest.MediaType)
		w.Header().Set("Docker-Content-Digest", r.manifest.Digest.String())
		w.Write(r.blobs[r.manifest.Digest.String()])
	case strings.Contains(req.URL.Path, "/blobs/") && r.blobs[last] != nil:
		w.Write(r.blobs[last])
	default:
		http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, http.StatusNotFound)
	}
}

// trust writes the hosts.toml by which the node knows a registry, or reaches it by a mirror.
func (n *node) trust(name string, server, via *testRegistry) {
	n.t.Helper()
	dir := filepath.Join(n.dir, "agent/registries", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		n.t.Fatal(err)
	}
	ca := filepath.Join(dir, "ca.crt")
	if err := os.WriteFile(ca, pemOf(via), 0o644); err != nil {
		n.t.Fatal(err)
	}
	text := fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = %q\n", server.URL, via.URL, ca)
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644); err != nil {
		n.t.Fatal(err)
	}
}

func TestPull(t *testing.T) {
	n := newNode(t)
	ctx := t.Context()
	image := busyboxImage(t, "ignored", nil)
	reg := newRegistry(t, "alice", image)
	host := strings.TrimPrefix(reg.URL, "https://")
	ref := host + "/app:v1"
	n.trust(host, reg, reg)
	if _, err := n.Pull(ctx, ref, nil, nil); err == nil {
		t.Error("pulled without a password")
	}
	if _, err := n.Pull(ctx, ref, []Credentials{{Username: "alice", Password: "wrong"}}, nil); err == nil {
		t.Error("pulled with a wrong password")
	}
	var last, total atomic.Int64
	img, err := n.Pull(ctx, ref, []Credentials{{Username: "bob", Password: "no"}, {Username: "alice", Password: "secret"}}, func(done, all int64) {
		last.Store(done)
		total.Store(all)
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(img.Names, ref) || last.Load() == 0 || last.Load() != total.Load() {
		t.Errorf("image %+v, progress %d of %d", img, last.Load(), total.Load())
	}
	if _, err := n.Pull(ctx, host+"/app:v2", []Credentials{{Username: "alice", Password: "secret"}}, nil); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("a tag that is not there: %v", err)
	}
	byDigest := host + "/app@" + reg.manifest.Digest.String()
	if got, err := n.Pull(ctx, byDigest, []Credentials{{Username: "alice", Password: "secret"}}, nil); err != nil || got.ID != img.ID {
		t.Errorf("by digest: %+v, %v", got, err)
	}
	pod := testPod("pulled")
	s := n.run(pod)
	cfg := n.script(s, pod, "main", "echo runs")
	cfg.Image = ref
	if text, c := n.output(s, pod, cfg); text != "runs\n" || c.ImageID != byDigest {
		t.Errorf("%q %+v", text, c)
	}
}

// TestMirror pulls from a mirror, which must not see the registry's password.
func TestMirror(t *testing.T) {
	n := newNode(t)
	image := busyboxImage(t, "ignored", nil)
	origin, mirror := newRegistry(t, "alice", image), newRegistry(t, "", image)
	n.trust("registry.test", origin, mirror)
	img, err := n.Pull(t.Context(), "registry.test/app:v1", []Credentials{{Username: "alice", Password: "secret"}}, nil)
	if err != nil || !slices.Contains(img.Names, "registry.test/app:v1") {
		t.Fatalf("%+v, %v", img, err)
	}
	if mirror.asked.Load() == 0 || origin.asked.Load() != 0 {
		t.Errorf("asked the mirror %d times, the registry %d times", mirror.asked.Load(), origin.asked.Load())
	}
	if len(mirror.secrets) > 0 {
		t.Errorf("the mirror got %v", mirror.secrets)
	}
}

// TestImagesOfAnotherProcess uses a node's images by its socket, as the command line does, beside pods that run.
func TestImagesOfAnotherProcess(t *testing.T) {
	n := newNode(t)
	if _, _, err := OpenImages(Config{DataDir: t.TempDir()}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("where nothing runs: %v", err)
	}
	images, stop, err := OpenImages(Config{DataDir: n.dir})
	if err != nil {
		t.Fatal(err)
	}
	imported, err := images.Import(t.Context(), bytes.NewReader(busyboxImage(t, testImage, nil)))
	if err != nil || len(imported) != 1 {
		t.Fatalf("%+v, %v", imported, err)
	}
	pod := testPod("beside")
	s := n.run(pod)
	if text, c := n.output(s, pod, n.script(s, pod, "main", "echo runs")); text != "runs\n" {
		t.Errorf("%q %+v", text, c)
	}
	reg := newRegistry(t, "", busyboxImage(t, "ignored", func(c *imagespec.ImageConfig) { c.User = "5" }))
	n.trust(strings.TrimPrefix(reg.URL, "https://"), reg, reg)
	pulled, err := images.Pull(t.Context(), strings.TrimPrefix(reg.URL, "https://")+"/app:v1", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if all, err := images.ListImages(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("images %+v, %v", all, err)
	}
	if _, err := n.Image(t.Context(), pulled.ID); err != nil {
		t.Error(err)
	}
	// What another process changed reaches the disk as well.
	good := filepath.Join(n.dir, "agent/containerd/root", metadataFile+goodSuffix)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if data, err := os.ReadFile(good); err == nil && bytes.Contains(data, []byte("/app:v1")) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the change was not kept")
		}
	}
	if err := images.RemoveImage(t.Context(), pulled.ID); err != nil {
		t.Error(err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
