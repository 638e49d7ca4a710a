// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/mini-k8s/mini/kubelet/downward"
)

// store is an Objects in memory.
type store struct {
	mu         sync.Mutex
	secrets    map[string]*corev1.Secret
	configMaps map[string]*corev1.ConfigMap
}

func (s *store) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.secrets[name]; o != nil {
		return o, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("secrets"), name)
}

func (s *store) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.configMaps[name]; o != nil {
		return o, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("configmaps"), name)
}

type rig struct {
	*Manager
	objects *store
	issued  int
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: volumes are mounts")
	}
	r := &rig{objects: &store{secrets: map[string]*corev1.Secret{}, configMaps: map[string]*corev1.ConfigMap{}}}
	cs := fake.NewClientset()
	cs.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
		req := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenRequest)
		r.issued++
		req = req.DeepCopy()
		req.Status.Token = "token-" + strings.Repeat("x", r.issued) + "-" + strings.Join(req.Spec.Audiences, ",")
		req.Status.ExpirationTimestamp = metav1.NewTime(time.Now().Add(time.Duration(*req.Spec.ExpirationSeconds) * time.Second))
		return true, req, nil
	})
	dir := t.TempDir()
	r.Manager = NewManager(Config{Dir: dir, Objects: r.objects, Tokens: NewTokens(cs), Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() {
		uids, err := r.Pods()
		if err != nil {
			t.Error(err)
		}
		for _, uid := range uids {
			if err := r.Teardown(uid); err != nil {
				t.Error(err)
			}
		}
		if left, err := mountsBelow(dir); err != nil || len(left) > 0 {
			t.Errorf("mounts left: %v, %v", left, err)
		}
	})
	return r
}

func podWith(vs ...corev1.Volume) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u1", Labels: map[string]string{"l": "v"}},
		Spec: corev1.PodSpec{Volumes: vs, Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}}}}}}
}

func vol(name string, s corev1.VolumeSource) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: s}
}

func isTmpfs(t *testing.T, dir string) bool {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return st.Type == unix.TMPFS_MAGIC && isMountPoint(dir)
}

