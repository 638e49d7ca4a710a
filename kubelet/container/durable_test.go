// SPDX-License-Identifier: Apache-2.0

package container

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPowerFailure damages the databases as a power failure may, lets the next start believe in a reboot, and looks for
// the images.
func TestPowerFailure(t *testing.T) {
	root := func(n *node) string { return filepath.Join(n.dir, "agent/containerd/root") }
	garble := func(t *testing.T, path string) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(1, 2))
		for i := 8192; i < len(data); i++ { // behind the two first pages, which have checksums
			data[i] = byte(rng.Uint32())
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, damage := range map[string]func(t *testing.T, n *node){
		"metadata_garbled":  func(t *testing.T, n *node) { garble(t, filepath.Join(root(n), metadataFile)) },
		"snapshots_garbled": func(t *testing.T, n *node) { garble(t, filepath.Join(root(n), overlayFile)) },
		"metadata_cut":      func(t *testing.T, n *node) { cut(t, filepath.Join(root(n), metadataFile)) },
		"nothing":           func(*testing.T, *node) {},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.importImage(testImage, nil)
			want, err := n.ListImages(t.Context())
			if err != nil || len(want) != 1 {
				t.Fatal(want, err)
			}
			pod := testPod("before")
			s := n.run(pod)
			before, err := n.CreateContainer(t.Context(), n.script(s, pod, "main", ""))
			if err != nil {
				t.Fatal(err)
			}
			if name == "nothing" {
				if err := n.RemoveSandbox(t.Context(), s.ID); err != nil {
					t.Fatal(err)
				}
			} else if err := n.StopSandbox(t.Context(), s.ID); err != nil { // what runs ends with the power
				t.Fatal(err)
			}
			n.stop()
			if err := os.WriteFile(filepath.Join(root(n), bootFile), []byte("the boot before"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := unmountState(filepath.Join(n.dir, "agent/containerd/state")); err != nil {
				t.Fatal(err)
			}
			damage(t, n)
			n.start()
			got, err := n.ListImages(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			_, containers, err := n.List(t.Context())
			if err != nil || len(containers) != 0 {
				t.Errorf("containers %v (%s), %v", containers, before.ID, err)
			}
			pod = testPod("after")
			if text, c := n.output(n.run(pod), pod, n.script(n.run(pod), pod, "main", "echo runs")); text != "runs\n" {
				t.Errorf("%q %+v", text, c)
			}
		})
	}
}

func cut(t *testing.T, path string) {
	if err := os.Truncate(path, 10000); err != nil {
		t.Fatal(err)
	}
}

// TestStartsEmptyWithoutCopies has nothing to restore: the node starts, and says so.
func TestStartsEmptyWithoutCopies(t *testing.T) {
	n := newNode(t)
	n.stop()
	db := filepath.Join(n.dir, "agent/containerd/root", metadataFile)
	if err := os.WriteFile(db, []byte("not a database, and long enough to look at"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(n.dir, "agent/containerd/root", bootFile)); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.importImage(testImage, nil)
	if images, err := n.ListImages(t.Context()); err != nil || len(images) != 1 {
		t.Errorf("images %v, %v", images, err)
	}
}
