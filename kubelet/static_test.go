// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"
)

const manifest = `apiVersion: v1
kind: Pod
metadata: {name: web, labels: {tier: node}}
spec:
  restartPolicy: Always
  terminationGracePeriodSeconds: 5
  containers: [{name: c, image: "app:1"}]
`

// uids gives objects that the API would give a uid one.
func uids(r *rig) {
	n := 0
	r.cs.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		pod := a.(clienttesting.CreateAction).GetObject().(*corev1.Pod)
		if pod.UID == "" {
			n++
			pod.UID = types.UID("api-" + string(rune('a'+n)))
		}
		return false, nil, nil
	})
}

func TestStaticPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		uids(r)
		r.run()
		dir := t.TempDir()
		file := filepath.Join(dir, "web.yaml")
		r.k.cfg.ManifestPath = dir // the folder's watch would keep the bubble's time from passing
		write := func(text string) {
			t.Helper()
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			r.k.readManifests()
			synctest.Wait()
		}
		after(time.Second)
		write(manifest)
		after(time.Second)
		p := r.get("web-n1")
		hash := p.Annotations[annotationConfigHash]
		if p.Status.Phase != corev1.PodRunning || !isMirror(p) || hash == "" || hash != p.Annotations[annotationConfigMirror] || p.Annotations[annotationConfigSource] != "file" {
			t.Fatalf("mirror %+v", p)
		}
		if len(p.OwnerReferences) != 1 || p.OwnerReferences[0].Kind != "Node" || p.OwnerReferences[0].Name != "n1" {
			t.Errorf("owners %+v", p.OwnerReferences)
		}
		first := r.container("web-n1", "c")
		if first.Pod.UID != hash {
			t.Errorf("the container belongs to uid %s, want %s", first.Pod.UID, hash)
		}
		if r.k.findPod("default", "web-n1", p.UID) == nil {
			t.Error("not found by the uid that the API shows")
		}

		// Somebody deletes the mirror: it comes back, and the container does not notice.
		if err := r.cs.CoreV1().Pods("default").Delete(context.Background(), "web-n1", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		after(time.Second)
		if p = r.get("web-n1"); p.Status.Phase != corev1.PodRunning || r.container("web-n1", "c").ID != first.ID {
			t.Errorf("after deletion: %+v", p.Status)
		}

		// A change of the file replaces the pod: the old one ends before the new one starts.
		write(strings.Replace(manifest, "app:1", "app:2", 1))
		after(10 * time.Second)
		second := r.container("web-n1", "c")
		if p = r.get("web-n1"); second.ID == first.ID || p.Annotations[annotationConfigHash] == hash || p.Status.Phase != corev1.PodRunning {
			t.Errorf("after the change: %s, %+v", second.ID, p)
		}
		if sb, _, _ := r.rt.List(context.Background()); len(sb) != 1 {
			t.Errorf("%d sandboxes", len(sb))
		}

		// What is no pod ends what was there.
		write("kind: Nonsense\n")
		after(10 * time.Second)
		if sb, cs, _ := r.rt.List(context.Background()); len(sb)+len(cs) != 0 || r.exists("web-n1") {
			t.Errorf("left: %v %v", sb, cs)
		}
		r.k.mu.Lock()
		defer r.k.mu.Unlock()
		if len(r.k.pods)+len(r.k.static)+len(r.k.again) != 0 {
			t.Errorf("left: %v %v %v", r.k.pods, r.k.static, r.k.again)
		}
	})
}

// TestStaticPodWithoutAPI runs a static pod while the API server does not answer, and shows it once it does.
func TestStaticPodWithoutAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		uids(r)
		var down atomic.Bool
		down.Store(true)
		r.cs.PrependReactor("*", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			return down.Load(), nil, errors.New("connection refused")
		})
		r.run()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "web.yaml"), []byte(manifest), 0o644); err != nil {
			t.Fatal(err)
		}
		r.k.cfg.ManifestPath = dir
		r.k.readManifests()
		after(time.Second)
		if _, ok := r.rt.Find("web-n1", "c"); ok {
			t.Fatal("started before the API had time to answer")
		}
		r.k.beginStatic()
		after(time.Second)
		c := r.container("web-n1", "c")
		down.Store(false)
		after(time.Minute)
		if p := r.get("web-n1"); p.Status.Phase != corev1.PodRunning || r.container("web-n1", "c").ID != c.ID {
			t.Errorf("mirror %+v", p.Status)
		}
	})
}

func TestStaticPodRefused(t *testing.T) {
	for name, text := range map[string]string{
		"not_yaml":       "{",
		"another_kind":   "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n",
		"no_name":        "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: c, image: i}]}\n",
		"no_containers":  "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n",
		"no_image":       "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c}]}\n",
		"secret":         "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: i}], volumes: [{name: v, secret: {secretName: s}}]}\n",
		"claim":          "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: i}], volumes: [{name: v, persistentVolumeClaim: {claimName: s}}]}\n",
		"token":          "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: i}], volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t}}]}}]}\n",
		"serviceaccount": "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {serviceAccountName: s, containers: [{name: c, image: i}]}\n",
		"uid_is_a_path":  "apiVersion: v1\nkind: Pod\nmetadata: {name: p, uid: ../x}\nspec: {containers: [{name: c, image: i}]}\n",
	} {
		t.Run(name, func(t *testing.T) {
			if pod, err := staticPod([]byte(text), "/f", "n1"); err == nil {
				t.Errorf("accepted: %+v", pod)
			}
		})
	}
}

// TestManifestFolder follows a real folder.
func TestManifestFolder(t *testing.T) {
	r := newRig(t)
	uids(r)
	dir := t.TempDir()
	r.cfg.ManifestPath = dir
	k, err := New(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	wait := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s; calls %q", what, r.rt.Calls())
			}
		}
	}
	tmp := filepath.Join(t.TempDir(), "web.yaml")
	if err := os.WriteFile(tmp, []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, "web.yaml")); err != nil {
		t.Fatal(err)
	}
	wait("not started", func() bool { _, ok := r.rt.Find("web-n1", "c"); return ok })
	wait("no mirror", func() bool { return r.exists("web-n1") && r.get("web-n1").Status.Phase == corev1.PodRunning })
	if err := os.Remove(filepath.Join(dir, "web.yaml")); err != nil {
		t.Fatal(err)
	}
	wait("still there", func() bool { return !r.exists("web-n1") })
}