func TestSetupOfEveryKind(t *testing.T) {
	r := newRig(t)
	yes := true
	m400 := int32(0o400)
	r.objects.secrets["s"] = &corev1.Secret{Data: map[string][]byte{"k": []byte("secret")}}
	r.objects.configMaps["cm"] = &corev1.ConfigMap{Data: map[string]string{"a": "1", "b": "2"}, BinaryData: map[string][]byte{"bin": {0, 1}}}
	size := resource.MustParse("1Mi")
	p := podWith(
		vol("empty", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}),
		vol("mem", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &size}}),
		vol("cm", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, Items: []corev1.KeyToPath{{Key: "a", Path: "x/y", Mode: &m400}}}}),
		vol("sec", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}),
		vol("none", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "absent", Optional: &yes}}),
		vol("down", corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
			{Path: "mem", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "c", Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}}}}}),
		vol("proj", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: "aud"}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}},
			{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "absent"}, Optional: &yes}}}}}))
	renew, err := r.Setup(t.Context(), p, downward.Facts{})
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Until(renew); d < 47*time.Minute || d > 48*time.Minute {
		t.Errorf("token to be renewed in %v, want 80 %% of an hour", d)
	}
	at := func(i int) string { return r.Path(p, &p.Spec.Volumes[i]) }
	for i, want := range map[string]string{
		filepath.Join(at(2), "x/y"): "1", filepath.Join(at(3), "k"): "secret", filepath.Join(at(5), "labels"): `l="v"`, filepath.Join(at(5), "mem"): "64",
		filepath.Join(at(6), "token"): "token-x-aud", filepath.Join(at(6), "bin"): "\x00\x01"} {
		if data, err := os.ReadFile(i); err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", filepath.Base(i), data, err)
		}
	}
	if st, err := os.Stat(filepath.Join(at(2), "x/y")); err != nil || st.Mode() != 0o400 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if st, err := os.Stat(at(0)); err != nil || st.Mode().Perm() != 0o777 {
		t.Errorf("emptyDir: %v, %v", st.Mode(), err)
	}
	for i, want := range []bool{false, true, false, true, true, true, true} {
		if isTmpfs(t, at(i)) != want {
			t.Errorf("volume %s: tmpfs %v", p.Spec.Volumes[i].Name, !want)
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(at(1), &st); err != nil || int64(st.Blocks)*st.Bsize != 1<<20 {
		t.Errorf("memory volume has %d bytes, %v", int64(st.Blocks)*st.Bsize, err)
	}
	// Again: nothing changes, no second mount, the pod's own data stays.
	if err := os.WriteFile(filepath.Join(at(0), "data"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	mounts, _ := mountsBelow(r.PodDir(p.UID))
	if _, err := r.Setup(t.Context(), p, downward.Facts{}); err != nil {
		t.Fatal(err)
	}
	if now, _ := mountsBelow(r.PodDir(p.UID)); len(now) != len(mounts) {
		t.Errorf("mounts %v, were %v", now, mounts)
	}
	if _, err := os.Stat(filepath.Join(at(0), "data")); err != nil || r.issued != 1 {
		t.Errorf("%v; %d tokens", err, r.issued)
	}
	if err := r.Teardown(p.UID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.PodDir(p.UID)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("directory left")
	}
	if err := r.Teardown(p.UID); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func TestMissingObjects(t *testing.T) {
	r := newRig(t)
	yes := true
	r.objects.configMaps["cm"] = &corev1.ConfigMap{Data: map[string]string{"a": "1"}}
	for want, v := range map[string]corev1.VolumeSource{
		`MountVolume.SetUp failed for volume "v" : secrets "x" not found`:                                   {Secret: &corev1.SecretVolumeSource{SecretName: "x"}},
		`MountVolume.SetUp failed for volume "v" : configmap references non-existent configmap key: absent`: {ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, Items: []corev1.KeyToPath{{Key: "absent", Path: "p"}}}},
	} {
		if _, err := r.Setup(t.Context(), podWith(vol("v", v)), downward.Facts{}); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	ok := podWith(vol("v", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, Optional: &yes, Items: []corev1.KeyToPath{{Key: "absent", Path: "p"}}}}))
	if _, err := r.Setup(t.Context(), ok, downward.Facts{}); err != nil {
		t.Error(err)
	}
}

func TestFSGroup(t *testing.T) {
	r := newRig(t)
	gid := int64(4321)
	r.objects.secrets["s"] = &corev1.Secret{Data: map[string][]byte{"k": []byte("v")}}
	p := podWith(vol("e", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}), vol("s", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}),
		vol("t", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}}}}))
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &gid}
	if _, err := r.Setup(t.Context(), p, downward.Facts{}); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]fs.FileMode{r.Path(p, &p.Spec.Volumes[0]): fs.ModeDir | fs.ModeSetgid | 0o777, filepath.Join(r.Path(p, &p.Spec.Volumes[1]), "k"): 0o644,
		filepath.Join(r.Path(p, &p.Spec.Volumes[2]), "token"): 0o640} {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil || int64(st.Gid) != gid {
			t.Errorf("%s: gid %d, %v", path, st.Gid, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: mode %v, want %v", path, info.Mode(), mode)
		}
	}
}

func TestHostPathTypes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path string
		kind corev1.HostPathType
		ok   bool
	}{
		{dir, corev1.HostPathDirectory, true}, {file, corev1.HostPathDirectory, false}, {dir + "/no", corev1.HostPathDirectory, false},
		{dir + "/new", corev1.HostPathDirectoryOrCreate, true}, {file, corev1.HostPathDirectoryOrCreate, false},
		{file, corev1.HostPathFile, true}, {dir, corev1.HostPathFile, false}, {dir + "/newfile", corev1.HostPathFileOrCreate, true},
		{"/dev/null", corev1.HostPathCharDev, true}, {file, corev1.HostPathCharDev, false}, {file, corev1.HostPathBlockDev, false}, {file, corev1.HostPathSocket, false},
		{dir + "/anything", corev1.HostPathUnset, true}, {dir, "Nonsense", false},
	} {
		if err := hostPath(&corev1.HostPathVolumeSource{Path: tt.path, Type: &tt.kind}); (err == nil) != tt.ok {
			t.Errorf("%s as %q: %v", tt.path, tt.kind, err)
		}
	}
}

func TestTokenRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := podWith()
		first, err := r.cfg.Tokens.token(t.Context(), p, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(first.renew) - time.Second)
		if same, _ := r.cfg.Tokens.token(t.Context(), p, "", nil); same.value != first.value {
			t.Error("renewed early")
		}
		time.Sleep(2 * time.Second)
		if next, _ := r.cfg.Tokens.token(t.Context(), p, "", nil); next.value == first.value {
			t.Error("not renewed")
		}
		r.cfg.Tokens.forget(p.UID)
		if len(r.cfg.Tokens.cache) != 0 {
			t.Error("token kept after its pod")
		}
	})
}

func noExpand(s string) (string, error) { return s, nil }

func TestSubPath(t *testing.T) {
	r := newRig(t)
	p := podWith(vol("e", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}))
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "e", MountPath: "/a", SubPath: "x/y"}, {Name: "e", MountPath: "/b"}, {Name: "e", MountPath: "/c", SubPathExpr: "$(V)"}}
	if _, err := r.Setup(t.Context(), p, downward.Facts{}); err != nil {
		t.Fatal(err)
	}
	ms, err := r.Mounts(p, &p.Spec.Containers[0], func(string) (string, error) { return "expanded", nil })
	if err != nil {
		t.Fatal(err)
	}
	root := r.Path(p, &p.Spec.Volumes[0])
	if err := os.WriteFile(filepath.Join(ms[0].HostPath, "f"), []byte("v"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(root, "x/y/f")); err != nil || string(data) != "v" {
		t.Errorf("%q, %v", data, err)
	}
	if ms[1].HostPath != root {
		t.Errorf("whole volume at %s", ms[1].HostPath)
	}
	if _, err := os.Stat(filepath.Join(root, "expanded")); err != nil {
		t.Error(err)
	}
	// A restart of the container finds its mounts.
	again, err := r.Mounts(p, &p.Spec.Containers[0], func(string) (string, error) { return "expanded", nil })
	if err != nil || again[0] != ms[0] {
		t.Errorf("%v, %v", again, err)
	}
	for _, bad := range []string{"/abs", "../x", "a/../../b", ".."} {
		c := corev1.Container{Name: "bad", VolumeMounts: []corev1.VolumeMount{{Name: "e", MountPath: "/a", SubPath: bad}}}
		if _, err := r.Mounts(p, &c, noExpand); err == nil {
			t.Errorf("subPath %q was accepted", bad)
		}
	}
}

// TestSubPathAttack: links that a container leaves in its volume must not lead the node outside it.
func TestSubPathAttack(t *testing.T) {
	r := newRig(t)
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("node"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := podWith(vol("e", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}))
	if _, err := r.Setup(t.Context(), p, downward.Facts{}); err != nil {
		t.Fatal(err)
	}
	root := r.Path(p, &p.Spec.Volumes[0])
	up := strings.Repeat("../", 40)
	for name, target := range map[string]string{"abs": outside, "rel": up + outside, "deep": up + "etc", "etc": "/etc", "proc": "/proc/self/root" + outside, "file": filepath.Join(outside, "secret")} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, sub := range []string{"abs", "rel", "deep", "etc", "proc", "file", "abs/secret", "rel/secret", "abs/new/dir"} {
		c := corev1.Container{Name: strings.ReplaceAll(sub, "/", "-"), VolumeMounts: []corev1.VolumeMount{{Name: "e", MountPath: "/a", SubPath: sub}}}
		ms, err := r.Mounts(p, &c, noExpand)
		if err != nil {
			continue // refused is fine
		}
		if data, err := os.ReadFile(ms[0].HostPath); err == nil && string(data) == "node" {
			t.Errorf("subPath %s shows the node's file", sub)
		}
		if _, err := os.Stat(filepath.Join(ms[0].HostPath, "secret")); err == nil {
			t.Errorf("subPath %s shows the node's directory", sub)
		}
		if _, err := os.Stat(filepath.Join(ms[0].HostPath, "passwd")); err == nil {
			t.Errorf("subPath %s shows /etc", sub)
		}
	}
	if left, _ := os.ReadDir(outside); len(left) != 1 {
		t.Errorf("something was made outside: %v", left)
	}
}

// TestSubPathRace swaps a directory for a link while it is being resolved.
func TestSubPathRace(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "marker"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		d := filepath.Join(root, "d")
		for {
			select {
			case <-stop:
				return
			default:
			}
			os.Mkdir(d, 0o755)
			os.RemoveAll(d)
			os.Symlink(outside, d)
			os.Remove(d)
		}
	})
	for range 3000 {
		fd, err := openSubPath(root, "d/e")
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Fstatat(fd, "../marker", &st, 0) == nil {
			t.Error("led outside")
		}
		unix.Close(fd)
	}
	close(stop)
	wg.Wait()
	if left, _ := os.ReadDir(outside); len(left) != 1 {
		t.Errorf("something was made outside: %v", left)
	}
}

func TestTeardownRefusesOtherPaths(t *testing.T) {
	r := newRig(t)
	if err := r.Teardown("../x"); err == nil {
		t.Error("a uid that is a path was accepted")
	}
}

func FuzzMountPoint(f *testing.F) {
	f.Add(`25 30 0:23 / /a\040b rw,nosuid shared:7 - tmpfs tmpfs rw`)
	f.Fuzz(func(t *testing.T, line string) { mountPoint(line) })
}
